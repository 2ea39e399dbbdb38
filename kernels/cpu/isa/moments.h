// Powers of x: their sums, and their gradient, which is a polynomial in x.
#pragma once

#include "job.h"
#include "vector.h"

namespace gaussreg::GAUSSREG_ISA {

// Calls body with the highest order as a constant, rounded up to one that code is compiled for: 0
// (no moments), 2 or 8.
template <class Body>
GAUSSREG_INLINE void with_degree(int highest, Body&& body) {
  if (highest == 0)
    body(std::integral_constant<int, 0>{});
  else if (highest <= 2)
    body(std::integral_constant<int, 2>{});
  else
    body(std::integral_constant<int, 8>{});
}

// Sums of x, x^2, .. x^K of some hundred vectors, in float32.
template <int K>
struct PowerPart {
  vf sum[K ? K : 1] = {};

  // Two vectors at a time, which halves the chain of dependent additions.
  void add(vf x, vf y) {
    vf p = x, q = y;
    for (int n = 0; n < K; ++n) {
      sum[n] += p + q;
      if (n + 1 < K) {
        p *= x;
        q *= y;
      }
    }
  }
};

// Sums of PowerParts, in float64.
template <int K>
class PowerSums {
 public:
  void add(const PowerPart<K>& part) {
    for (int n = 0; n < K; ++n) total_[n] += widen(part.sum[n]);
  }
  void write(double* sums) const {
    for (int n = 0; n < K; ++n) sums[n] = sum(total_[n]);
  }

 private:
  vd total_[K ? K : 1] = {};
};

// A power of two that brings the largest |x| near 1, for results that do not depend on the scale of
// x but whose squares might leave the range of float32. It is 1 if x is all 0 or not finite.
static float unit_scale(const float* x, std::int64_t size) {
  vf largest{};
  float rest = 0;
  std::int64_t i = 0;
  for (; i + W <= size; i += W) {
    const vf a = (vf)((vi)load(x + i) & 0x7fffffff);
    largest = (vf)(((vi)a & (vi)(a > largest)) | ((vi)largest & ~(vi)(a > largest)));
  }
  for (; i < size; ++i) rest = __builtin_fabsf(x[i]) > rest ? __builtin_fabsf(x[i]) : rest;
  for (int lane = 0; lane < W; ++lane) rest = largest[lane] > rest ? largest[lane] : rest;
  if (!(rest > 0) || rest > 3.4e38f) return 1;
  const int exponent = __builtin_ilogbf(rest);
  return __builtin_ldexpf(1, exponent > 126 ? -126 : exponent < -126 ? 126 : -exponent);
}

// sum_j coefficient[j] x^j for j < K, by Horner's rule.
template <int K, class V>
GAUSSREG_INLINE V polynomial(V x, const float* coefficient) {
  if constexpr (K == 0) {
    return V{};
  } else {
    V value = coefficient[K - 1] - V{};
    for (int j = K - 2; j >= 0; --j) value = value * x + coefficient[j];
    return value;
  }
}

// A thread's part of the sums over a sample, which the other threads of the call read.
struct Partial {
  double sums[kMaxOrder];  // of x, x^2, ..
  double loss;             // the sum of |A_p - target|
};

GAUSSREG_INLINE Means means(const Job& job, const Partial* partials, const Team& team) {
  Means m{};
  for (int n = 0; n < job.orders.highest; ++n) {
    for (int rank = 0; rank < team.size(); ++rank) m.powers[n] += partials[rank].sums[n];
    m.powers[n] /= static_cast<double>(job.size);
  }
  return m;
}

// Computes a sample's loss or moments from its statistics (one thread of the team writes them), and
// the polynomial in x of their gradient (every thread needs it).
static void finish(const Job& job, std::int64_t sample, const Means& means, double power_loss,
                   bool writes, float* coefficient) {
  const int count = job.orders.count;
  double m[kMaxOrder], derivative[kMaxOrder] = {};
  for (int i = 0; i < count; ++i) m[i] = means.powers[job.orders.order[i] - 1];
  if (job.task == Task::kLoss) {
    double loss = moment_loss(job.orders, job.form, job.size, m, derivative);
    if (job.power_weight > 0)
      loss += job.power_weight * power_loss / static_cast<double>(job.spectrum_blocks());
    loss += 0 * means.powers[0];  // NaN for a sample that holds inf, whatever the options
    if (writes) job.loss[sample] = static_cast<float>(loss);
  } else if (job.task == Task::kStatistics && writes) {
    for (int i = 0; i < count; ++i) job.moments[sample * count + i] = static_cast<float>(m[i]);
  } else if (job.task == Task::kPullback) {
    for (int i = 0; i < count; ++i) derivative[i] = job.grad_moments[sample * count + i];
  }
  gradient_polynomial(job.orders, job.size, derivative, job.scale, coefficient);
}

}  // namespace gaussreg::GAUSSREG_ISA
