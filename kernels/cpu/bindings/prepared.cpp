#include "prepared.h"

#include <utility>

namespace nb = nanobind;

namespace gaussreg {
namespace {

bool overlap(const Numbers& a, const Numbers& b) {
  const char *first = static_cast<const char*>(a.data), *second = static_cast<const char*>(b.data);
  return first < second + b.size * bytes_of(b.type) && second < first + a.size * bytes_of(a.type);
}

}  // namespace

Prepared::Prepared(nb::object torch, nb::object loss, nb::tuple results, bool seeded,
                   bool per_sample, double scale)
    : torch_owner_(std::move(torch)),
      loss_owner_(std::move(loss)),
      results_(std::move(results)),
      torch_(nb::cast<const TorchCalls&>(torch_owner_)),
      loss_(nb::cast<const Loss&>(loss_owner_)),
      draws_{seeded, per_sample},
      scale_(scale) {}

bool Prepared::fill(nb::tuple arguments) const {
  const TensorReader& reader = torch_.reader();
  Numbers in, value, grad;
  std::optional<std::int64_t> number;
  if (!torch_.direct() || !torch_.read(arguments[0], in) || !reader.read(results_[0], value) ||
      !reader.read(results_[1], grad) || !loss_.takes(in) || in.type != grad.type ||
      !Loss::fit(in, value, &grad) || overlap(in, grad) || overlap(in, value) ||
      !Draws::given(arguments[1], number) || torch_.records(results_[0]) ||
      torch_.records(results_[1]))
    return false;
  const int threads = torch_.threads();
  loss_.fill(in, value, &grad, draws_.of(number, torch_, arguments[2]), scale_, threads);
  torch_.written(results_);
  return true;
}

}  // namespace gaussreg
