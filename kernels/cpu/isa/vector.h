// Vectors of W floats in the compiler's own vector types, so that one source serves AVX-512,
// AVX2 and everything else (SSE2, NEON). It is compiled once per instruction set, see kernels.cpp:
// all of it is in that instruction set's namespace, and the linker must not merge any of it.
#pragma once

#include <cstdint>
#include <utility>
#if defined(__SSE2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#if !defined(GAUSSREG_ISA) || !defined(GAUSSREG_WIDTH)
#error "kernels.cpp is compiled once per instruction set, with GAUSSREG_ISA and GAUSSREG_WIDTH"
#endif

#define GAUSSREG_INLINE static inline __attribute__((always_inline))

namespace gaussreg::GAUSSREG_ISA {

constexpr int W = GAUSSREG_WIDTH;
constexpr int L = 16;        // lanes of a block of data, the same for every W
constexpr int COLS = L / W;  // vectors in a block

typedef float vf __attribute__((vector_size(W * 4)));
typedef double vd __attribute__((vector_size(W * 8)));
typedef std::int32_t vi __attribute__((vector_size(W * 4)));
typedef std::uint32_t vu __attribute__((vector_size(W * 4)));

template <class V = vf, class T = float>
GAUSSREG_INLINE V load(const T* p) {
  V v;
  __builtin_memcpy(&v, p, sizeof v);  // any alignment
  return v;
}

template <class V, class T>
GAUSSREG_INLINE void store(T* p, V v) {
  __builtin_memcpy(p, &v, sizeof v);
}

// Stores past the caches, to memory that is aligned to the vector's size, without reading the cache
// line first. Only after a `stream_fence` are other threads certain to see it. If the compiler
// knows no instruction for it, this is an ordinary store.
template <class V, class T>
GAUSSREG_INLINE void stream(T* p, V v) {
#if defined(__clang__)
  __builtin_nontemporal_store(v, reinterpret_cast<V*>(p));
#else
  [[maybe_unused]] void* to = p;
#if defined(__AVX512F__)
  if constexpr (sizeof v == 64) return _mm512_stream_si512(static_cast<__m512i*>(to), (__m512i)v);
#endif
#if defined(__AVX__)
  if constexpr (sizeof v == 32) return _mm256_stream_si256(static_cast<__m256i*>(to), (__m256i)v);
#endif
#if defined(__SSE2__)
  if constexpr (sizeof v == 16) return _mm_stream_si128(static_cast<__m128i*>(to), (__m128i)v);
#endif
  store(p, v);
#endif
}

GAUSSREG_INLINE void stream_fence() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

// a - 0 is a for every a, so compilers drop it; 0 + a is 0 for a = -0, so they would keep an
// addition.
GAUSSREG_INLINE vf splat(float a) { return a - vf{}; }

// 0, 1, .. W - 1.
GAUSSREG_INLINE vu counting() {
  vu lanes;
  for (int i = 0; i < W; ++i) lanes[i] = static_cast<std::uint32_t>(i);
  return lanes;
}

// Stores the lanes of v where `kept` is all ones, one after the other, and returns their number. The
// numbers behind them, up to W in all, are overwritten, too.
#if GAUSSREG_WIDTH == 8 && defined(__AVX2__)
struct Compressions {  // for each set of kept lanes, their numbers
  std::uint8_t lanes[1 << 8][8] = {};
  constexpr Compressions() {
    for (int set = 0; set < 1 << 8; ++set)
      for (int lane = 0, at = 0; lane < 8; ++lane)
        if (set >> lane & 1) lanes[set][at++] = static_cast<std::uint8_t>(lane);
  }
};
constexpr Compressions kCompressions;
#endif

GAUSSREG_INLINE int compress(std::uint32_t* to, vu v, vi kept) {
#if GAUSSREG_WIDTH == 16 && defined(__AVX512DQ__)
  const __mmask16 set = _mm512_movepi32_mask((__m512i)kept);
  _mm512_storeu_si512(to, _mm512_maskz_compress_epi32(set, (__m512i)v));
  return __builtin_popcount(set);
#elif GAUSSREG_WIDTH == 8 && defined(__AVX2__)
  const int set = _mm256_movemask_ps((__m256)kept);
  const __m256i lanes = _mm256_cvtepu8_epi32(
      _mm_loadl_epi64(reinterpret_cast<const __m128i*>(kCompressions.lanes[set])));
  store(to, _mm256_permutevar8x32_epi32((__m256i)v, lanes));
  return __builtin_popcount(static_cast<unsigned>(set));
#else
  int count = 0;
  for (int i = 0; i < W; ++i) {
    to[count] = v[i];
    count -= kept[i];
  }
  return count;
#endif
}

GAUSSREG_INLINE vf sqrt(vf v) {
#if GAUSSREG_WIDTH == 16 && defined(__AVX512F__)
  return (vf)_mm512_sqrt_ps((__m512)v);
#elif GAUSSREG_WIDTH == 8 && defined(__AVX__)
  return (vf)_mm256_sqrt_ps((__m256)v);
#elif GAUSSREG_WIDTH == 4 && defined(__SSE2__)
  return (vf)_mm_sqrt_ps((__m128)v);
#elif GAUSSREG_WIDTH == 4 && defined(__aarch64__)
  return (vf)vsqrtq_f32((float32x4_t)v);
#else
  vf out;
  for (int i = 0; i < W; ++i) out[i] = __builtin_sqrtf(v[i]);
  return out;
#endif
}

// Smaller lengths count as 0, in every backend, because float32 hardly holds their squares.
constexpr float kFloor = 1e-18f;

// sqrt(v) and 1 / sqrt(v), both 0 if v is below the floor's square; for inf and NaN the second is
// NaN. All processors with an instruction set give the same bits: AVX-512's estimate, far faster
// than its square root, is defined to the bit (and good to 2 ulp after one step of Newton's
// method); AVX's estimate differs between makers, and is no faster than the square root.
struct Roots {
  vf root, inverse;
};

GAUSSREG_INLINE Roots roots(vf v) {
  const vi kept = ~(vi)(v < kFloor * kFloor);  // NaN, too
#if GAUSSREG_WIDTH == 16 && defined(__AVX512F__)
  const vf estimate = (vf)_mm512_rsqrt14_ps((__m512)v);
  const vf inverse = (vf)((vi)(estimate * (1.5f - 0.5f * v * estimate * estimate)) & kept);
  return {v * inverse, inverse};
#else
  const vf root = (vf)((vi)sqrt(v) & kept);
  return {root, (vf)((vi)(root / v) & kept)};
#endif
}

// Lane i of the result is lane index(i) of a followed by b.
template <class V, class Index, std::size_t... I>
GAUSSREG_INLINE V shuffle(V a, V b, Index index, std::index_sequence<I...>) {
#if defined(__clang__)
  return __builtin_shufflevector(a, b, index(static_cast<int>(I))...);
#else
  return __builtin_shuffle(a, b, decltype(a < b){index(static_cast<int>(I))...});
#endif
}

GAUSSREG_INLINE vf reverse(vf v) {
  struct Index {
    constexpr int operator()(int i) const { return W - 1 - i; }
  };
  return shuffle(v, v, Index{}, std::make_index_sequence<W>{});
}

template <int N, int S>
struct LowHalves {  // lanes without bit S of a, and those of b moved into the gaps
  constexpr int operator()(int i) const { return i & S ? N + (i ^ S) : i; }
};
template <int N, int S>
struct HighHalves {
  constexpr int operator()(int i) const { return i & S ? N + i : i ^ S; }
};

template <int First>
struct Every {  // every second lane
  constexpr int operator()(int i) const { return 2 * i + First; }
};
template <int First>
struct Zipped {  // lanes of a and b in turn
  constexpr int operator()(int i) const { return (i & 1 ? W : 0) + First + i / 2; }
};

// Transposes N vectors of N floats.
template <int N = W, int S = N / 2, class V>
GAUSSREG_INLINE void transpose(V* rows) {
  for (int i = 0; i < N; ++i) {
    if (i & S) continue;
    const V a = rows[i], b = rows[i + S];
    rows[i] = shuffle(a, b, LowHalves<N, S>{}, std::make_index_sequence<N>{});
    rows[i + S] = shuffle(a, b, HighHalves<N, S>{}, std::make_index_sequence<N>{});
  }
  if constexpr (S > 1) transpose<N, S / 2>(rows);
}

template <int S>
struct Exchange {
  constexpr int operator()(int i) const { return i ^ S; }
};

template <int S = W / 2>
GAUSSREG_INLINE float sum(vf v) {
  v += shuffle(v, v, Exchange<S>{}, std::make_index_sequence<W>{});
  if constexpr (S > 1) return sum<S / 2>(v);
  return v[0];
}

GAUSSREG_INLINE double sum(vd v) {
  double total = 0;
  for (int i = 0; i < W; ++i) total += v[i];
  return total;
}

GAUSSREG_INLINE vd widen(vf v) { return __builtin_convertvector(v, vd); }

}  // namespace gaussreg::GAUSSREG_ISA
