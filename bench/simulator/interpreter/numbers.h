// Arithmetic on one lane's numbers, as PTX defines it.
#pragma once
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>

#include "layout.h"

template <class To, class From>
inline To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From), "the bits of one type as another of its size");
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

// ---- integers

inline s16 high(s16 a, s16 b) { return (s16)(((s32)a * b) >> 16); }
inline u16 high(u16 a, u16 b) { return (u16)(((u32)a * b) >> 16); }
inline s32 high(s32 a, s32 b) { return (s32)(((s64)a * b) >> 32); }
inline u32 high(u32 a, u32 b) { return (u32)(((u64)a * b) >> 32); }
inline s64 high(s64 a, s64 b) { return (s64)(((__int128)a * b) >> 64); }
inline u64 high(u64 a, u64 b) { return (u64)(((unsigned __int128)a * b) >> 64); }

inline u64 low_24(u32 v) { return v & 0xffffff; }
inline s64 low_24(s32 v) { return (s32)((u32)v << 8) >> 8; }

// The lowest number divided by -1 is itself: its negative does not fit.
template <class T>
inline T quotient(T a, T b) {
  if (b == 0) return (T)~(T)0;
  if (std::is_signed<T>::value && b == (T)-1) return (T)(0 - (u64)a);
  return a / b;
}

template <class T>
inline T remainder_of(T a, T b) {
  if (b == 0) return a;
  if (std::is_signed<T>::value && b == (T)-1) return 0;
  return a % b;
}

inline u32 ones(u32 v) { return (u32)__builtin_popcount(v); }
inline u32 ones(u64 v) { return (u32)__builtin_popcountll(v); }
inline u32 top_bit(u32 v) { return v ? 31u - (u32)__builtin_clz(v) : ~0u; }
inline u32 top_bit(u64 v) { return v ? 63u - (u32)__builtin_clzll(v) : ~0u; }

template <class T>
inline T reversed(T v) {
  T out = 0;
  for (unsigned k = 0; k < 8 * sizeof(T); k++) out |= (T)((v >> k) & 1) << (8 * sizeof(T) - 1 - k);
  return out;
}

template <class T>
inline T low_bits(u32 count) {
  return count >= 8 * sizeof(T) ? (T)~(T)0 : (T)(((T)1 << count) - 1);
}

// bfe: `length` bits from `start` on; bits beyond them are zero, or the field's highest bit.
template <class T>
inline T field(T v, u32 start, u32 length, bool extend) {
  const u32 top = 8 * sizeof(T) - 1;
  start &= 255;
  length &= 255;
  if (length == 0) return 0;
  const u32 last = start + length - 1 < top ? start + length - 1 : top;
  const bool sign = extend && ((v >> last) & 1);
  const u32 there = start > top ? 0 : last - start + 1;
  const T mask = low_bits<T>(there);
  const T bits = start > top ? 0 : (T)(v >> start) & mask;
  return sign ? (T)(bits | (T)~mask) : bits;
}

// bfi: `bits` in place of `length` bits of `into`.
template <class T>
inline T inserted(T bits, T into, u32 start, u32 length) {
  start &= 255;
  length &= 255;
  if (length == 0 || start >= 8 * sizeof(T)) return into;
  const T mask = (T)(low_bits<T>(length) << start);
  return (T)((into & ~mask) | ((T)(bits << start) & mask));
}

// prmt: each nibble of `choice` picks a byte, or with its highest bit that byte's sign.
inline u32 permuted(u32 a, u32 b, u32 choice) {
  const u64 bytes = ((u64)b << 32) | a;
  u32 out = 0;
  for (int k = 0; k < 4; k++) {
    const u32 nibble = (choice >> (4 * k)) & 15;
    u32 byte = (u32)(bytes >> (8 * (nibble & 7))) & 255;
    if (nibble & 8) byte = byte & 128 ? 255 : 0;
    out |= byte << (8 * k);
  }
  return out;
}

// lop3: bit 4 a + 2 b + c of the table, for each bit.
inline u32 looked_up(u32 a, u32 b, u32 c, u32 table) {
  u32 out = 0;
  for (u32 k = 0; k < 8; k++) {
    const u32 here = (k & 4 ? a : ~a) & (k & 2 ? b : ~b) & (k & 1 ? c : ~c);
    out |= here & (0 - ((table >> k) & 1));
  }
  return out;
}

template <class To, class From>
inline To limited(From v) {
  const __int128 low = std::numeric_limits<To>::min(), top = std::numeric_limits<To>::max();
  return (__int128)v < low ? (To)low : (__int128)v > top ? (To)top : (To)v;
}

// ---- floating point

inline bool sign_of(f32 v) { return bits_as<u32>(v) >> 31; }

inline f32 flushed(f32 v) {
  return std::fabs(v) < std::numeric_limits<f32>::min() ? std::copysign(0.0f, v) : v;
}

