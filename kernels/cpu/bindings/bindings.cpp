// The Python interface of the CPU kernels. The functions of this file take raw addresses: shapes,
// dtypes, contiguity and options are checked in Python, by gaussreg_fast/backends/native. Functions
// that read tensors are in bind_loss.cpp and bind_drift.cpp.
#include <nanobind/nanobind.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

#include "bind_drift.h"
#include "bind_loss.h"
#include "bind_path_kl.h"
#include "memory.h"
#include "request.h"

namespace nb = nanobind;
using namespace gaussreg;

namespace {

// Makes a request from addresses; the address of a result that is not wanted is 0.
Request request(const std::string& task, std::int64_t batch, std::int64_t size, Address x,
                const std::vector<int>& orders, const std::string& form, double power_weight,
                std::int64_t block_size, double target, bool power_statistic, double scale,
                std::int64_t seed, bool seeded, Address index, bool per_sample, Address loss,
                Address grad, Address moments, Address amplitudes, Address grad_moments,
                Address grad_amplitudes, int threads) {
  Job job = options_of(task_of(task), form, power_weight, block_size, target, power_statistic,
                       orders);
  job.batch = batch;
  job.size = size;
  job.x = at<const float>(x);
  job.scale = scale;
  job.permutation = {index    ? Permutation::Source::kIndex
                     : seeded ? Permutation::Source::kSeed
                              : Permutation::Source::kNone,
                     per_sample, static_cast<std::uint64_t>(seed), at<const std::int64_t>(index)};
  job.loss = at<float>(loss);
  job.grad = at<float>(grad);
  job.moments = at<float>(moments);
  job.amplitudes = at<float>(amplitudes);
  job.grad_moments = at<const float>(grad_moments);
  job.grad_amplitudes = at<const float>(grad_amplitudes);
  return {job, useful_threads(batch * size, threads)};
}

// Seconds of each stage of the loss and gradient of a sample x, on one thread.
std::vector<std::pair<std::string, double>> time_stages(std::int64_t size, Address x, Address grad,
                                                        int repeats) {
  float loss = 0;
  Job job{};
  job.task = Task::kLoss;
  job.batch = 1;
  job.size = size;
  job.x = at<const float>(x);
  job.orders = orders_of({1, 2});
  job.power_weight = 25;
  job.block_size = 16;
  job.permutation.source = Permutation::Source::kSeed;
  job.loss = &loss;
  job.grad = at<float>(grad);
  double seconds[std::size(kStages)];
  if (!has_plan(size)) throw std::invalid_argument("size must have a plan");
  {
    const nb::gil_scoped_release release;
    const Kernels& k = kernels();
    Workspace work = k.fused_workspace(job);
    const Memory memory(work.shared_bytes + work.slot_bytes);
    work.base = memory.get();
    k.stages(job, *plan(size), work, repeats, seconds);
  }
  std::vector<std::pair<std::string, double>> named;
  for (std::size_t i = 0; i < std::size(kStages); ++i) named.emplace_back(kStages[i], seconds[i]);
  return named;
}

template <class T>
void fill_permutation(std::int64_t seed, std::int64_t first, std::int64_t samples,
                      std::int64_t size, bool inverse, Address out, int threads) {
  const Kernels& k = kernels();
  parallel(useful_threads(samples * size, threads), [&](const Team& team) {
    const bool alone = samples >= team.size();
    const auto [from, to] = alone ? team.share(samples) : Team::Range{0, samples};
    const auto [begin, end] = alone ? Team::Range{0, size} : team.share(size, 64);
    for (std::int64_t s = from; s < to; ++s) {
      const auto sample = static_cast<std::uint64_t>(first + s);
      T* row = at<T>(out) + s * size + begin;
      if constexpr (sizeof(T) == 4)
        k.permutation32(static_cast<std::uint64_t>(seed), sample, size, inverse, begin, end, row);
      else
        k.permutation64(static_cast<std::uint64_t>(seed), sample, size, inverse, begin, end, row);
    }
  });
}

}  // namespace

NB_MODULE(_native, m) {
  m.doc() = "Compiled CPU kernels of gaussreg_fast.";
  has_openmp();  // looks for the runtime, and registers the handler that notices forks
  survive_forks();

  const auto without_gil = nb::call_guard<nb::gil_scoped_release>();
  m.def("instruction_set", [] { return kernels().name; }, "avx512, avx2 or portable.");
  m.def("has_openmp", &has_openmp, "Whether work is shared among threads at all.");
  m.def("has_plan", &has_plan, nb::arg("size"), "Whether fused() takes samples of this size.");
  m.def("permutation", &fill_permutation<std::int64_t>, nb::arg("seed"), nb::arg("first"),
        nb::arg("samples"), nb::arg("size"), nb::arg("inverse"), nb::arg("out"),
        nb::arg("threads"), without_gil,
        "Writes permutations v1 of 0..size-1, samples first.. of the seed, as int64.");
  m.def("table", &fill_permutation<std::int32_t>, nb::arg("seed"), nb::arg("first"),
        nb::arg("samples"), nb::arg("size"), nb::arg("inverse"), nb::arg("out"),
        nb::arg("threads"), without_gil, "The same as int32.");

  m.def("time_stages", &time_stages, nb::arg("size"), nb::arg("x"), nb::arg("grad"),
        nb::arg("repeats"), "For benchmarks: seconds of each stage, the best of some runs.");

  bind_path_kl(m);

  nb::class_<Request>(m, "Request", "Samples, what is wanted of them, and the kernels to get it.")
      .def(nb::new_(&request),
           nb::arg("task"), nb::arg("batch"), nb::arg("size"), nb::arg("x"), nb::kw_only(),
           nb::arg("orders"), nb::arg("form") = "root", nb::arg("power_weight") = 0.0,
           nb::arg("block_size") = 0, nb::arg("target") = 0.0, nb::arg("power_statistic") = false,
           nb::arg("scale") = 1.0, nb::arg("seed") = 0, nb::arg("seeded") = false,
           nb::arg("index") = 0, nb::arg("per_sample") = false, nb::arg("loss") = 0,
           nb::arg("grad") = 0, nb::arg("moments") = 0, nb::arg("amplitudes") = 0,
           nb::arg("grad_moments") = 0, nb::arg("grad_amplitudes") = 0, nb::arg("threads"))
      .def("fused", &Request::fused, without_gil, "All of it at once; needs has_plan(size).")
      .def("moments_alone", &Request::moments_alone, without_gil, "The loss of moments alone.")
      .def("gather", &Request::gather, nb::arg("table"), nb::arg("permuted"), nb::arg("means"),
           without_gil, "General route: permuted samples, and means of their powers.")
      .def("spectrum", &Request::spectrum, nb::arg("spectra"), nb::arg("means"), without_gil,
           "General route: from spectra to results, and to spectra of the gradient.")
      .def("scatter", &Request::scatter, nb::arg("table"), nb::arg("permuted"), nb::arg("means"),
           without_gil, "General route: the gradient by x.");
  bind_loss(m);
  bind_drift(m);
}
