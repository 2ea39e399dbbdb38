// The first and the last step of the fused pipeline: they move 512 numbers of a sample between
// their permuted places and 16 blocks of the transform.
//
// Tile t has the complex numbers z_n, n = l R + r, of 16 consecutive r = 16 t + lane and all 16 l.
// A buffer of a tile is [l][real, imaginary][lane]. See plan.h.
#pragma once

#include "dft.h"
#include "moments.h"
#include "plan.h"

namespace gaussreg::GAUSSREG_ISA {

constexpr int kTile = 2 * L * L;

// Row l of a tile (even: real part, odd: imaginary part) of a table, or of x without permutation.
template <class T>
GAUSSREG_INLINE T* row_of(const Plan& plan, T* table, std::int64_t tile, int l) {
  return table + 2 * (l * plan.blocks + tile * L);
}

// Prefetches a tile's part of a table, because the processor does not foresee the order in columns.
GAUSSREG_INLINE void expect_tile(const Plan& plan, const std::int32_t* table, std::int64_t tile) {
  if (!table || tile >= plan.tiles) return;
  for (int l = 0; l < L; ++l) {
    __builtin_prefetch(row_of(plan, table, tile, l));
    __builtin_prefetch(row_of(plan, table, tile, l) + L);
  }
}

// gather_tile() without a permutation.
static void read_tile(const Plan& plan, std::int64_t tile, const float* x, float* values) {
  const int lanes = plan.lanes(tile);
  for (int l = 0; l < L; ++l) {
    const float* from = row_of(plan, x, tile, l);
    float *re = values + l * 2 * L, *im = re + L;
    if (lanes == L) {
      for (int c = 0; c < L; c += W) {
        const vf a = load(from + 2 * c), b = load(from + 2 * c + W);
        store(re + c, shuffle(a, b, Every<0>{}, std::make_index_sequence<W>{}));
        store(im + c, shuffle(a, b, Every<1>{}, std::make_index_sequence<W>{}));
      }
      continue;
    }
    for (int lane = 0; lane < L; ++lane) {
      re[lane] = lane < lanes ? from[2 * lane] : 0;
      im[lane] = lane < lanes ? from[2 * lane + 1] : 0;
    }
  }
}

// The inverse of read_tile.
static void write_tile(const Plan& plan, std::int64_t tile, const float* values, float* x) {
  const int lanes = plan.lanes(tile);
  for (int l = 0; l < L; ++l) {
    float* to = row_of(plan, x, tile, l);
    const float *re = values + l * 2 * L, *im = re + L;
    if (lanes == L) {
      for (int c = 0; c < L; c += W) {
        const vf a = load(re + c), b = load(im + c);
        store(to + 2 * c, shuffle(a, b, Zipped<0>{}, std::make_index_sequence<W>{}));
        store(to + 2 * c + W, shuffle(a, b, Zipped<W / 2>{}, std::make_index_sequence<W>{}));
      }
      continue;
    }
    for (int lane = 0; lane < lanes; ++lane) {
      to[2 * lane] = re[lane];
      to[2 * lane + 1] = im[lane];
    }
  }
}

// Calls move(number, place) for each number of a tile's buffer and its place by the table.
template <class Move>
GAUSSREG_INLINE void each_place(const Plan& plan, const std::int32_t* table, std::int64_t tile,
                                Move&& move) {
  const auto rows = [&](int lanes) {
    for (int l = 0; l < L; ++l) {
      const std::int32_t* places = row_of(plan, table, tile, l);
      for (int lane = 0; lane < lanes; ++lane) {
        move(l * 2 * L + lane, places[2 * lane]);
        move(l * 2 * L + L + lane, places[2 * lane + 1]);
      }
    }
  };
  const int lanes = plan.lanes(tile);
  if (lanes == L)
    rows(L);  // loops of known length
  else
    rows(lanes);
}

// Gathers the numbers of a tile through the table; a null table stands for no permutation.
GAUSSREG_INLINE void gather_tile(const Plan& plan, const std::int32_t* table, std::int64_t tile,
                                 const float* x, float* values) {
  if (!table) return read_tile(plan, tile, x, values);
  if (plan.lanes(tile) < L)
    for (int i = 0; i < kTile; ++i) values[i] = 0;
  each_place(plan, table, tile, [&](int i, std::int32_t place) { values[i] = x[place]; });
}

// The inverse of gather_tile.
GAUSSREG_INLINE void scatter_tile(const Plan& plan, const std::int32_t* table, std::int64_t tile,
                                  const float* values, float* x) {
  if (!table) return write_tile(plan, tile, values, x);
  each_place(plan, table, tile, [&](int i, std::int32_t place) { x[place] = values[i]; });
}

// exp(-2 pi i r k / M) / (2 sqrt D) of a tile's rows k.
GAUSSREG_INLINE Complex tile_root(const Plan& plan, std::int64_t tile, int k, int column) {
  const float* w = plan.tile_roots.data() + (tile * L + k) * 2;
  return Complex{splat(w[0]), splat(w[1])} *
         Complex{load(plan.lane_re[k] + column * W), load(plan.lane_im[k] + column * W)};
}

// A tile's roots: made as they are needed, or kept for the samples of a group, who share them.
struct MadeRoots {
  const Plan& plan;
  std::int64_t tile;
  Complex operator()(int k, int column) const { return tile_root(plan, tile, k, column); }
};

class KeptRoots {
 public:
  KeptRoots(const Plan& plan, std::int64_t tile) {
    for (int k = 0; k < L; ++k)
      for (int c = 0; c < COLS; ++c) store_block(rows_[k], c, tile_root(plan, tile, k, c));
  }
  Complex operator()(int k, int column) const { return load_block(rows_[k], column); }

