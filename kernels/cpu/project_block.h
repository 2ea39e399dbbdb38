// The white-noise projection of one block of the compact spectrum (GPER, arXiv 2602.08646).
#pragma once

#include <cstdint>

namespace gaussreg {

struct Ranked {
  float value;
  std::int32_t place;
};

// Replaces b lengths |y| by those of the nearest point with 1-norm sqrt(pi)/2 b and squared 2-norm
// b. `work` has room for b.
void project_block(float* lengths, std::int64_t b, Ranked* work);

}  // namespace gaussreg
