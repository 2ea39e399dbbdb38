// The keyed bijection "v1" of 0..2^bits-1, a Feistel network. It does the arithmetic of
// gaussreg_fast/reference/_permutation.py; tests hold both to golden values, because a seed must
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

// Splits an index into two halves and changes each in turn by a hash of the other: even rounds
// change the left half, odd ones the right.
// `sample` selects one of the independent permutations that a seed stands for; a permutation that
// is shared by a batch is sample 0.
struct Feistel {
  std::uint32_t multiplier[kMaxRounds], addend[kMaxRounds];
  int rounds;               // always an even number
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

  // Bits of the half that a round changes, and of the half that it hashes.
  int changed_bits(int round) const { return round % 2 ? low_bits : high_bits; }
  int hashed_bits(int round) const { return round % 2 ? high_bits : low_bits; }

  vu hash(int round, vu half) const {
    return (half * (vu{} + multiplier[round]) + (vu{} + addend[round])) >> (32 - changed_bits(round));
  }
};

// The network on vectors of 32-bit words, for every size and processor.
class WordNetwork {
 public:
  explicit WordNetwork(const Feistel& feistel) : f_(feistel) {}

  // Enough to hide the time of a multiplication, few enough for the registers.
  static constexpr int kStep = 10 * W, kPart = 16 * kStep;

  // Writes the images of start, start + 1, ..; `count` is a multiple of kStep.
  template <bool inverse>
  void first(std::uint32_t start, int count, std::uint32_t* out) const {
    const vu lanes = counting();
    for (int k = 0; k < count; k += kStep) {
      vu index[kStep / W];
      for (int i = 0; i < kStep / W; ++i) index[i] = lanes + (start + static_cast<std::uint32_t>(k + i * W));
      apply<inverse>(index);
      for (int i = 0; i < kStep / W; ++i) store(out + k + i * W, index[i]);
    }
  }

  // Replaces numbers by their images.
  template <bool inverse>
  void again(int count, std::uint32_t* values) const {
    for (int k = 0; k < count; k += kStep) {
      vu index[kStep / W];
      for (int i = 0; i < kStep / W; ++i) index[i] = load<vu>(values + k + i * W);
      apply<inverse>(index);
      for (int i = 0; i < kStep / W; ++i) store(values + k + i * W, index[i]);
    }
  }

 private:
  template <bool inverse>
  void apply(vu* index) const {
    constexpr int N = kStep / W;
    vu left[N], right[N];
    for (int i = 0; i < N; ++i) {
      left[i] = index[i] >> f_.low_bits;
      right[i] = index[i] & ((1u << f_.low_bits) - 1u);
    }
    for (int r = 0; r < f_.rounds; r += 2) {
      round(inverse ? f_.rounds - 1 - r : r, left, right);
      round(inverse ? f_.rounds - 2 - r : r + 1, left, right);
    }
    for (int i = 0; i < N; ++i) index[i] = (left[i] << f_.low_bits) | right[i];
  }

  void round(int r, vu* left, vu* right) const {
    for (int i = 0; i < kStep / W; ++i)
      if (r % 2 == 0)
        left[i] ^= f_.hash(r, right[i]);
      else
        right[i] ^= f_.hash(r, left[i]);
  }

  const Feistel& f_;
};

}  // namespace gaussreg::GAUSSREG_ISA
