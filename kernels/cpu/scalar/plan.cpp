#include "plan.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <list>
#include <memory>
#include <mutex>
#include <numbers>
#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

namespace gaussreg {
namespace {

constexpr std::int64_t kSmallest = 64;
constexpr std::int64_t kLargest = std::int64_t{1} << 24;

// exp(-2 pi i numerator / denominator) times `scale`, rounded once.
void root(std::int64_t numerator, std::int64_t denominator, float& re, float& im,
          double scale = 1) {
  const double angle =
      -2 * std::numbers::pi * static_cast<double>(numerator % denominator) / static_cast<double>(denominator);
  re = static_cast<float>(scale * std::cos(angle));
  im = static_cast<float>(scale * std::sin(angle));
}

void append_root(std::vector<float>& roots, std::int64_t numerator, std::int64_t denominator,
                 double scale = 1) {
  float re, im;
  root(numerator, denominator, re, im, scale);
  roots.push_back(re);
  roots.push_back(im);
}

constexpr int kOddRadices[] = {9, 3, 5, 7, 11, 13, 17, 19};

// Radices whose product is `points`. The first belongs to the widest pass: the first in this order
// whose pass has whole columns of tiles, if any.
std::vector<int> radices(std::int64_t points) {
  std::vector<int> result;
  int bits = std::countr_zero(static_cast<std::uint64_t>(points));
  std::int64_t rest = points >> bits;
  for (; bits >= 5 || bits == 3; bits -= 3) result.push_back(8);
  for (; bits >= 2; bits -= 2) result.push_back(4);
  if (bits) result.push_back(2);
  for (const int odd : kOddRadices)
    for (; rest % odd == 0; rest /= odd) result.push_back(odd);
  const auto in_columns = std::find_if(result.begin(), result.end(),
                                       [&](int radix) { return points / radix % 16 == 0; });
  if (in_columns != result.end()) std::rotate(result.begin(), in_columns, in_columns + 1);
  return result;
}

std::shared_ptr<const Plan> make(std::int64_t size) {
  auto made = std::make_shared<Plan>();
  Plan& p = *made;
  const std::int64_t points = size / 2;
  p.size = size;
  p.blocks = points / 16;
  p.tiles = (p.blocks + 15) / 16;

  p.block_of = {0};
  std::int64_t n = p.blocks, step = 1;
  for (const int radix : radices(p.blocks)) {
    Plan::Pass pass{radix, {}};
    const bool last = n == radix;
    if (!last) {
      for (std::int64_t j = 0; j < n / radix; ++j)
        for (int q = 1; q < radix; ++q) append_root(pass.roots, j * q, n);
      std::vector<std::int32_t> next;  // position (s, q) holds bins congruent to block_of[s] + step q
      for (const std::int32_t first : p.block_of)
        for (int q = 0; q < radix; ++q) next.push_back(static_cast<std::int32_t>(first + step * q));
      p.block_of = std::move(next);
    }
    p.passes.push_back(std::move(pass));
    n /= radix;
    step *= radix;
  }
  const std::int64_t widest = p.blocks / p.passes[0].radix;
  p.columns = p.passes.size() > 1 && widest % 16 == 0 ? widest / 16 : p.tiles;

  for (std::int64_t t = 0; t < p.tiles; ++t)
    for (int k = 0; k < 16; ++k)
      append_root(p.tile_roots, 16 * t * k, points, 0.5 / std::sqrt(static_cast<double>(size)));
  for (int k = 0; k < 16; ++k)
    for (int lane = 0; lane < 16; ++lane) root(lane * k, points, p.lane_re[k][lane], p.lane_im[k][lane]);
  for (std::int64_t block = 0; block < p.blocks / 2; ++block) append_root(p.bin_roots, 16 * block, size);
  for (int l = 0; l < 16; ++l) root(l, size, p.bin_re[l], p.bin_im[l]);
  return made;
}

}  // namespace

bool has_plan(std::int64_t size) {
  if (size < kSmallest || size > kLargest || size % kSmallest) return false;
  std::int64_t rest = size >> std::countr_zero(static_cast<std::uint64_t>(size));
  for (const int odd : kOddRadices)
    while (rest % odd == 0) rest /= odd;
  return rest == 1;
}

namespace {

struct Plans {
  std::mutex mutex;
  std::list<std::shared_ptr<const Plan>> made;  // the last used first
};

Plans& plans() {
  static Plans kept;
  return kept;
}

}  // namespace

void survive_forks() {
#if defined(__unix__) || defined(__APPLE__)
  plans();
  pthread_atfork([] { plans().mutex.lock(); }, [] { plans().mutex.unlock(); },
                 [] { plans().mutex.unlock(); });
#endif
}

std::shared_ptr<const Plan> plan(std::int64_t size) {
  Plans& kept = plans();
  const auto find = [&]() -> std::shared_ptr<const Plan> {
    for (auto i = kept.made.begin(); i != kept.made.end(); ++i)
      if ((*i)->size == size) {
        kept.made.splice(kept.made.begin(), kept.made, i);
        return kept.made.front();
      }
    return nullptr;
  };
  {
    const std::lock_guard lock(kept.mutex);
    if (auto found = find()) return found;
  }
  auto fresh = make(size);  // without the lock, because a fork waits for it
  const std::lock_guard lock(kept.mutex);
  if (auto found = find()) return found;
  kept.made.push_front(std::move(fresh));
  if (kept.made.size() > kPlans) kept.made.pop_back();
  return kept.made.front();
}

}  // namespace gaussreg
