// The white-noise projection of blocks of 16 bins, W blocks at a time; see project_block.cpp.
#pragma once

#include "project_block.h"
#include "vector.h"

namespace gaussreg::GAUSSREG_ISA {

GAUSSREG_INLINE vf maximum(vf a, vf b) { return a < b ? b : a; }

// The sum of (v - mean)^2 over the v above the threshold.
GAUSSREG_INLINE vf squares_about(const vf* v, vf mean, vf threshold) {
  vf squares{};
  for (int i = 0; i < L; ++i) {
    const vf gap = (vf)((vi)(v[i] - mean) & (vi)(v[i] > threshold));
    squares += gap * gap;
  }
  return squares;
}

// The thresholds of 16 lengths minus the largest, lane by lane. For NaN, and for ties where
// rounding decides, the result is NaN or a threshold that leaves next to nothing, which the caller
// notices.
GAUSSREG_INLINE vf thresholds(const vf* v) {
  constexpr float kGb = 12.566370614359172f, kPart = 0.56637061435917295f;  // g b, and without 12
  constexpr float kAll = 0.47826460f;  // sqrt(g b / (16 (16 - g b)))
  vf total = v[0];
  for (int i = 1; i < L; ++i) total += v[i];
  const vf mean = total * (1.0f / L);
  vf threshold = mean - kAll * sqrt(squares_about(v, mean, splat(-__builtin_inff())));
  vi before = vi{} + L;
  for (int dropped = 1; dropped <= 3; ++dropped) {  // 13 are left: fewer cannot meet both norms
    vf sum{};
    vi count{};
    for (int i = 0; i < L; ++i) {
      const vi above = (vi)(v[i] > threshold);
      sum += (vf)((vi)v[i] & above);
      count -= above;
    }
    bool settled = true;
    for (int i = 0; i < W; ++i) settled = settled && count[i] == before[i];
    if (settled) break;
    before = count;
    const vf n = __builtin_convertvector(count, vf), part = sum / n;
    const vf squares = squares_about(v, part, threshold);
    threshold = part - sqrt(squares * (kGb / (n * (n - 12 - kPart))));
  }
  return threshold;
}

// project_block() of W neighbouring blocks, in place.
static void project_vectors(float* lengths, float scale) {
  constexpr float kFactor = 14.179630807244127f;  // sqrt(g) b
  constexpr float kClose = 64 * 16 * 1.1920929e-7f;
  vf v[L];
  for (int c = 0; c < COLS; ++c) {
    for (int i = 0; i < W; ++i) v[c * W + i] = load(lengths + i * L + c * W);
    transpose(v + c * W);
  }
  // Small differences from the largest are exact, and these decide the threshold.
  vf top = v[0];
  for (int i = 1; i < L; ++i) top = maximum(top, v[i]);
  for (int i = 0; i < L; ++i) v[i] -= top;
  const vf threshold = thresholds(v);
  vf excess{};
  for (int i = 0; i < L; ++i) {
    const vf over = v[i] - threshold;
    excess += (vf)((vi)over & (vi)(over > 0));
  }
  // Near-ties at the maximum, and NaN, are left to the general code.
  const vi plain = (vi)(excess > kClose * top) & (vi)(excess > 1e-16f);
  bool all = true;
  for (int i = 0; i < W; ++i) all = all && plain[i];
  if (!all) {
    for (int i = 0; i < W; ++i) project_block(lengths + i * L, L, scale);
    return;
  }
  float high[W], low[W], factor[W];
  store(high, top);
  store(low, threshold);
  store(factor, kFactor * scale / excess);
  for (int i = 0; i < W; ++i)
    for (int c = 0; c < COLS; ++c) {
      float* at = lengths + i * L + c * W;
      const vf over = (load(at) - high[i]) - low[i];
      store(at, (vf)((vi)(over * factor[i]) & (vi)(over > 0)));
    }
}

}  // namespace gaussreg::GAUSSREG_ISA
