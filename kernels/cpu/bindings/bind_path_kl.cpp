#include "bind_path_kl.h"

#include <algorithm>
#include <cstdint>
#include <memory>

#include "job.h"

namespace nb = nanobind;

namespace gaussreg {
namespace {

using Address = std::uintptr_t;

void path_kl(std::int64_t steps, std::int64_t batch, std::int64_t size, Address dmu, Address sigma,
             Address upstream, Address kl, Address costs, Address grad, bool per_sample,
             int threads) {
  constexpr std::int64_t kGrain = 32768;  // elements that are worth waking a thread for
  const std::int64_t parts = steps * batch * ((size + kPathPart - 1) / kPathPart);
  const std::unique_ptr<double[]> partials(kl ? new double[parts] : nullptr);
  const PathKLJob job{steps,
                    batch,
                    size,
                    reinterpret_cast<const float*>(dmu),
                    reinterpret_cast<const float*>(sigma),
                    per_sample,
                    reinterpret_cast<const float*>(upstream),
                    reinterpret_cast<float*>(kl),
                    reinterpret_cast<float*>(costs),
                    reinterpret_cast<float*>(grad),
                    partials.get()};
  const std::int64_t useful = std::max<std::int64_t>(1, steps * batch * size / kGrain);
  const int most = std::min(threads, kMaxTeam);
  const Kernels& k = kernels();  // here, because it may throw, and a thread of the team must not
  parallel(static_cast<int>(std::min<std::int64_t>(most, useful)),
           [&](const Team& team) { k.path_kl(job, team); });
}

}  // namespace

void bind_path_kl(nb::module_& m) {
  m.def("path_kl", &path_kl, nb::arg("steps"), nb::arg("batch"), nb::arg("size"), nb::kw_only(),
        nb::arg("dmu"), nb::arg("sigma"), nb::arg("upstream"), nb::arg("kl"), nb::arg("costs"),
        nb::arg("grad"), nb::arg("per_sample"), nb::arg("threads"),
        nb::call_guard<nb::gil_scoped_release>(),
        "Path KL and its terms (unless kl is 0), its gradient (unless grad is 0), or both.");
}

}  // namespace gaussreg
