// Blocks of the compact spectrum: their means, and the weights of bins' directions in the gradient.
#pragma once

#include "job.h"
#include "projection.h"
#include "vector.h"

namespace gaussreg::GAUSSREG_ISA {

GAUSSREG_INLINE float block_mean(const float* lengths, std::int64_t count) {
  std::int64_t i = 0;
  vf total{};
  for (; i + W <= count; i += W) total += load(lengths + i);
  float rest = 0;
  for (; i < count; ++i) rest += lengths[i];
  return (sum(total) + rest) / static_cast<float>(count);
}

// weigh() of the loss for blocks of 16 bins, W blocks at a time.
static double weigh_vectors(float target, float weight, const float* lengths, float* weights,
                            std::int64_t begin, std::int64_t end) {
  vd loss{};
  for (std::int64_t p = begin; p < end; p += W) {
    vf sums[W];
    for (int i = 0; i < W; ++i) {
      sums[i] = load(lengths + (p + i) * L);
      for (int c = 1; c < COLS; ++c) sums[i] += load(lengths + (p + i) * L + c * W);
    }
    transpose(sums);
    for (int i = 1; i < W; ++i) sums[0] += sums[i];
    const vf gap = sums[0] * (1.0f / L) - target;
    const vf size = (vf)((vi)gap & 0x7fffffff);
    loss += widen(size);
    if (weights) {
      const vf slope = (vf)((vi)splat(weight) | ((vi)gap & static_cast<std::int32_t>(0x80000000)));
      store(weights + p, (vf)((vi)slope & (vi)(size > 0)));
    }
  }
  return sum(loss);
}

// Computes results and weights of directions from lengths, for this thread's share of the blocks.
// Weights are written to `weights`, one per block; if that is null, in place, one per bin.
// Returns the thread's part of sum_p |A_p - target|.
static double weigh(const Job& job, std::int64_t sample, float* lengths, float* weights,
                    const Team& team) {
  const std::int64_t bins = job.bins(), b = job.block_size, count = job.spectrum_blocks();
  const auto target = static_cast<float>(job.target);
  const double unit = job.scale * (job.power_statistic ? 2 : 1);
  const double slope = job.power_weight * unit / static_cast<double>(count);
  const float* upstream =
      job.task == Task::kPullback ? job.grad_amplitudes + sample * count : nullptr;
  const auto [begin, end] = team.share(count, L);
  double loss = 0;
  std::int64_t p = begin;
  if (job.task == Task::kLoss && b == L && weights) {
    const std::int64_t vectors = (bins / L < end ? bins / L : end) - begin;
    p = begin + (vectors > 0 ? vectors / W * W : 0);
    loss = weigh_vectors(target, static_cast<float>(slope / L), lengths, job.grad ? weights : nullptr,
                         begin, p);
  }
  for (; p < end; ++p) {
    float* block = lengths + p * b;
    const std::int64_t n = (p + 1) * b < bins ? b : bins - p * b;
    double weight = 0;
    if (job.task == Task::kProject) {
      if (b == L && p % W == 0 && p + W <= end) {
        project_vectors(block, static_cast<float>(2 * unit));
        p += W - 1;
      } else {
        project_block(block, b, 2 * unit);
      }
      continue;
    }
    if (job.task == Task::kPullback) {
      weight = upstream[p] * unit / static_cast<double>(n);
    } else {
      const float mean = block_mean(block, n);
      if (job.task == Task::kStatistics) {
        job.amplitudes[sample * count + p] = mean;
        continue;
      }
      loss += __builtin_fabsf(mean - target);
      const int sign = (mean > target) - (mean < target);
      weight = sign * slope / static_cast<double>(n);
    }
    if (!job.grad) continue;
    if (weights) {
      weights[p] = static_cast<float>(weight);
    } else {
      for (std::int64_t k = 0; k < n; ++k) block[k] = static_cast<float>(weight);
    }
  }
  if (begin == 0 && end > 0) {  // the first bin's stand-in partner
    if (job.grad && weights) weights[count] = weights[0];
    lengths[bins] = lengths[0];
  }
  return loss;
}

}  // namespace gaussreg::GAUSSREG_ISA
