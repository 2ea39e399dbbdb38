#include "project_block.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>

namespace gaussreg {

// The lengths of the nearest point are relu(|y| - lambda), scaled to the 1-norm. If n lengths are
// kept, with mean m and sum of squares about it v, the threshold lambda is m - sqrt(g b v / (n (n -
// g b))). With too many lengths the threshold is too low, but still drops no length that must be
// kept. So lengths below the threshold are dropped until there are none. No sort is needed, and
// sums about a mean lose no digits to cancellation.
void project_block(float* lengths, std::int64_t b, double scale) {
  constexpr double g = std::numbers::pi / 4;
  constexpr double infinity = std::numeric_limits<double>::infinity();
  const double gb = g * static_cast<double>(b);
  const auto least = static_cast<std::int64_t>(gb) + 1;  // fewer cannot meet both norms
  double top = 0;
  for (std::int64_t i = 0; i < b; ++i) top = lengths[i] <= top ? top : lengths[i];
  for (std::int64_t i = 0; i < b; ++i) top = std::isfinite(lengths[i]) ? top : infinity;
  if (!std::isfinite(top)) {
    std::fill_n(lengths, b, std::numeric_limits<float>::quiet_NaN());
    return;
  }

  // With a tie at the maximum there are many nearest points: a ramp picks one.
  const double floor = top * 16 * std::numeric_limits<float>::epsilon();
  const auto near = std::count_if(lengths, lengths + b, [&](float v) { return top - v <= floor; });
  const bool tied = near >= least;
  const double unit =
      tied ? std::max(floor, static_cast<double>(std::numeric_limits<float>::min())) : top;
  const double step = tied ? 1 / static_cast<double>(least) : 0;
  const auto w = [&](std::int64_t i) {
    return (lengths[i] - top) / unit - step * static_cast<double>(i);
  };

  double lambda = -infinity;
  for (std::int64_t before = 0;;) {
    std::int64_t n = 0;
    double sum = 0, squares = 0;
    for (std::int64_t i = 0; i < b; ++i)
      if (w(i) > lambda) ++n, sum += w(i);
    if (n == before || n < least) break;
    before = n;
    const auto count = static_cast<double>(n);
    const double mean = sum / count;
    for (std::int64_t i = 0; i < b; ++i)
      if (w(i) > lambda) squares += (w(i) - mean) * (w(i) - mean);
    lambda = std::max(lambda, mean - std::sqrt(gb * squares / (count * (count - gb))));
  }
  double excess = 0;
  for (std::int64_t i = 0; i < b; ++i) excess += std::max(w(i) - lambda, 0.0);
  const double factor = scale * std::sqrt(g) * static_cast<double>(b) / excess;
  for (std::int64_t i = 0; i < b; ++i)
    lengths[i] = static_cast<float>(factor * std::max(w(i) - lambda, 0.0));
}

}  // namespace gaussreg
