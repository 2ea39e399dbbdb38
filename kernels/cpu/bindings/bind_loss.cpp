#include "bind_loss.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <string>
#include <vector>

#include "call_cache.h"
#include "loss.h"
#include "prepared.h"
#include "torch_calls.h"

namespace nb = nanobind;

namespace gaussreg {
namespace {

// Fills tensors that Python has made. Returns false, and does nothing, if one does not fit.
bool fill(const Loss& options, nb::handle x, nb::handle loss, nb::handle grad,
          std::optional<std::int64_t> seed, bool per_sample, double scale, int threads) {
  const TensorReader& reader = options.reader();
  const bool gradient = !grad.is_none();
  Numbers in, value, out;
  if (!reader.read(x, in) || !reader.read(loss, value) || (gradient && !reader.read(grad, out)))
    return false;
  const Numbers* wanted = gradient ? &out : nullptr;
  if (!options.takes(in) || !Loss::fit(in, value, wanted)) return false;
  const Draws draws{seed.has_value(), per_sample};
  options.fill(in, value, wanted, draws.of(seed.value_or(0)), scale, threads);
  return true;
}

}  // namespace

void bind_loss(nb::module_& m) {
  nb::class_<TorchCalls>(m, "TorchCalls", "The functions of torch that C++ calls.")
      .def(nb::init<nb::handle, nb::tuple, nb::dict>(), nb::arg("exchange"), nb::arg("types"),
           nb::arg("found"));
  nb::class_<Loss>(m, "Loss", "A Gaussianity loss with its options, to be called with tensors.")
      .def(nb::init<nb::handle, nb::tuple, const std::string&, double, std::int64_t, double, bool,
                    const std::vector<int>&>(),
           nb::arg("exchange"), nb::arg("types"), nb::arg("form"), nb::arg("power_weight"),
           nb::arg("block_size"), nb::arg("target"), nb::arg("power_statistic"), nb::arg("orders"))
      .def("__call__", &fill, nb::arg("x"), nb::arg("loss"),
           nb::arg("grad").none(), nb::arg("seed").none(), nb::arg("per_sample"), nb::arg("scale"),
           nb::arg("threads"),
           "Fills loss and, unless it is None, grad. False where a tensor does not fit.");
  // The methods that each call runs take one tuple, and no names: nanobind then does no more than
  // check its type.
  nb::class_<CallCache>(m, "CallCache", "Calls that repeat an earlier one.")
      .def(nb::init<nb::object, nb::object>(), nb::arg("torch"), nb::arg("record"))
      .def("keep", &CallCache::keep, nb::arg("options"), nb::arg("loss"),
           nb::arg("generator").none(), nb::arg("seeded"), nb::arg("per_sample"),
           "Remembers options that were checked.")
      .def("value_and_grad", &CallCache::value_and_grad,
           "Loss and gradient of ((x, seed, *options)), or None if the call is not taken.")
      .def("loss", &CallCache::loss, "The loss of ((x, seed, *options)), or None.");
  nb::class_<Prepared>(m, "Prepared", "A loss and the tensors for its results.")
      .def(nb::init<nb::object, nb::object, nb::tuple, bool, bool, double>(), nb::arg("torch"),
           nb::arg("loss"), nb::arg("results"), nb::arg("seeded"), nb::arg("per_sample"),
           nb::arg("scale"))
      .def("fill", &Prepared::fill,
           "Fills the results for ((x, seed, generator)); false if it does not take them.");
}

}  // namespace gaussreg
