// The white-noise projection of blocks of 16 bins, W blocks at a time; see project_block.h.
#pragma once

#include "project_block.h"
#include "vector.h"

namespace gaussreg::GAUSSREG_ISA {

GAUSSREG_INLINE vf minimum(vf a, vf b) { return a < b ? a : b; }
GAUSSREG_INLINE vf maximum(vf a, vf b) { return a < b ? b : a; }

// Batcher's odd-even merge sort of 16 vectors, lane by lane, the largest first.
GAUSSREG_INLINE void sort_descending(vf* v) {
  for (int p = 1; p < L; p *= 2)
    for (int k = p; k >= 1; k /= 2)
      for (int j = k % p; j + k < L; j += 2 * k)
        for (int i = j; i < j + k && i + k < L; ++i) {
          if (i / (2 * p) != (i + k) / (2 * p)) continue;
          const vf a = v[i], b = v[i + k];
          v[i] = maximum(a, b);
          v[i + k] = minimum(a, b);
        }
}

// project_block() of W neighbouring blocks, whose lengths are in place.
static void project_vectors(float* lengths) {
  constexpr double kG = 0.78539816339744831, kGb = kG * L;  // g = pi / 4
  constexpr int kLeast = 13;                                // fewer cannot meet both norms
  vf v[L];
  for (int c = 0; c < COLS; ++c) {
    for (int i = 0; i < W; ++i) v[c * W + i] = load(lengths + i * L + c * W);
    transpose(v + c * W);
  }
  sort_descending(v);
  const vf top = v[0], spread = top - v[kLeast - 1];
  // Ties at the maximum, and numbers that are none, are left to the general code.
  const vi plain = (spread > top * (16 * 1.1920929e-7f)) & (top < 3.4e38f);
  bool all = true;
  for (int i = 0; i < W; ++i) all = all && plain[i];
  if (!all) {
    Ranked work[L];
    for (int i = 0; i < W; ++i) project_block(lengths + i * L, L, work);
    return;
  }

  // In float64, lane by lane: the thresholds are differences of nearly equal numbers.
  double w[L][W], high[W], unit[W], s1[W] = {}, s2[W] = {}, least[W], lambda[W] = {};
  for (int i = 0; i < W; ++i) {
    high[i] = top[i];
    unit[i] = 1 / static_cast<double>(spread[i]);
    least[i] = 1e300;
  }
  for (int j = 0; j < L; ++j)
    for (int i = 0; i < W; ++i) w[j][i] = (v[j][i] - high[i]) * unit[i];
  for (int j = 1; j <= L; ++j) {
    for (int i = 0; i < W; ++i) {
      s1[i] += w[j - 1][i];
      s2[i] += w[j - 1][i] * w[j - 1][i];
    }
    if (j < kLeast) continue;
    for (int i = 0; i < W; ++i) {
      const double room = j * s2[i] - s1[i] * s1[i], clipped = room > 0 ? room : 0;
      const double candidate = (s1[i] - __builtin_sqrt(clipped * (kGb / (j - kGb)))) / j;
      const double past = j < L ? w[j < L ? j : 0][i] - candidate : 0;
      const double before = candidate - w[j - 1][i];
      const double violation = (past > 0 ? past : 0) + (before > 0 ? before : 0);
      lambda[i] = violation < least[i] ? candidate : lambda[i];
      least[i] = violation < least[i] ? violation : least[i];
    }
  }
  // y' = factor relu(|y| - threshold), with the 1-norm it must have
  double excess[W] = {}, threshold[W], factor[W];
  for (int j = 0; j < L; ++j)
    for (int i = 0; i < W; ++i) excess[i] += w[j][i] > lambda[i] ? w[j][i] - lambda[i] : 0;
  for (int i = 0; i < W; ++i) {
    threshold[i] = high[i] + lambda[i] / unit[i];
    factor[i] = __builtin_sqrt(kG) * L * unit[i] / excess[i];
  }
  for (int i = 0; i < W; ++i)
    for (int k = 0; k < L; ++k) {
      const double e = (lengths[i * L + k] - threshold[i]) * factor[i];
      lengths[i * L + k] = static_cast<float>(e > 0 ? e : 0);
    }
}

}  // namespace gaussreg::GAUSSREG_ISA