 private:
  alignas(64) float rows_[L][2 * L];
};

// Transposes between the tile's rows k (lanes r) and its blocks r (lanes k). Blocks of unused r lie in
// the padding of z; no result depends on them.
template <bool forward>
GAUSSREG_INLINE void turn_tile(std::int64_t tile, float* rows, float* z) {
  float* blocks = z + tile * L * 2 * L;
  for (int part = 0; part < 2; ++part)
    for (int k = 0; k < COLS; ++k)
      for (int r = 0; r < COLS; ++r) {
        float* row = rows + (k * W * 2 + part) * L + r * W;
        float* block = blocks + (r * W * 2 + part) * L + k * W;
        vf square[W];
        for (int i = 0; i < W; ++i) square[i] = load((forward ? row : block) + i * 2 * L);
        transpose(square);
        for (int i = 0; i < W; ++i) store((forward ? block : row) + i * 2 * L, square[i]);
      }
}

// Transforms the permuted x of a tile over l and stores its blocks; adds its powers to the sums.
template <int K, class Root>
static void load_tile(std::int64_t tile, const Root& root, const float* values, float* z,
                      PowerSums<K>& sums) {
  alignas(64) float rows[kTile];
  PowerPart<K> part;
  for (int c = 0; c < COLS; ++c)
    dft16<-1>(
        [&](int l) {
          const Complex a = load_block(values + l * 2 * L, c);
          part.add(a.re, a.im);
          return a;
        },
        [&](int k, Complex a) { store_block(rows + k * 2 * L, c, turn<-1>(a, root(k, c))); });
  sums.add(part);
  turn_tile<true>(tile, rows, z);
}

// Transforms a tile's blocks back to the gradient by the permuted x, in `values`.
template <class Root>
static void unload_tile(std::int64_t tile, const Root& root, float* z, float* values) {
  alignas(64) float rows[kTile];
  turn_tile<false>(tile, rows, z);
  for (int c = 0; c < COLS; ++c)
    dft16<+1>(
        [&](int k) { return turn<+1>(load_block(rows + k * 2 * L, c), root(k, c)); },
        [&](int l, Complex a) { store_block(values + l * 2 * L, c, a); });
}

}  // namespace gaussreg::GAUSSREG_ISA
