// The white-noise projection of one block of the compact spectrum (GPER, arXiv 2602.08646).
#pragma once

#include <cstdint>

namespace gaussreg {

// Replaces b lengths |y| by `scale` times those of the nearest point with 1-norm sqrt(pi)/2 b and
// squared 2-norm b.
void project_block(float* lengths, std::int64_t b, double scale);

}  // namespace gaussreg
