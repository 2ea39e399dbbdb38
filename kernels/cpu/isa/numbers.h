// Types of numbers in memory; kernels compute in float32.
#pragma once

#include "job.h"
#include "vector.h"

namespace gaussreg::GAUSSREG_ISA {

typedef std::uint16_t vs __attribute__((vector_size(W * 2)));

GAUSSREG_INLINE vu select(vi mask, vu a, vu b) { return (a & (vu)mask) | (b & ~(vu)mask); }

// `read` converts W numbers to float32, `rounded` converts float32 to them, to the nearest, ties to
// even.
struct Float {
  float bits;
  static vf read(const Float* p) { return load(&p->bits); }
  static vf rounded(vf v) { return v; }
};

struct Bfloat16 {
  std::uint16_t bits;
  static vf read(const Bfloat16* p) {
    return (vf)(__builtin_convertvector(load<vs>(&p->bits), vu) << 16);
  }
  static vs rounded(vf v) {
    const vu u = (vu)v;
    const vu nearest = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
    return __builtin_convertvector(select(v == v, nearest, (u >> 16) | 0x7fc0u), vs);
  }
};

struct Half {
  std::uint16_t bits;
  static vf read(const Half* p) {
#if GAUSSREG_WIDTH == 16 && defined(__AVX512F__)
    return (vf)_mm512_cvtph_ps((__m256i)load<vs>(&p->bits));
#elif GAUSSREG_WIDTH == 8 && defined(__F16C__)
    return (vf)_mm256_cvtph_ps((__m128i)load<vs>(&p->bits));
#else
    const vu h = __builtin_convertvector(load<vs>(&p->bits), vu);
    const vu magnitude = (h & 0x7fffu) << 13;
    const vu number = (vu)((vf)magnitude * 0x1p112f);  // shifts the exponent to float32's bias
    const vi finite = (vi)magnitude < 0x0f800000;
    return (vf)(select(finite, number, magnitude | 0x7f800000u) | ((h & 0x8000u) << 16));
#endif
  }
  static vs rounded(vf v) {
#if GAUSSREG_WIDTH == 16 && defined(__AVX512F__)
    return (vs)_mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT);
#elif GAUSSREG_WIDTH == 8 && defined(__F16C__)
    return (vs)_mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT);
#else
    const vu u = (vu)v & 0x7fffffffu, sign = ((vu)v & 0x80000000u) >> 16;
    // For subnormal results adding 0.5 rounds at the right bit; for normal ones an integer carry
    // does.
    const vu subnormal = (vu)((vf)u + 0.5f) - 0x3f000000u;
    const vu normal = (u - 0x38000000u + 0xfffu + ((u >> 13) & 1u)) >> 13;
    vu h = select((vi)u < 0x38800000, subnormal, normal);
    h = select((vi)u < 0x47800000, h, h * 0u + 0x7c00u);
    h = select(v == v, h, h * 0u + 0x7e00u);
    return __builtin_convertvector(h | sign, vs);
#endif
  }
};

struct Nothing {
  static vf read(const Nothing*) { return vf{}; }
};

// Calls body with the types of a job's x and gradient.
template <class Body>
GAUSSREG_INLINE void with_numbers(const Job& job, Body&& body) {
  if (job.x_type == Number::kBfloat16)
    body(Bfloat16{}, Bfloat16{});
  else if (job.x_type == Number::kHalf && job.grad_type == Number::kHalf)
    body(Half{}, Half{});
  else if (job.x_type == Number::kHalf)
    body(Half{}, Float{});
  else
    body(Float{}, Float{});
}

// The numbers of a job's x or gradient (B, D) from a sample on.
template <class T>
GAUSSREG_INLINE const T* rows(const void* tensor, const Job& job, std::int64_t sample) {
  return static_cast<const T*>(tensor) + sample * job.size;
}
template <class T>
GAUSSREG_INLINE T* rows(void* tensor, const Job& job, std::int64_t sample) {
  return static_cast<T*>(tensor) + sample * job.size;
}

}  // namespace gaussreg::GAUSSREG_ISA
