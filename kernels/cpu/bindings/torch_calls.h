// The functions of torch that C++ calls itself. They are found in Python, once: nothing of torch is
// compiled in.
#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>

#include "tensors.h"

namespace gaussreg {

class TorchCalls {
 public:
  // `found` maps the names of the members below to torch's functions.
  TorchCalls(nanobind::handle exchange, nanobind::tuple types, nanobind::dict found);

  const TensorReader& reader() const { return reader_; }
  // Whether no dispatch mode, tracer, transform of torch.func or forward-mode AD is active.
  bool direct() const;
  // Reads an argument; false unless its numbers in memory are its values: contiguous, in memory
  // that was not freed, and not lazily negated.
  bool read(nanobind::handle x, Numbers& out) const;
  // Whether autograd records what is computed from x.
  bool records(nanobind::handle x) const;
  nanobind::object empty_like(nanobind::handle x) const { return empty_like_(x); }
  // An uninitialised float32 tensor of shape () on the CPU.
  nanobind::object scalar() const { return empty_like_(scalar_); }
  int threads() const;
  // Draws a seed exactly as Python's route does, from a generator or, for None, the default one.
  std::int64_t seed(nanobind::handle generator) const;
  // Tells autograd that C++ has written to the tensors.
  void written(nanobind::handle tensors) const { increment_version_(tensors); }

 private:
  TensorReader reader_;
  nanobind::object modes_, trace_, transforms_, forward_ad_, level_, is_neg_, storage_offset_,
      requires_grad_, is_grad_enabled_, get_num_threads_, empty_like_, scalar_, increment_version_,
      random_, scratch_, seed_, low_, high_;
  nanobind::tuple generator_;
};

}  // namespace gaussreg
