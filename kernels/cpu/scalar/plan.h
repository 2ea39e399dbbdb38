// Roots of unity and digit orders for the DFT of one size, made once and kept.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

namespace gaussreg {

// A sample of D = 2 M reals, M = 16 R, is M complex numbers z_n = xp_2n + i xp_2n+1. With
// n = l R + r and k = k_l + 16 k_r its DFT is: 16 points over l, a product with
// exp(-2 pi i r k_l / M), then R points over r, whole vectors of 16 k_l at a time. Bins come out as
// blocks of 16.
struct Plan {
  std::int64_t size;    // D
  std::int64_t blocks;  // R
  std::int64_t tiles;   // of 16 consecutive r; part of the last one may be unused
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
  // Consecutive r of a tile that are used.
  int lanes(std::int64_t tile) const {
    const std::int64_t rest = blocks - 16 * tile;
    return static_cast<int>(rest < 16 ? rest : 16);
  }
};

// Whether the fused kernels take samples of this size: a multiple of 64 up to 2^24 without a prime
// factor above 19. The latents of most models have such a size, also for oblong pictures.
bool has_plan(std::int64_t size);

// The plan of a size, which takes about a byte per element. The last kPlans that were used are kept.
constexpr int kPlans = 32;
std::shared_ptr<const Plan> plan(std::int64_t size);

// Call it once. It keeps forks from happening while a plan is looked up: the child would inherit
// the lock, and wait for it for ever.
void survive_forks();

}  // namespace gaussreg
