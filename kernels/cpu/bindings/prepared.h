// A loss with tensors for its results, which each call overwrites.
#pragma once

#include <nanobind/nanobind.h>

#include "loss.h"
#include "torch_calls.h"

namespace gaussreg {

class Prepared {
 public:
  // `torch` is a TorchCalls, `loss` a Loss, `results` the losses (B,), or () for a sample alone, and
  // the gradient, which is multiplied by `scale`.
  Prepared(nanobind::object torch, nanobind::object loss, nanobind::tuple results, bool seeded,
           bool per_sample, double scale);

  // Takes x, a seed or None, and a generator or None, in one tuple; the latter two were checked.
  // Returns false, and does nothing, if x is not an ordinary tensor of the gradient's shape, shares
  // memory with the results, or the seed is no int.
  bool fill(nanobind::tuple arguments) const;

 private:
  nanobind::object torch_owner_, loss_owner_;
  nanobind::tuple results_;
  const TorchCalls& torch_;
  const Loss& loss_;
  Draws draws_;
  double scale_;
};

}  // namespace gaussreg
