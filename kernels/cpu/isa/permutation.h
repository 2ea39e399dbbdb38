// The keyed bijection "v1" of 0..D-1: a Feistel network with cycle walking. It does the arithmetic
// of gaussreg_fast/reference/_permutation.py; tests hold both to golden values, because a seed must
// give the same permutation for ever.
#pragma once

#include "vector.h"

namespace gaussreg::GAUSSREG_ISA {

constexpr int kMaxRounds = 24;

// The finaliser of splitmix64.
GAUSSREG_INLINE std::uint64_t mix64(std::uint64_t z) {
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
  return z ^ (z >> 31);
}

// Splits an index into two halves and changes each in turn by a hash of the other.
// `sample` selects one of the independent permutations that a seed stands for; a permutation that
// is shared by a batch is sample 0.
struct Feistel {
  std::uint32_t multiplier[kMaxRounds], addend[kMaxRounds];
  int rounds;
  int low_bits, high_bits;  // of the right half, of the left half

  Feistel(std::uint64_t seed, std::uint64_t sample, std::int64_t size) {
    constexpr std::uint64_t golden = 0x9E3779B97F4A7C15ull, stream = 0xD1B54A32D192ED03ull;
    int bits = 2;
    while (bits < 63 && (std::int64_t{1} << bits) < size) ++bits;
    low_bits = bits / 2;
    high_bits = bits - low_bits;
    rounds = bits > 5 ? 12 : 24;
    const std::uint64_t state = mix64(seed + golden) + sample * stream;
    for (int r = 0; r < rounds; ++r) {
      const std::uint64_t word = mix64(state + golden * static_cast<std::uint64_t>(r + 1));
      multiplier[r] = static_cast<std::uint32_t>(word >> 32) | 1u;
      addend[r] = static_cast<std::uint32_t>(word);
    }
  }

  // Round r on N vectors: an even one changes the left half, an odd one the right.
  template <int N>
  void round(int r, vu* left, vu* right) const {
    const vu m = vu{} + multiplier[r], a = vu{} + addend[r];
    if (r % 2 == 0)
      for (int i = 0; i < N; ++i) left[i] ^= (right[i] * m + a) >> (32 - high_bits);
    else
      for (int i = 0; i < N; ++i) right[i] ^= (left[i] * m + a) >> (32 - low_bits);
  }

  // One pass through the network for N vectors of indices, in place.
  template <int N, bool inverse>
  void apply(vu* index) const {
    vu left[N], right[N];
    for (int i = 0; i < N; ++i) {
      left[i] = index[i] >> low_bits;
      right[i] = index[i] & ((1u << low_bits) - 1u);
    }
    for (int r = 0; r < rounds; r += 2) {  // always an even number
      round<N>(inverse ? rounds - 1 - r : r, left, right);
      round<N>(inverse ? rounds - 2 - r : r + 1, left, right);
    }
    for (int i = 0; i < N; ++i) index[i] = (left[i] << low_bits) | right[i];
  }
};

template <bool inverse, class T>
static void permute(const Feistel& network, std::int64_t size, std::int64_t begin, std::int64_t end,
                    T* out) {
  constexpr int N = 6;  // vectors at a time: enough to hide a multiplication, few enough for registers
  constexpr int kPart = N * W * 4;
  const bool all_inside = size == std::int64_t{1} << (network.low_bits + network.high_bits);
  vu lanes;
  for (int i = 0; i < W; ++i) lanes[i] = static_cast<std::uint32_t>(i);
  std::uint32_t local[kPart], where[kPart];
  for (std::int64_t start = begin; start < end; start += kPart) {
    const int count = static_cast<int>(end - start < kPart ? end - start : kPart);
    T* part = out + (start - begin);
    // Written directly to the output if the part is full and needs no cycle walking.
    const bool straight = sizeof(T) == 4 && all_inside && count == kPart;
    std::uint32_t* value = straight ? reinterpret_cast<std::uint32_t*>(part) : local;
    for (int k = 0; k < count; k += N * W) {
      vu index[N];
      for (int i = 0; i < N; ++i) index[i] = lanes + static_cast<std::uint32_t>(start + k + i * W);
      network.apply<N, inverse>(index);
      for (int i = 0; i < N; ++i) store(value + k + i * W, index[i]);
    }
    if (straight) continue;
    for (int k = 0; k < count; ++k) part[k] = static_cast<T>(value[k]);
    // Cycle walking: the network permutes 0..2^bits-1; values outside 0..D-1 pass it again.
    if (all_inside) continue;
    for (int k = 0; k < count; ++k) where[k] = static_cast<std::uint32_t>(k);
    for (int left = count;;) {
      int outside = 0;
      for (int k = 0; k < left; ++k) {
        const std::uint32_t v = value[k], w = where[k];
        part[w] = static_cast<T>(v);  // overwritten in the next round if v is outside
        value[outside] = v;
        where[outside] = w;
        outside += static_cast<std::int64_t>(v) >= size;
      }
      left = outside;
      if (!left) break;
      for (int k = left; k % (N * W); ++k) value[k] = 0;
      for (int k = 0; k < left; k += N * W) {
        vu index[N];
        for (int i = 0; i < N; ++i) index[i] = load<vu>(value + k + i * W);
        network.apply<N, inverse>(index);
        for (int i = 0; i < N; ++i) store(value + k + i * W, index[i]);
      }
    }
  }
}

// Writes perm[j], or its inverse, for j = begin..end-1 to out[0..]. Requires 1 <= size <= 2^31.
template <class T>
static void permutation(std::uint64_t seed, std::uint64_t sample, std::int64_t size, bool inverse,
                        std::int64_t begin, std::int64_t end, T* out) {
  const Feistel network(seed, sample, size);
  if (inverse)
    permute<true>(network, size, begin, end, out);
  else
    permute<false>(network, size, begin, end, out);
}

}  // namespace gaussreg::GAUSSREG_ISA
