// Four samples that share a permutation, side by side: a random access costs the same for 16 bytes
// as for 4, so one access serves all four.
#pragma once

#include "numbers.h"
#include "tile.h"

namespace gaussreg::GAUSSREG_ISA {

constexpr int kGroup = 4;
typedef float vg __attribute__((vector_size(kGroup * 4)));

// group[i] = x_0[i], .., x_3[i] of `count` samples, which follow each other; the first stands in for
// those that are missing.
template <class T>
static void interleave(const T* x, int count, std::int64_t size, float* group) {
  for (std::int64_t i = 0; i < size; i += W) {
    alignas(64) float rows[kGroup][W];
    for (int s = 0; s < kGroup; ++s) store(rows[s], T::read(x + (s < count ? s : 0) * size + i));
    for (int j = 0; j < W; j += kGroup) {
      vg square[kGroup];
      for (int s = 0; s < kGroup; ++s) square[s] = load<vg>(rows[s] + j);
      transpose<kGroup>(square);
      for (int s = 0; s < kGroup; ++s) store(group + (i + j + s) * kGroup, square[s]);
    }
  }
}

// gather_tile() for each sample; their values lie kTile apart.
static void gather_tiles(const Plan& plan, const std::int32_t* table, std::int64_t tile,
                         const float* group, float* values) {
  for (int l = 0; l < L; ++l) {
    const std::int32_t* from = row_of(plan, table, tile, l);
    for (int lane = 0; lane < L; lane += kGroup)
      for (int part = 0; part < 2; ++part) {
        vg square[kGroup];
        for (int i = 0; i < kGroup; ++i)
          square[i] = load<vg>(group + std::int64_t{kGroup} * from[2 * (lane + i) + part]);
        transpose<kGroup>(square);
        for (int s = 0; s < kGroup; ++s)
          store(values + s * kTile + (2 * l + part) * L + lane, square[s]);
      }
  }
}

// The inverse of gather_tiles.
static void scatter_tiles(const Plan& plan, const std::int32_t* table, std::int64_t tile,
                          const float* values, float* group) {
  for (int l = 0; l < L; ++l) {
    const std::int32_t* to = row_of(plan, table, tile, l);
    for (int lane = 0; lane < L; lane += kGroup)
      for (int part = 0; part < 2; ++part) {
        vg square[kGroup];
        for (int s = 0; s < kGroup; ++s)
          square[s] = load<vg>(values + s * kTile + (2 * l + part) * L + lane);
        transpose<kGroup>(square);
        for (int i = 0; i < kGroup; ++i)
          store(group + std::int64_t{kGroup} * to[2 * (lane + i) + part], square[i]);
      }
  }
}

// Writes group[i][s] + polynomial_s(x_s[i]) to out, for the first `count` samples. It writes runs
// of whole cache lines, because samples often lie apart by a power of two, in the same cache set.
template <int K, class T, class G>
static void separate(const float* group, const T* x, int count,
                     const float (*coefficient)[kMaxOrder], std::int64_t size, G* out) {
  constexpr int kPart = 128;
  for (std::int64_t i = 0; i < size; i += kPart) {
    alignas(64) float apart[kGroup][kPart];
    for (int j = 0; j < kPart; j += kGroup) {
      vg square[kGroup];
      for (int k = 0; k < kGroup; ++k) square[k] = load<vg>(group + (i + j + k) * kGroup);
      transpose<kGroup>(square);
      for (int s = 0; s < kGroup; ++s) store(apart[s] + j, square[s]);
    }
    for (int s = 0; s < count; ++s)
      for (int j = 0; j < kPart; j += W) {
        const std::int64_t at = s * size + i + j;
        const vf moments = polynomial<K>(T::read(x + at), coefficient[s]);
        store(out + at, G::rounded(load(apart[s] + j) + moments));
      }
  }
}

}  // namespace gaussreg::GAUSSREG_ISA
