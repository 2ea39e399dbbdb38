#include "project_block.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>

namespace gaussreg {

// The nearest point is y' ~ relu(|y| - lambda), scaled to the 1-norm. It does not change when all
// lengths are shifted or scaled, so the threshold is solved for w = (|y| - max) / spread, which
// loses no digits to cancellation.
void project_block(float* lengths, std::int64_t b, Ranked* work) {
  const double g = std::numbers::pi / 4, gb = g * static_cast<double>(b);
  bool finite = true;
  for (std::int64_t i = 0; i < b; ++i) {
    work[i] = {lengths[i], static_cast<std::int32_t>(i)};
    finite = finite && std::isfinite(lengths[i]);
  }
  if (!finite) {
    std::fill_n(lengths, b, std::numeric_limits<float>::quiet_NaN());
    return;
  }
  // Equal lengths in the order of their places.
  std::sort(work, work + b, [](const Ranked& p, const Ranked& q) {
    return p.value > q.value || (p.value == q.value && p.place < q.place);
  });

  const double top = work[0].value;
  const auto j_min = static_cast<std::int64_t>(std::floor(gb)) + 1;  // fewer cannot meet both norms
  const double spread = top - work[j_min - 1].value;
  const double floor = top * 16 * std::numeric_limits<float>::epsilon();
  const bool tied = spread <= floor;
  const double unit =
      tied ? std::max(floor, static_cast<double>(std::numeric_limits<float>::min())) : spread;
  const auto w = [&](std::int64_t i) {
    const double ramp = tied ? static_cast<double>(i) / static_cast<double>(j_min) : 0;
    return (work[i].value - top) / unit - ramp;  // a tie at the maximum: a ramp picks one
  };

  double s1 = 0, s2 = 0, least = std::numeric_limits<double>::infinity(), lambda = 0;
  for (std::int64_t i = 0; i < b; ++i) {
    const double wi = w(i), j = static_cast<double>(i + 1);
    s1 += wi;
    s2 += wi * wi;
    if (i + 1 < j_min) continue;
    const double candidate =
        (s1 - std::sqrt(gb * std::max(j * s2 - s1 * s1, 0.0) / (j - gb))) / j;
    // The unique count that is consistent with its own threshold, whatever the rounding.
    const double below = i + 1 < b ? w(i + 1) - candidate : -1;
    const double violation = std::max(below, 0.0) + std::max(candidate - wi, 0.0);
    if (violation < least) {
      least = violation;
      lambda = candidate;
    }
  }
  double excess = 0;
  for (std::int64_t i = 0; i < b; ++i) excess += std::max(w(i) - lambda, 0.0);
  const double factor = std::sqrt(g) * static_cast<double>(b) / excess;
  for (std::int64_t i = 0; i < b; ++i)
    lengths[work[i].place] = static_cast<float>(factor * std::max(w(i) - lambda, 0.0));
}

}  // namespace gaussreg
