// Path KL: sum_t ||dmu_t||^2 / (2 sigma_t^2), its gradient dmu_t / sigma_t^2, or both in one pass.
#pragma once

#include "job.h"
#include "vector.h"

namespace gaussreg::GAUSSREG_ISA {

// Sums of squares of `count` elements times `inverse` (if Value), and their products with
// inverse * slope (if Grad). Sums are of a few hundred vectors in float32, then in float64.
template <bool Value, bool Grad>
static double path_part(const float* x, float* grad, std::int64_t count, float inverse,
                        float slope) {
  constexpr int kLanes = 4;  // sums side by side: the adder takes as many cycles
  constexpr std::int64_t kRun = 64 * kLanes * W;
  vd total{};
  std::int64_t i = 0;
  while (i + kLanes * W <= count) {
    vf sums[kLanes] = {};
    const std::int64_t stop = count - i > kRun ? i + kRun : count;
    for (; i + kLanes * W <= stop; i += kLanes * W) {
      for (int k = 0; k < kLanes; ++k) {
        const vf z = load(x + i + k * W) * inverse;
        if constexpr (Value) sums[k] += z * z;
        if constexpr (Grad) store(grad + i + k * W, z * slope);
      }
    }
    if constexpr (Value) total += (widen(sums[0]) + widen(sums[1])) + (widen(sums[2]) + widen(sums[3]));
  }
  double rest = 0;
  for (; i < count; ++i) {
    const float z = x[i] * inverse;
    if constexpr (Value) rest += static_cast<double>(z) * z;
    if constexpr (Grad) grad[i] = z * slope;
  }
  return count < kLanes * W ? rest : sum(total) + rest;
}

template <bool Value, bool Grad>
static void path_rows(const PathKLJob& job, const Team& team) {
  const std::int64_t parts = (job.size + kPathPart - 1) / kPathPart;
  const auto [begin, end] = team.share(job.steps * job.batch * parts);
  // Indices are counted up, because rows may have as few as two numbers, and divisions would cost
  // more than those.
  std::int64_t row = begin / parts, part = begin % parts;
  std::int64_t step = row / job.batch, b = row % job.batch;
  for (std::int64_t item = begin; item < end; ++item) {
    const std::int64_t first = part * kPathPart;
    const std::int64_t count = job.size - first < kPathPart ? job.size - first : kPathPart;
    const float sigma = job.sigma[job.per_sample ? row : step];
    const float inverse = sigma >= 0 ? 1 / sigma : __builtin_nanf("");
    const float slope = job.upstream ? inverse * job.upstream[b] : inverse;
    const std::int64_t at = row * job.size + first;
    const double squares = path_part<Value, Grad>(job.dmu + at, Grad ? job.grad + at : nullptr,
                                                  count, inverse, slope);
    if constexpr (Value) job.partials[item] = squares;
    if (++part < parts) continue;
    part = 0;
    ++row;
    if (++b < job.batch) continue;
    b = 0;
    ++step;
  }
}

// The size of parts does not depend on the number of threads, so neither do the results' bits.
static void path_kl(const PathKLJob& job, const Team& team) {
  if (!job.kl) {
    path_rows<false, true>(job, team);
    return;
  }
  if (job.grad)
    path_rows<true, true>(job, team);
  else
    path_rows<true, false>(job, team);
  team.barrier();
  const std::int64_t parts = (job.size + kPathPart - 1) / kPathPart;
  const auto [begin, end] = team.share(job.batch);
  // In memory's order. The sum of a trajectory so far is kept in place of its first part.
  for (std::int64_t t = 0; t < job.steps; ++t)
    for (std::int64_t b = begin; b < end; ++b) {
      const std::int64_t row = t * job.batch + b;
      double cost = 0;
      for (std::int64_t p = 0; p < parts; ++p) cost += job.partials[row * parts + p];
      cost *= 0.5;
      job.costs[row] = static_cast<float>(cost);
      double& kl = job.partials[b * parts];
      kl = t ? kl + cost : cost;
    }
  for (std::int64_t b = begin; b < end; ++b)
    job.kl[b] = static_cast<float>(job.partials[b * parts]);
}

}  // namespace gaussreg::GAUSSREG_ISA
