// Parameter drift: the description of a call over a list of tensors.
#pragma once

#include <cstdint>

#include "number.h"

namespace gaussreg {

// With d = theta - base, in float32:
enum class DriftTask {
  kValue,       // the sum of scale d^2
  kGradient,    // the sum, and grad = factor d
  kStream,      // the same as kGradient, with stores past the caches, for lists that no cache holds
  kAccumulate,  // the sum, and grad += factor d
};

struct DriftTensor {
  void* theta;
  const void* base;
  void* grad;  // of theta's type
  std::int64_t size;
  double scale;
  float factor;
  Number theta_type, base_type;  // a base of kNone is left out, and stands for zeros
};

// Numbers per chunk. Each chunk has a sum of its own, and the sums are added in order, so that the
// number of threads changes no bits.
constexpr std::int64_t kDriftChunk = 1 << 15;

struct DriftJob {
  DriftTask task;
  const DriftTensor* tensors;
  std::int64_t count;
  std::int64_t total;  // numbers in all tensors
  double* partials;    // one for each chunk of each tensor
};

}  // namespace gaussreg
