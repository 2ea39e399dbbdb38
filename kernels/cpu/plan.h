// Roots of unity and digit orders for the DFT of one size, made once and kept.
#pragma once

#include <cstdint>
#include <vector>

namespace gaussreg {

// A sample of D = 2 M reals, M = 16 R, is M complex numbers z_n = xp_2n + i xp_2n+1. With
// n = l R + r and k = k_l + 16 k_r its DFT is: 16 points over l, a turn by exp(-2 pi i r k_l / M),
// then R points over r, whole vectors of 16 k_l at a time. Bins come out as blocks of 16.
struct Plan {
  std::int64_t size;    // D
  std::int64_t blocks;  // R
  std::int64_t tiles;   // of 16 consecutive r; one, part of it unused, where R < 16
  int lanes;            // used in a tile: min(16, R)
  // Tiles c, c + columns, .. hold all that butterflies 16 c .. 16 c + 15 of the widest pass take. As
  // many as tiles, where that pass has no such columns.
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

// The plan of a size; made by the first caller, and kept: at most 19 sizes, a byte per element.
const Plan& plan(std::int64_t size);

// To be called once: a child forked while a plan is looked up does not wait for it for ever.
void survive_forks();

}  // namespace gaussreg
