#include "bind_loss.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <string>
#include <vector>

#include "request.h"
#include "tensors.h"

namespace nb = nanobind;

namespace gaussreg {
namespace {

// A loss with its options, made once and called with many tensors: for a single latent, making a
// `Job` from Python takes as long as some of the kernels.
class Loss {
 public:
  Loss(nb::handle exchange, nb::tuple types, const std::string& form, double power_weight,
       std::int64_t block_size, double target, bool power_statistic, const std::vector<int>& orders)
      : reader_(exchange, types),
        options_(options_of(Task::kLoss, form, power_weight, block_size, target, power_statistic,
                            orders)) {}

  // Returns false, and does nothing, if a tensor does not fit or the kernels do not take its size.
  bool operator()(nb::handle x, nb::handle loss, nb::handle grad,
                  std::optional<std::int64_t> seed, bool per_sample, double scale,
                  int threads) const {
    Numbers in, value, out;
    if (!reader_.read(x, in) || !reader_.read(loss, value)) return false;
    if (value.type != Number::kFloat || in.dims < 2 || !in.size) return false;
    const std::int64_t batch = in.shape[0], size = in.size / batch;
    if (!in.data || !value.data || value.size != batch) return false;
    if (!grad.is_none() && !(reader_.read(grad, out) && fits(in.type, out.type) && out.data &&
                             out.same_shape(in)))
      return false;
    const bool alone = !(options_.power_weight > 0);
    if (!alone && (!has_plan(size) || options_.block_size < 1 || options_.block_size > size / 2))
      return false;

    Request request{options_, useful_threads(in.size, threads)};
    Job& job = request.job;
    job.batch = batch;
    job.size = size;
    job.x = in.data;
    job.x_type = in.type;
    job.loss = static_cast<float*>(value.data);
    if (!grad.is_none()) {
      job.grad = out.data;
      job.grad_type = out.type;
    }
    job.scale = scale;
    if (seed) {
      job.permutation.source = Permutation::Source::kSeed;
      job.permutation.seed = static_cast<std::uint64_t>(*seed);
      job.permutation.per_sample = per_sample;
    }
    const nb::gil_scoped_release released;
    if (alone)
      request.moments_alone();
    else
      request.fused();
    return true;
  }

 private:
  static bool fits(Number x, Number grad) {
    return grad == x || (x == Number::kHalf && grad == Number::kFloat);
  }

  TensorReader reader_;
  Job options_;
};

}  // namespace

void bind_loss(nb::module_& m) {
  nb::class_<Loss>(m, "Loss", "A Gaussianity loss with its options, to be called with tensors.")
      .def(nb::init<nb::handle, nb::tuple, const std::string&, double, std::int64_t, double, bool,
                    const std::vector<int>&>(),
           nb::arg("exchange"), nb::arg("types"), nb::arg("form"), nb::arg("power_weight"),
           nb::arg("block_size"), nb::arg("target"), nb::arg("power_statistic"), nb::arg("orders"))
      .def("__call__", &Loss::operator(), nb::arg("x"), nb::arg("loss"), nb::arg("grad").none(),
           nb::arg("seed").none(), nb::arg("per_sample"), nb::arg("scale"), nb::arg("threads"),
           "Fills loss and, unless it is None, grad. False where a tensor does not fit.");
}

}  // namespace gaussreg
