// Between the bins Z_k of the packed transform, M = D / 2 of them, and the compact spectrum y.
//
// For each pair k, M - k, with b = conj Z_{M-k}, w = exp(-2 pi i k / D):
//   2 X_k = E + T and 2 conj X_{M-k} = E - T,   E = Z_k + b,   T = -i w (Z_k - b),
// and y_k = X_k / sqrt D. The factor 1 / (2 sqrt D) is in Z already (see Plan::tile_roots). For k =
// 0, b = Z_0 gives the length of y_0, which holds the real DC and Nyquist bins; k = M / 2 is its
// own partner. First the bins are replaced by directions u_k (conjugate in the upper half) and
// their lengths are written to `lengths`. Then, with weights in place of lengths, the directions
// are replaced by the gradient by Z of sum_k weight_k u_k^T y_k.
//
// re, im and lengths have room for 16 more numbers: bin M stands in for bin 0's partner.
#pragma once

#include "dft.h"
#include "plan.h"
#include "team.h"

namespace gaussreg::GAUSSREG_ISA {

struct Bins {
  float *re, *im, *lengths;
};

// Directions: none, unit vectors (0 if y counts as 0), y itself for the power, or always unit
// vectors.
enum class Direction { kNone, kUnit, kValue, kAlways };

GAUSSREG_INLINE Complex bin_root(const Plan& plan, std::int64_t block, int column) {
  const float* w = plan.bin_roots.data() + block * 2;
  return Complex{splat(w[0]), splat(w[1])} *
         Complex{load(plan.bin_re + column * W), load(plan.bin_im + column * W)};
}

GAUSSREG_INLINE vf where(vi mask, vf yes, vf no) { return (vf)(((vi)yes & mask) | ((vi)no & ~mask)); }

// The length of y, or its square; y becomes the direction.
template <Direction direction, bool power_statistic>
GAUSSREG_INLINE vf measure(Complex& y) {
  const vf square = y.re * y.re + y.im * y.im;
  if constexpr (power_statistic) return square;
  const auto [root, inverse] = roots(square);
  if constexpr (direction != Direction::kNone) {
    y.re = y.re * inverse;
    y.im = y.im * inverse;
    if constexpr (direction == Direction::kAlways) {
      const vi tiny = (vi)(square < kFloor * kFloor);
      y = {where(tiny, splat(1), y.re), where(tiny, vf{}, y.im)};
    }
  }
  return root;
}

template <Direction direction, bool power_statistic>
static void directions(const Plan& plan, Bins y, std::int64_t begin, std::int64_t end) {
  const std::int64_t M = plan.size / 2;
  if (begin == 0 && end > 0) {
    y.re[M] = y.re[0];
    y.im[M] = -y.im[0];
    Complex middle{splat(2 * y.re[M / 2]), splat(-2 * y.im[M / 2])};
    y.lengths[M / 2] = measure<direction, power_statistic>(middle)[0];
    y.re[M / 2] = middle.re[0];
    y.im[M / 2] = middle.im[0];
  }
  for (std::int64_t block = begin; block < end; ++block)
    for (int c = 0; c < COLS; ++c) {
      const std::int64_t k = block * L + c * W, mirror = M - k - (W - 1);
      const Complex a{load(y.re + k), load(y.im + k)};
      const Complex b{reverse(load(y.re + mirror)), -reverse(load(y.im + mirror))};
      const Complex e = a + b, t = quarter<-1>(a - b) * bin_root(plan, block, c);
      Complex lower = e + t, upper = e - t;
      store(y.lengths + k, measure<direction, power_statistic>(lower));
      // Lane 0 of block 0 writes bin M, which is only a stand-in.
      store(y.lengths + mirror, reverse(measure<direction, power_statistic>(upper)));
      if constexpr (direction != Direction::kNone) {
        store(y.re + k, lower.re);
        store(y.im + k, lower.im);
        store(y.re + mirror, reverse(upper.re));
        store(y.im + mirror, reverse(upper.im));
      }
    }
  if constexpr (direction == Direction::kAlways)
    if (begin == 0 && end > 0 && y.lengths[0] == 0) {
      // Bin 0 is y_0 turned by an eighth: a direction of 1 for y_0 = 0 is turned, too.
      constexpr float root_half = 0.70710678118654752f;
      y.re[0] = y.im[0] = y.re[M] = y.im[M] = root_half;
    }
}

// There is one weight per block of 16 bins, or one per bin, in `lengths`; the first is repeated
// after the last.
template <bool per_bin>
static void directions_adjoint(const Plan& plan, Bins y, const float* weights, std::int64_t begin,
                               std::int64_t end) {
  const std::int64_t M = plan.size / 2, R = plan.blocks;
  if (begin == 0 && end > 0) {
    const float w = 2 * (per_bin ? y.lengths[M / 2] : weights[R / 2]);
    y.re[M / 2] *= w;
    y.im[M / 2] *= -w;
  }
  for (std::int64_t block = begin; block < end; ++block)
    for (int c = 0; c < COLS; ++c) {
      const std::int64_t k = block * L + c * W, mirror = M - k - (W - 1);
      vf lower_weight, upper_weight;
      if constexpr (per_bin) {
        lower_weight = load(y.lengths + k);
        upper_weight = reverse(load(y.lengths + mirror));
      } else {
        lower_weight = splat(weights[block]);
        upper_weight = splat(weights[R - 1 - block]);
        // The partner of lane 0 is the first bin of the next block.
        if (c == 0) upper_weight = where(vi{-1}, splat(weights[R - block]), upper_weight);
      }
      Complex a{load(y.re + k), load(y.im + k)};
      Complex b{reverse(load(y.re + mirror)), reverse(load(y.im + mirror))};
      a = {a.re * lower_weight, a.im * lower_weight};
      b = {b.re * upper_weight, b.im * upper_weight};
      const Complex e = a + b;
      const Complex t = quarter<+1>(turn<+1>(a - b, bin_root(plan, block, c)));
      store(y.re + k, e.re + t.re);
      store(y.im + k, e.im + t.im);
      store(y.re + mirror, reverse(e.re - t.re));
      store(y.im + mirror, reverse(t.im - e.im));
    }
}

}  // namespace gaussreg::GAUSSREG_ISA
