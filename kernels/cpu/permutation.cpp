#include "permutation.h"

#include <algorithm>
#include <array>
#include <bit>

// GCC compiles such a function once per instruction set and picks one at load time.
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#define GAUSSREG_SIMD_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define GAUSSREG_SIMD_CLONES
#endif

namespace gaussreg {
namespace {

constexpr std::uint64_t kGolden = 0x9E3779B97F4A7C15ull;
constexpr std::uint64_t kStream = 0xD1B54A32D192ED03ull;
constexpr int kMaxRounds = 24;
constexpr int kTile = 1024;  // elements carried through all rounds while they sit in L1

// The finaliser of splitmix64.
constexpr std::uint64_t mix64(std::uint64_t z) {
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
  return z ^ (z >> 31);
}

struct Feistel {
  std::array<std::uint32_t, kMaxRounds> multiplier;
  std::array<std::uint32_t, kMaxRounds> addend;
  int rounds;
  int low_bits;   // of the right half
  int high_bits;  // of the left half

  Feistel(std::uint64_t seed, std::uint64_t sample, std::int64_t size) {
    const int bits = std::max(2, static_cast<int>(std::bit_width(static_cast<std::uint64_t>(size - 1))));
    low_bits = bits / 2;
    high_bits = bits - low_bits;
    rounds = bits > 5 ? 12 : 24;
    const std::uint64_t state = mix64(seed + kGolden) + sample * kStream;
    for (int r = 0; r < rounds; ++r) {
      const std::uint64_t word = mix64(state + kGolden * static_cast<std::uint64_t>(r + 1));
      multiplier[r] = static_cast<std::uint32_t>(word >> 32) | 1u;
      addend[r] = static_cast<std::uint32_t>(word);
    }
  }
};

// One pass through the network for `count` elements, halves kept apart so that
// every round is one vectorisable loop.
GAUSSREG_SIMD_CLONES
void apply(const Feistel& network, std::uint32_t* left, std::uint32_t* right, int count,
           bool inverse) {
  for (int i = 0; i < network.rounds; ++i) {
    const int r = inverse ? network.rounds - 1 - i : i;
    const bool to_left = r % 2 == 0;
    std::uint32_t* __restrict target = to_left ? left : right;
    const std::uint32_t* __restrict source = to_left ? right : left;
    const int shift = 32 - (to_left ? network.high_bits : network.low_bits);
    const std::uint32_t m = network.multiplier[r];
    const std::uint32_t a = network.addend[r];
    for (int k = 0; k < count; ++k) target[k] ^= (source[k] * m + a) >> shift;
  }
}

}  // namespace

void permutation(std::uint64_t seed, std::uint64_t sample, std::int64_t size, bool inverse,
                 std::int64_t* out) {
  const Feistel network(seed, sample, size);
  const std::uint32_t low_mask = (1u << network.low_bits) - 1u;
  std::uint32_t left[kTile];
  std::uint32_t right[kTile];
  const auto join = [&](std::uint32_t l, std::uint32_t r) {
    return static_cast<std::int64_t>((static_cast<std::uint64_t>(l) << network.low_bits) | r);
  };
  for (std::int64_t start = 0; start < size; start += kTile) {
    const int count = static_cast<int>(std::min<std::int64_t>(kTile, size - start));
    for (int k = 0; k < count; ++k) {
      const auto j = static_cast<std::uint32_t>(start + k);
      left[k] = j >> network.low_bits;
      right[k] = j & low_mask;
    }
    apply(network, left, right, count, inverse);
    for (int k = 0; k < count; ++k) {
      std::int64_t value = join(left[k], right[k]);
      // Cycle walking: the network permutes 0..2^bits-1; go on until inside.
      while (value >= size) {
        apply(network, &left[k], &right[k], 1, inverse);
        value = join(left[k], right[k]);
      }
      out[start + k] = value;
    }
  }
}

}  // namespace gaussreg
