// Parameter drift: what a call over a list of tensors asks for.
#pragma once

#include <cstdint>

namespace gaussreg {

// The type of a tensor's numbers; there may be no base, which stands for zeros.
enum class Number { kNone, kFloat, kBfloat16, kHalf };

// With d = theta - base, in float32:
enum class DriftTask {
  kValue,       // the sum of scale d^2
  kGradient,    // that, and grad = factor d
  kStream,      // the same, for lists that no cache holds: gradients go past it
  kAccumulate,  // that, and grad += factor d
};

struct DriftTensor {
  void* theta;
  const void* base;
  void* grad;  // of theta's type
  std::int64_t size;
  double scale;
  float factor;
  Number theta_type, base_type;
};

// Numbers that are summed apart: sums of chunks are added up in their order, so that the number of
// threads changes no bits.
constexpr std::int64_t kDriftChunk = 1 << 15;

struct DriftJob {
  DriftTask task;
  const DriftTensor* tensors;
  std::int64_t count;
  std::int64_t total;  // numbers in all tensors
  double* partials;    // one for each chunk of each tensor
};

}  // namespace gaussreg
