#include "bind_drift.h"

#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#ifdef __linux__
#include <sys/mman.h>
#endif

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "drift_job.h"
#include "job.h"

namespace nb = nanobind;

namespace gaussreg {
namespace {

using Addresses = std::vector<std::uintptr_t>;

DriftTask task_of(const std::string& name) {
  static const std::pair<const char*, DriftTask> tasks[] = {{"value", DriftTask::kValue},
                                                            {"gradient", DriftTask::kGradient},
                                                            {"accumulate", DriftTask::kAccumulate},
                                                            {"decay", DriftTask::kDecay}};
  for (const auto& [known, task] : tasks)
    if (name == known) return task;
  throw std::invalid_argument("unknown task " + name);
}

Number number_of(int code) {
  if (code < 0 || code > 3) throw std::invalid_argument("unknown type of numbers");
  return static_cast<Number>(code);
}

// Threads with some half a millisecond of work each. Python takes longer than that over the lists of
// smaller models, and on a busy machine another thread costs a time slice, many times what it saves.
int useful_threads(std::int64_t numbers, int threads) {
  constexpr std::int64_t kGrain = 1 << 20;
  const std::int64_t pieces = numbers / kGrain;
  return static_cast<int>(std::clamp<std::int64_t>(pieces, 1, std::clamp(threads, 1, kMaxTeam)));
}

// Bytes that a call reads and writes, from which on no cache holds them until they are used again.
constexpr std::int64_t kStreamed = 128 << 20;

int bytes_of(Number type) {
  return type == Number::kNone ? 0 : type == Number::kFloat ? 4 : 2;
}

// New memory of a large gradient comes in huge pages where the system leaves that to programs
// (`madvise`), of those that lie in it as a whole: a fault for each 4 KB takes many times as long as
// the gradient itself. Advice alone: where it is not taken nothing is lost, and no page is touched.
void ask_for_huge_pages(const DriftTensor& t) {
#ifdef __linux__
  constexpr std::uintptr_t kHuge = 2 << 20;
  const auto begin = reinterpret_cast<std::uintptr_t>(t.grad);
  const std::uintptr_t first = (begin + kHuge - 1) / kHuge * kHuge;
  const std::uintptr_t last = (begin + t.size * bytes_of(t.theta_type)) / kHuge * kHuge;
  if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#else
  (void)t;
#endif
}

// `types` holds 4 theta's type + base's type. Returns the value.
double drift(const std::string& task, const Addresses& theta, const Addresses& base,
             const Addresses& grad, const std::vector<std::int64_t>& sizes,
             const std::vector<int>& types, const std::vector<double>& scales,
             double step, int threads, std::int64_t streamed) {
  const std::size_t count = theta.size();
  DriftJob job{task_of(task), nullptr, static_cast<std::int64_t>(count), 0, nullptr};
  const bool writes = job.task == DriftTask::kGradient || job.task == DriftTask::kAccumulate;
  for (const std::size_t n :
       {base.size(), sizes.size(), types.size(), scales.size(), writes ? grad.size() : count})
    if (n != count) throw std::invalid_argument("lists must be of one length");
  std::vector<DriftTensor> tensors(count);
  std::int64_t chunks = 0, bytes = 0;
  for (std::size_t i = 0; i < count; ++i) {
    const Number base_type = number_of(types[i] % 4), theta_type = number_of(types[i] / 4);
    if (sizes[i] < 0 || theta_type == Number::kNone)
      throw std::invalid_argument("sizes must not be negative, tensors must have a type");
    if (sizes[i] && (!theta[i] || (writes && !grad[i]) || (base_type != Number::kNone && !base[i])))
      throw std::invalid_argument("addresses must not be 0");
    tensors[i] = {reinterpret_cast<void*>(theta[i]),
                  reinterpret_cast<const void*>(base[i]),
                  writes ? reinterpret_cast<void*>(grad[i]) : nullptr,
                  sizes[i],
                  scales[i],
                  static_cast<float>(scales[i] * step),
                  theta_type,
                  base_type};
    job.total += sizes[i];
    bytes += sizes[i] * (2 * bytes_of(theta_type) + bytes_of(base_type));
    chunks += (sizes[i] + kDriftChunk - 1) / kDriftChunk;
  }
  if (job.task == DriftTask::kGradient) {
    for (const DriftTensor& t : tensors) ask_for_huge_pages(t);
    if (bytes >= streamed) job.task = DriftTask::kStream;
  }
  std::vector<double> partials(chunks);
  job.tensors = tensors.data();
  job.partials = partials.data();
  const Kernels& k = kernels();
  parallel(useful_threads(job.total, threads),
           [&](const Team& team) { k.drift(job, team); });
  double value = 0;
  for (const double part : partials) value += part;
  return value;
}

}  // namespace

void bind_drift(nb::module_& m) {
  m.def("drift", &drift, nb::arg("task"), nb::arg("theta"), nb::arg("base"), nb::arg("grad"),
        nb::arg("sizes"), nb::arg("types"), nb::arg("scales"), nb::arg("step"),
        nb::arg("threads"), nb::arg("streamed") = kStreamed,
        nb::call_guard<nb::gil_scoped_release>(),
        "Parameter drift over lists of tensors: its value; gradients are written.");
}

}  // namespace gaussreg