// GPUs give one NaN of f32, whatever the operands were.
inline f32 canonical(f32 v) { return v != v ? bits_as<f32>(0x7fffffffu) : v; }
inline f64 canonical(f64 v) { return v; }

inline f32 saturated_unit(f32 v) { return v > 0 ? (v < 1 ? v : 1.0f) : 0.0f; }

// Numbers that compare equal differ at most in the sign of zero.
inline f32 both_signs(f32 a, f32 b) { return bits_as<f32>(bits_as<u32>(a) & bits_as<u32>(b)); }
inline f32 any_sign(f32 a, f32 b) { return bits_as<f32>(bits_as<u32>(a) | bits_as<u32>(b)); }
inline f64 both_signs(f64 a, f64 b) { return bits_as<f64>(bits_as<u64>(a) & bits_as<u64>(b)); }
inline f64 any_sign(f64 a, f64 b) { return bits_as<f64>(bits_as<u64>(a) | bits_as<u64>(b)); }

template <class T>
inline T smaller(T a, T b) {
  return a != a ? canonical(b) : b != b ? a : a < b ? a : b < a ? b : any_sign(a, b);
}

template <class T>
inline T larger(T a, T b) {
  return a != a ? canonical(b) : b != b ? a : a > b ? a : b > a ? b : both_signs(a, b);
}

inline f32 smaller_or_nan(f32 a, f32 b) {
  return a != a || b != b ? canonical(std::numeric_limits<f32>::quiet_NaN()) : smaller(a, b);
}

inline f32 larger_or_nan(f32 a, f32 b) {
  return a != a || b != b ? canonical(std::numeric_limits<f32>::quiet_NaN()) : larger(a, b);
}

// Converts a whole number to an integer, or to the nearest that the type has.
template <class To, class From>
inline To whole(From v, To nan) {
  const From low = (From)std::numeric_limits<To>::min();
  const From beyond = (From)((u64)1 << (std::numeric_limits<To>::digits - 1)) * 2;
  return v != v    ? nan
         : v < low ? std::numeric_limits<To>::min()
         : v >= beyond ? std::numeric_limits<To>::max()
                       : (To)v;
}

// ---- numbers of 16 bits

// Rounds to the nearest, ties to even, even if the compiler lacks such types.
template <int Fraction, int Bias>
inline u16 half_rounded(f64 v) {
  const u64 bits = bits_as<u64>(v);
  const s64 infinity = ((s64)(2 * Bias + 1)) << Fraction;
  const u16 sign = (u16)((bits >> 63) << 15);
  if (v != v) return 0x7fff;
  if (std::isinf(v)) return (u16)(sign | infinity);
  const int exponent = (int)((bits >> 52) & 0x7ff) - 1023, lowest = 1 - Bias;
  const u64 significand = (bits & (((u64)1 << 52) - 1)) | (u64)1 << 52;
  const int drop = 52 - Fraction + (exponent < lowest ? lowest - exponent : 0);
  if (drop > 54) return sign;
  u64 kept = significand >> drop;
  const u64 rest = significand & (((u64)1 << drop) - 1), tie = (u64)1 << (drop - 1);
  kept += rest > tie || (rest == tie && (kept & 1));
  s64 out = (s64)kept;
  if (exponent >= lowest) out += ((s64)(exponent + Bias - 1)) << Fraction;
  return (u16)(sign | (out < infinity ? out : infinity));
}

inline u16 f16_rounded(f64 v) { return half_rounded<10, 15>(v); }
inline u16 bf16_rounded(f64 v) { return half_rounded<7, 127>(v); }
inline u16 to_f16(f32 v) { return f16_rounded(v); }

inline u16 to_bf16(f32 v) {
  const u32 bits = bits_as<u32>(v);
  return v != v ? 0x7fff : (u16)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

inline f32 from_bf16(u16 v) { return bits_as<f32>((u32)v << 16); }

inline f32 from_f16(u16 v) {
  const u32 sign = (u32)(v & 0x8000) << 16, rest = (u32)(v & 0x7fff) << 13;
  const f32 number = bits_as<f32>(rest) * 0x1p112f;  // the other bias; exact
  const u32 bits = (v & 0x7fff) >= 0x7c00 ? rest | 0x7f800000 : bits_as<u32>(number);
  return canonical(bits_as<f32>(sign | bits));
}

// Returns the sum, or its odd neighbour if it is inexact: rounding this again gives the same as
// rounding the exact sum.
inline f64 sum_to_odd(f64 a, f64 b) {
  const f64 sum = a + b, of_b = sum - a, rest = (a - (sum - of_b)) + (b - of_b);
  if (rest == 0 || !std::isfinite(sum) || (bits_as<u64>(sum) & 1)) return sum;
  return std::nextafter(sum, rest > 0 ? HUGE_VAL : -HUGE_VAL);
}
