// The keyed bijection "v1" of 0..D-1: a Feistel network with cycle walking.
// The same arithmetic stands in gaussreg_fast/reference.py; both are pinned by
// golden values, because a seed must give the same permutation for ever.
#pragma once

#include <cstdint>

namespace gaussreg {

// Writes perm[j] for j = 0..size-1 to `out`, or its inverse. `sample` selects
// one of the independent permutations that a seed stands for; a permutation
// that is shared by a batch is sample 0. Requires 1 <= size <= 2^31.
void permutation(std::uint64_t seed, std::uint64_t sample, std::int64_t size, bool inverse,
                 std::int64_t* out);

}  // namespace gaussreg
