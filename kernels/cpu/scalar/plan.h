// Roots of unity and digit orders for the DFT of one size, made once and kept.
#pragma once

#include <cstdint>
#include <vector>

namespace gaussreg {

// A sample of D = 2 M reals, M = 16 R, is M complex numbers z_n = xp_2n + i xp_2n+1. With
// n = l R + r and k = k_l + 16 k_r its DFT is: 16 points over l, a product with
// exp(-2 pi i r k_l / M), then R points over r, whole vectors of 16 k_l at a time. Bins come out as
// blocks of 16.
struct Plan {
  std::int64_t size;    // D
  std::int64_t blocks;  // R
  std::int64_t tiles;   // of 16 consecutive r; if R < 16 there is one, and part of it is unused
  int lanes;            // used in a tile: min(16, R)
  // Tiles c, c + columns, .. hold all inputs of butterflies 16 c .. 16 c + 15 of the widest pass.
  // If that pass has no such columns, there are as many as tiles.
  std::int64_t columns;

  struct Pass {
    int radix;
    std::vector<float> roots;  // [n / radix][radix - 1] pairs exp(-2 pi i j q / n); not the last
  };
  std::vector<Pass> passes;              // of the R points, largest n first
  std::vector<std::int32_t> block_of;    // [R / last radix]: first block of a last butterfly

  std::vector<float> tile_roots;  // [tiles][16 k_l] pairs exp(-2 pi i 16 t k_l / M) / (2 sqrt D)
  float lane_re[16][16];          // [k_l][lane]: exp(-2 pi i lane k_l / M)
  float lane_im[16][16];
  std::vector<float> bin_roots;  // [R / 2] pairs exp(-2 pi i 16 p / D)
  float bin_re[16];              // exp(-2 pi i l / D)
  float bin_im[16];

  bool has_columns() const { return columns < tiles; }
};

// Whether the fused kernels take samples of this size: a power of two from 64 to 2^24.
bool has_plan(std::int64_t size);

// The plan of a size, made at its first use and kept. There are at most 19 sizes, and a plan takes
// about a byte per element.
const Plan& plan(std::int64_t size);

// Call it once. It keeps forks from happening while a plan is looked up: the child would inherit
// the lock, and wait for it for ever.
void survive_forks();

}  // namespace gaussreg
