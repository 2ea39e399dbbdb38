// Permutation v1 of at most 2^16 numbers, for processors that have AVX-512 with VBMI: each half of
// an index is a byte, so that a vector has 64 of them, and a round's hash is a table of at most 256
// bytes, which one instruction looks up (or four, for more than 128).
#pragma once

#include "feistel.h"

#if GAUSSREG_WIDTH == 16 && defined(__AVX512BW__)
#define GAUSSREG_BYTE_NETWORK
// VBMI is newer than the rest of the instruction set: `can_run` asks the processor for it.
#define GAUSSREG_VBMI __attribute__((target("avx512vbmi")))

namespace gaussreg::GAUSSREG_ISA {

class ByteNetwork {
 public:
  static constexpr int kStep = 64, kPart = 2048;

  static bool can_run(const Feistel& feistel) {
    return feistel.high_bits <= 8 && __builtin_cpu_supports("avx512vbmi");
  }

  explicit ByteNetwork(const Feistel& feistel)
      : rounds_(feistel.rounds), low_bits_(feistel.low_bits) {
    typedef std::uint8_t bytes __attribute__((vector_size(W)));
    for (int r = 0; r < rounds_; ++r) {
      wide_[r] = feistel.hashed_bits(r) > 7;
      for (int v = 0; v < (wide_[r] ? 256 : 128); v += W) {
        const vu hash = feistel.hash(r, counting() + static_cast<std::uint32_t>(v));
        store(table_[r] + v, __builtin_convertvector(hash, bytes));
      }
    }
  }

  // Writes the images of start, start + 1, ..; `start` and `count` are multiples of kStep.
  template <bool inverse>
  GAUSSREG_VBMI void first(std::uint32_t start, int count, std::uint32_t* out) const {
    int k = 0;
    for (; k + 4 * kStep <= count; k += 4 * kStep) counted<inverse, 4>(start + k, out + k);
    for (; k < count; k += kStep) counted<inverse, 1>(start + k, out + k);
  }

  // Replaces numbers by their images.
  template <bool inverse>
  GAUSSREG_VBMI void again(int count, std::uint32_t* values) const {
    int k = 0;
    for (; k + 4 * kStep <= count; k += 4 * kStep) listed<inverse, 4>(values + k);
    for (; k < count; k += kStep) listed<inverse, 1>(values + k);
  }

 private:
  struct alignas(64) Halves {
    __m128i left[4], right[4];
  };

  // The images of N kStep numbers from `start` on.
  template <bool inverse, int N>
  GAUSSREG_VBMI void counted(std::uint32_t start, std::uint32_t* out) const {
    typedef std::uint8_t bytes __attribute__((vector_size(kStep)));
    bytes numbers;
    for (int i = 0; i < kStep; ++i) numbers[i] = static_cast<std::uint8_t>(i);
    const auto lanes = (__m512i)numbers;
    const __m512i mask = _mm512_set1_epi8(static_cast<char>((1 << low_bits_) - 1));
    // If the right half has less than 6 bits, 64 neighbours have several left halves.
    const __m512i above = _mm512_and_si512(
        _mm512_srl_epi16(lanes, _mm_cvtsi32_si128(low_bits_)),
        _mm512_set1_epi8(static_cast<char>(low_bits_ < 6 ? (1 << (6 - low_bits_)) - 1 : 0)));
    __m512i left[N], right[N];
    for (int i = 0; i < N; ++i) {
      const std::uint32_t index = start + static_cast<std::uint32_t>(i * kStep);
      left[i] = _mm512_add_epi8(_mm512_set1_epi8(static_cast<char>(index >> low_bits_)), above);
      right[i] = _mm512_and_si512(
          _mm512_add_epi8(_mm512_set1_epi8(static_cast<char>(index)), lanes), mask);
    }
    apply<inverse, N>(left, right);
    for (int i = 0; i < N; ++i) join(left[i], right[i], out + i * kStep);
  }

  // Replaces N kStep numbers by their images.
  template <bool inverse, int N>
  GAUSSREG_VBMI void listed(std::uint32_t* values) const {
    const __m128i shift = _mm_cvtsi32_si128(low_bits_);
    const __m512i mask = _mm512_set1_epi32((1 << low_bits_) - 1);
    __m512i left[N], right[N];
    for (int n = 0; n < N; ++n) {
      alignas(64) Halves h;
      for (int i = 0; i < 4; ++i) {
        const __m512i index = _mm512_loadu_si512(values + n * kStep + i * W);
        h.left[i] = _mm512_cvtepi32_epi8(_mm512_srl_epi32(index, shift));
        h.right[i] = _mm512_cvtepi32_epi8(_mm512_and_si512(index, mask));
      }
      left[n] = _mm512_load_si512(h.left);
      right[n] = _mm512_load_si512(h.right);
    }
    apply<inverse, N>(left, right);
    for (int n = 0; n < N; ++n) join(left[n], right[n], values + n * kStep);
  }

  template <bool inverse, int N>
  GAUSSREG_VBMI void apply(__m512i* left, __m512i* right) const {
    for (int r = 0; r < rounds_; r += 2) {
      if constexpr (inverse) {
        round<N>(rounds_ - 1 - r, left, right);
        round<N>(rounds_ - 2 - r, right, left);
      } else {
        round<N>(r, right, left);
        round<N>(r + 1, left, right);
      }
    }
  }

  template <int N>
  GAUSSREG_VBMI void round(int r, const __m512i* hashed, __m512i* changed) const {
    const __m512i a = _mm512_load_si512(table_[r]), b = _mm512_load_si512(table_[r] + 64);
    __m512i hash[N];
    for (int i = 0; i < N; ++i) hash[i] = _mm512_permutex2var_epi8(a, hashed[i], b);
    if (wide_[r]) {
      const __m512i c = _mm512_load_si512(table_[r] + 128), d = _mm512_load_si512(table_[r] + 192);
      for (int i = 0; i < N; ++i)
        hash[i] = _mm512_mask_mov_epi8(hash[i], _mm512_movepi8_mask(hashed[i]),
                                       _mm512_permutex2var_epi8(c, hashed[i], d));
    }
    for (int i = 0; i < N; ++i) changed[i] = _mm512_xor_si512(changed[i], hash[i]);
  }

  // Writes 64 indices of these halves.
  GAUSSREG_VBMI void join(__m512i left, __m512i right, std::uint32_t* out) const {
    alignas(64) Halves h;
    _mm512_store_si512(h.left, left);
    _mm512_store_si512(h.right, right);
    const __m128i shift = _mm_cvtsi32_si128(low_bits_);
    for (int i = 0; i < 4; ++i)
      _mm512_storeu_si512(out + i * W,
                          _mm512_or_si512(_mm512_sll_epi32(_mm512_cvtepu8_epi32(h.left[i]), shift),
                                          _mm512_cvtepu8_epi32(h.right[i])));
  }

  int rounds_, low_bits_;
  bool wide_[kMaxRounds];
  alignas(64) std::uint8_t table_[kMaxRounds][256];
};

}  // namespace gaussreg::GAUSSREG_ISA

#endif
