// A loss with its options, made once and called with many tensors: for a single latent, making a
// `Job` from Python takes as long as some of the kernels.
#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "request.h"
#include "tensors.h"
#include "torch_calls.h"

namespace gaussreg {

class Loss {
 public:
  Loss(nanobind::handle exchange, nanobind::tuple types, const std::string& form,
       double power_weight, std::int64_t block_size, double target, bool power_statistic,
       const std::vector<int>& orders)
      : reader_(exchange, types),
        options_(options_of(Task::kLoss, form, power_weight, block_size, target, power_statistic,
                            orders)) {}

  const TensorReader& reader() const { return reader_; }
  // Whether the kernels take x, (B, *latent).
  bool takes(const Numbers& x) const;
  // Whether the results fit x. The gradient has x's type, or float32 for float16; `grad` is null if
  // none is wanted.
  static bool fit(const Numbers& x, const Numbers& loss, const Numbers* grad);
  // Fills tensors that fit, without the GIL.
  void fill(const Numbers& x, const Numbers& loss, const Numbers* grad,
            const Permutation& permutation, double scale, int threads) const;

 private:
  bool alone() const { return !(options_.power_weight > 0); }

  TensorReader reader_;
  Job options_;
};

// How a loss permutes its samples, before a seed is known.
struct Draws {
  bool seeded, per_sample;

  // Takes a seed given by an argument: false if it is no int of 64 bits. For None there is none.
  static bool given(nanobind::handle seed, std::optional<std::int64_t>& out);
  // The permutation of a seed.
  Permutation of(std::int64_t seed) const;
  // The permutation of a call; a seed that is not given is drawn from the generator.
  Permutation of(std::optional<std::int64_t> seed, const TorchCalls& torch,
                 nanobind::handle generator) const;
};

}  // namespace gaussreg
