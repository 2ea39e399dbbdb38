// The DFT of R points over whole blocks of 16 complex lanes, in place but for its last pass.
//
// Forward: decimation in frequency, depth first, so that small parts stay in the first cache.
// A block is 16 real parts, then 16 imaginary ones. The last pass writes the bins in natural
// order, real and imaginary parts apart. Backward does the passes in the opposite order.
#pragma once

#include "dft.h"
#include "plan.h"
#include "team.h"

namespace gaussreg::GAUSSREG_ISA {

// `stride`: blocks from one input of a butterfly to the next.
template <int N, int S>
static void middle_pass(float* z, std::int64_t stride, const float* roots, std::int64_t begin,
                        std::int64_t end) {
  for (std::int64_t j = begin; j < end; ++j) {
    const float* w = roots + j * (N - 1) * 2;
    for (int c = 0; c < COLS; ++c) {
      Complex a[N];
      for (int i = 0; i < N; ++i) {
        a[i] = load_block(z + (j + i * stride) * 2 * L, c);
        if constexpr (S > 0)
          if (i) a[i] = turn<S>(a[i], Complex{splat(w[2 * i - 2]), splat(w[2 * i - 1])});
      }
      dft<N, S>(a);
      for (int i = 0; i < N; ++i) {
        if constexpr (S < 0)
          if (i) a[i] = turn<S>(a[i], Complex{splat(w[2 * i - 2]), splat(w[2 * i - 1])});
        store_block(z + (j + i * stride) * 2 * L, c, a[i]);
      }
    }
  }
}

// Butterflies s = begin..end-1 of the last pass, between z and the bins in natural order.
template <int N, int S>
static void last_pass(float* z, const Plan& plan, float* re, float* im, std::int64_t begin,
                      std::int64_t end) {
  const std::int64_t step = plan.blocks / N;
  for (std::int64_t s = begin; s < end; ++s) {
    const std::int64_t block = plan.block_of[s];
    for (int c = 0; c < COLS; ++c) {
      Complex a[N];
      for (int i = 0; i < N; ++i) {
        const std::int64_t bin = (block + i * step) * L + c * W;
        if constexpr (S < 0)
          a[i] = load_block(z + (s * N + i) * 2 * L, c);
        else
          a[i] = {load(re + bin), load(im + bin)};
      }
      dft<N, S>(a);
      for (int i = 0; i < N; ++i) {
        const std::int64_t bin = (block + i * step) * L + c * W;
        if constexpr (S < 0) {
          store(re + bin, a[i].re);
          store(im + bin, a[i].im);
        } else {
          store_block(z + (s * N + i) * 2 * L, c, a[i]);
        }
      }
    }
  }
}

// Calls body with a radix of a plan as a constant.
template <class Body>
GAUSSREG_INLINE void with_radix(int radix, Body&& body) {
  switch (radix) {
    case 2: return body(std::integral_constant<int, 2>{});
    case 3: return body(std::integral_constant<int, 3>{});
    case 4: return body(std::integral_constant<int, 4>{});
    case 5: return body(std::integral_constant<int, 5>{});
    case 7: return body(std::integral_constant<int, 7>{});
    case 8: return body(std::integral_constant<int, 8>{});
    case 9: return body(std::integral_constant<int, 9>{});
    case 11: return body(std::integral_constant<int, 11>{});
    case 13: return body(std::integral_constant<int, 13>{});
    case 17: return body(std::integral_constant<int, 17>{});
    default: return body(std::integral_constant<int, 19>{});
  }
}

template <int S>
static void pass(float* z, std::int64_t stride, const Plan::Pass& p, std::int64_t begin,
                 std::int64_t end) {
  with_radix(p.radix,
             [&](auto radix) { middle_pass<radix(), S>(z, stride, p.roots.data(), begin, end); });
}

// The passes from `depth` on, for the n blocks from `first` on.
template <int S>
static void transform(float* z, const Plan& plan, std::size_t depth, std::int64_t first,
                      std::int64_t n, float* re, float* im) {
  const Plan::Pass& p = plan.passes[depth];
  if (depth + 1 == plan.passes.size()) {
    const std::int64_t begin = first / p.radix, end = (first + n) / p.radix;
    return with_radix(p.radix,
                      [&](auto radix) { last_pass<radix(), S>(z, plan, re, im, begin, end); });
  }
  const std::int64_t part = n / p.radix;
  const auto parts = [&] {
    if (depth + 2 == plan.passes.size())
      transform<S>(z, plan, depth + 1, first, n, re, im);
    else
      for (int i = 0; i < p.radix; ++i)
        transform<S>(z, plan, depth + 1, first + i * part, part, re, im);
  };
  if (S > 0) parts();
  pass<S>(z + first * 2 * L, part, p, 0, part);
  if (S < 0) parts();
}

// The widest pass, over one column of tiles; does nothing if the pass has no columns.
template <int S>
static void column_pass(float* z, const Plan& plan, std::int64_t column) {
  if (!plan.has_columns()) return;
  const Plan::Pass& widest = plan.passes[0];
  const std::int64_t part = plan.blocks / widest.radix;
  pass<S>(z, part, widest, column * L, column * L + L);
}

// The rest of the transform: a team shares the parts that the widest pass leaves; if that has no
// columns, one thread does the whole.
template <int S>
static void transform(float* z, const Plan& plan, float* re, float* im, const Team& team) {
  if (plan.has_columns()) {
    const int radix = plan.passes[0].radix;
    const std::int64_t part = plan.blocks / radix;
    const auto [begin, end] = team.share(radix);
    for (std::int64_t i = begin; i < end; ++i) transform<S>(z, plan, 1, i * part, part, re, im);
  } else if (team.rank() == 0) {
    transform<S>(z, plan, 0, 0, plan.blocks, re, im);
  }
  team.barrier();
}

}  // namespace gaussreg::GAUSSREG_ISA
