#include "bind_drift.h"

#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

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

// `types` holds 4 theta's type + base's type. Returns the value.
double drift(const std::string& task, const Addresses& theta, const Addresses& base,
             const Addresses& grad, const std::vector<std::int64_t>& sizes,
             const std::vector<int>& types, const std::vector<double>& scales,
             double step, int threads) {
  const std::size_t count = theta.size();
  DriftJob job{task_of(task), nullptr, static_cast<std::int64_t>(count), 0, nullptr};
  const bool writes = job.task == DriftTask::kGradient || job.task == DriftTask::kAccumulate;
  for (const std::size_t n :
       {base.size(), sizes.size(), types.size(), scales.size(), writes ? grad.size() : count})
    if (n != count) throw std::invalid_argument("lists must be of one length");
  std::vector<DriftTensor> tensors(count);
  std::int64_t chunks = 0;
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
    chunks += (sizes[i] + kDriftChunk - 1) / kDriftChunk;
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
        nb::arg("threads"), nb::call_guard<nb::gil_scoped_release>(),
        "Parameter drift over lists of tensors: its value; gradients are written.");
}

}  // namespace gaussreg
