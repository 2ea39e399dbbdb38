#include <cstdlib>
#include <stdexcept>
#include <string>
#ifdef GAUSSREG_X86
#include <cpuid.h>
#endif

#include "job.h"

namespace gaussreg {

// The tables that kernels.cpp defines, one object file each.
#ifdef GAUSSREG_X86
namespace avx512 {
extern const Kernels table;
}
namespace avx2 {
extern const Kernels table;
}
#endif
namespace portable {
extern const Kernels table;
}

namespace {

struct Candidate {
  const Kernels* kernels;
  bool runs;
};

#ifdef GAUSSREG_X86
// GCC 10 does not know the name of this feature, conversions of float16.
bool has_f16c() {
  unsigned eax, ebx, ecx, edx;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) && ecx & bit_F16C;
}
#endif

const Kernels& choose() {
  const Candidate candidates[] = {
#ifdef GAUSSREG_X86
      {&avx512::table, __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw")},
      {&avx2::table, __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c()},
#endif
      {&portable::table, true},
  };
  const char* wanted = std::getenv("GAUSSREG_FAST_ISA");
  std::string able;
  for (const Candidate& c : candidates) {
    if (!c.runs) continue;
    if (!wanted || !*wanted || c.kernels->name == std::string(wanted)) return *c.kernels;
    able += (able.empty() ? "" : ", ") + std::string(c.kernels->name);
  }
  throw std::runtime_error("GAUSSREG_FAST_ISA=" + std::string(wanted) +
                           " cannot run on this processor; these can: " + able);
}

}  // namespace

const Kernels& kernels() {
  static const Kernels& chosen = choose();
  return chosen;
}

bool stores_slowly() {
  static const bool slow = [] {
    const char* wanted = std::getenv("GAUSSREG_FAST_STORES");
    const std::string name = wanted ? wanted : "";
    if (name == "slow" || name == "fast") return name == "slow";
    if (!name.empty())
      throw std::runtime_error("GAUSSREG_FAST_STORES must be slow or fast, got " + name);
    // Measured by the stages "bare gather" and "bare scatter" at 16384, 65536 and 262144 numbers:
    // Intel with AVX-512 1.9, 1.8 and 2.0 times as long, AMD Zen 5 1.2, 1.4 and 1.0 times. A whole call
    // on Intel was not measured with this choice.
#ifdef GAUSSREG_X86
    return static_cast<bool>(__builtin_cpu_is("intel"));
#else
    return false;
#endif
  }();
  return slow;
}

}  // namespace gaussreg
