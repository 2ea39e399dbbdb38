// Results of approximate instructions: correctly rounded, or off by a part of the error that PTX's
// manual allows. The part depends on the result alone, so it is the same in every run.
#pragma once
#include "numbers.h"

// Returns a number from -1 to 1 that looks random.
inline f64 scatter(f64 v) {
  u64 bits = bits_as<u64>(v) * 0x9E3779B97F4A7C15ull;
  bits = (bits ^ (bits >> 29)) * 0xBF58476D1CE4E5B9ull;
  bits ^= bits >> 32;
  return (f64)(s32)(bits & 0xffffff) / 0x800000 - 1;
}

inline f32 off_by(f64 v, f64 error) {
  return canonical((f32)(std::isfinite(v) ? v + scatter(v) * error : v));
}

inline f32 near(f64 v, f64 ulps) {
  return canonical((f32)(v * (1 + scatter(v) * ulps * 0x1p-23)));
}

inline f32 near_log(f64 v, f64 ulp) {
  return std::fabs(v) < 1 ? off_by(v, 0x1p-22 * ulp) : near(v, 2 * ulp);
}
