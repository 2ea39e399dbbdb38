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
#include "named.h"
#include "tensors.h"

namespace nb = nanobind;

namespace gaussreg {
namespace {

using Addresses = std::vector<std::uintptr_t>;

DriftTask drift_task_of(const std::string& name) {
  static const std::pair<const char*, DriftTask> tasks[] = {{"value", DriftTask::kValue},
                                                            {"gradient", DriftTask::kGradient},
                                                            {"accumulate", DriftTask::kAccumulate}};
  return named(tasks, "task", name);
}

Number number_of(int code) {
  if (code < 0 || code > 3) throw std::invalid_argument("unknown type of numbers");
  return static_cast<Number>(code);
}

// The number of threads that have some half a millisecond of work each. For lists with less work
// Python's own loop takes longer, and on a busy machine another thread costs a time slice, many
// times the time that it saves.
int drift_threads(std::int64_t numbers, int threads) {
  constexpr std::int64_t kGrain = 1 << 20;
  const std::int64_t pieces = numbers / kGrain;
  return static_cast<int>(std::clamp<std::int64_t>(pieces, 1, std::clamp(threads, 1, kMaxTeam)));
}

// A call that reads and writes at least so many bytes streams its gradients past the caches,
// because no cache would hold them until they are used again.
constexpr std::int64_t kStreamed = 128 << 20;

// Asks for huge pages, as many as fit as a whole into a gradient's memory, if the system leaves the
// choice to programs (`madvise`): a page fault for each 4 KB of new memory takes many times as long
// as the gradient. It is only advice: a system that ignores it changes nothing, and no page is
// touched.
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

bool writes(DriftTask task) {
  return task == DriftTask::kGradient || task == DriftTask::kAccumulate;
}

DriftTensor row(Numbers theta, const Numbers* base, void* grad, double scale, double step) {
  if (theta.size && (!theta.data || (base && !base->data)))
    throw std::invalid_argument("addresses must not be 0");
  return {theta.data, base ? base->data : nullptr,
          grad,       theta.size,
          scale,      static_cast<float>(scale * step),
          theta.type, base ? base->type : Number::kNone};
}

// Runs the task and returns the value.
double run(DriftTask task, const std::vector<DriftTensor>& tensors, int threads,
           std::int64_t streamed) {
  std::int64_t total = 0, chunks = 0, bytes = 0;
  for (const DriftTensor& t : tensors) {
    if (t.size && writes(task) && !t.grad) throw std::invalid_argument("addresses must not be 0");
    total += t.size;
    bytes += t.size * (2 * bytes_of(t.theta_type) + bytes_of(t.base_type));
    chunks += (t.size + kDriftChunk - 1) / kDriftChunk;
  }
  if (task == DriftTask::kGradient) {
    for (const DriftTensor& t : tensors) ask_for_huge_pages(t);
    if (bytes >= streamed) task = DriftTask::kStream;
  }
  std::vector<double> partials(chunks);
  const DriftJob job{task, tensors.data(), static_cast<std::int64_t>(tensors.size()), total,
                     partials.data()};
  const Kernels& k = kernels();
  parallel(drift_threads(total, threads), [&](const Team& team) { k.drift(job, team); });
  double value = 0;
  for (const double part : partials) value += part;
  return value;
}

// Drift over addresses. All lists have one length; only `grad` may be empty, if the task writes
// none.
double drift(const std::string& name, const Addresses& theta, const Addresses& base,
             const Addresses& grad, const std::vector<std::int64_t>& sizes,
             const std::vector<int>& theta_types, const std::vector<int>& base_types,
             const std::vector<double>& scales, double step, int threads, std::int64_t streamed) {
  const std::size_t count = theta.size();
  const DriftTask task = drift_task_of(name);
  for (const std::size_t n : {base.size(), sizes.size(), theta_types.size(), base_types.size(),
                              scales.size(), writes(task) ? grad.size() : count})
    if (n != count) throw std::invalid_argument("lists must be of one length");
  std::vector<DriftTensor> tensors(count);
  for (std::size_t i = 0; i < count; ++i) {
    const Number type = number_of(theta_types[i]), base_type = number_of(base_types[i]);
    if (sizes[i] < 0 || type == Number::kNone)
      throw std::invalid_argument("sizes must not be negative, tensors must have a type");
    const Numbers p{reinterpret_cast<void*>(theta[i]), sizes[i], type, 0, nullptr};
    const Numbers b{reinterpret_cast<void*>(base[i]), sizes[i], base_type, 0, nullptr};
    void* g = writes(task) ? reinterpret_cast<void*>(grad[i]) : nullptr;
    tensors[i] = row(p, base_type == Number::kNone ? nullptr : &b, g, scales[i], step);
  }
  return run(task, tensors, threads, streamed);
}

// Drift over tensors; an empty `base` stands for zeros. Returns None if `TensorReader` cannot read
// a tensor, if a base or a gradient is not of its parameter's shape, or if a gradient is not of its
// parameter's type.
nb::object drift_tensors(nb::handle exchange, nb::tuple types, const std::string& name,
                         nb::list theta, nb::list base, nb::list grad,
                         const std::vector<double>& scales, double step, int threads,
                         std::int64_t streamed) {
  const TensorReader reader(exchange, types);
  const DriftTask task = drift_task_of(name);
  const std::size_t count = theta.size();
  for (const std::size_t n :
       {base.size() ? base.size() : count, scales.size(), writes(task) ? grad.size() : count})
    if (n != count) throw std::invalid_argument("lists must be of one length");
  std::vector<DriftTensor> tensors(count);
  for (std::size_t i = 0; i < count; ++i) {
    Numbers p, b, g{};
    if (!reader.read(theta[i], p)) return nb::none();
    if (base.size() && !(reader.read(base[i], b) && p.same_shape(b))) return nb::none();
    if (writes(task) && !(reader.read(grad[i], g) && p.same_shape(g) && p.type == g.type))
      return nb::none();
    tensors[i] = row(p, base.size() ? &b : nullptr, g.data, scales[i], step);
  }
  double value;
  {
    nb::gil_scoped_release released;
    value = run(task, tensors, threads, streamed);
  }
  return nb::float_(value);
}

// Whether `drift_tensors` takes the lists.
bool fit(nb::handle exchange, nb::tuple types, nb::list theta, nb::list base) {
  const TensorReader reader(exchange, types);
  if (base.size() && base.size() != theta.size()) return false;
  for (std::size_t i = 0; i < theta.size(); ++i) {
    Numbers p, b;
    if (!reader.read(theta[i], p)) return false;
    if (base.size() && !(reader.read(base[i], b) && p.same_shape(b))) return false;
  }
  return true;
}

}  // namespace

void bind_drift(nb::module_& m) {
  m.def("drift", &drift, nb::arg("task"), nb::arg("theta"), nb::arg("base"), nb::arg("grad"),
        nb::arg("sizes"), nb::arg("theta_types"), nb::arg("base_types"), nb::arg("scales"),
        nb::arg("step"), nb::arg("threads"), nb::arg("streamed") = kStreamed,
        nb::call_guard<nb::gil_scoped_release>(),
        "Parameter drift over lists of addresses: its value; gradients are written.");
  m.def("drift_tensors", &drift_tensors, nb::arg("exchange"), nb::arg("types"), nb::arg("task"),
        nb::arg("theta"), nb::arg("base"), nb::arg("grad"), nb::arg("scales"), nb::arg("step"),
        nb::arg("threads"), nb::arg("streamed") = kStreamed,
        "The same over lists of tensors, or None where one of them does not fit.");
  m.def("fit", &fit, nb::arg("exchange"), nb::arg("types"), nb::arg("theta"), nb::arg("base"),
        "Whether drift_tensors takes such lists.");
}

}  // namespace gaussreg
