// Complex DFTs of 2, 4, 8 and 16 vectors, lane by lane. S = -1 forward, +1 backward; results
// in natural order.
#pragma once

#include "vector.h"

namespace gaussreg::GAUSSREG_ISA {

struct Complex {
  vf re, im;
};

GAUSSREG_INLINE Complex operator+(Complex a, Complex b) { return {a.re + b.re, a.im + b.im}; }
GAUSSREG_INLINE Complex operator-(Complex a, Complex b) { return {a.re - b.re, a.im - b.im}; }
GAUSSREG_INLINE Complex operator*(Complex a, Complex b) {
  return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
}
GAUSSREG_INLINE Complex conj(Complex a) { return {a.re, -a.im}; }

// a times w for S = -1, times the conjugate of w for S = +1: w is a forward root of unity.
template <int S>
GAUSSREG_INLINE Complex turn(Complex a, Complex w) {
  if constexpr (S < 0) return a * w;
  return {a.re * w.re + a.im * w.im, a.im * w.re - a.re * w.im};
}

// a times S i.
template <int S>
GAUSSREG_INLINE Complex quarter(Complex a) {
  if constexpr (S < 0) return {a.im, -a.re};
  return {-a.im, a.re};
}

// a times exp(S 2 pi i / 8).
template <int S>
GAUSSREG_INLINE Complex eighth(Complex a) {
  constexpr float r = 0.70710678118654752f;
  const Complex q = quarter<S>(a);
  return {(a.re + q.re) * r, (a.im + q.im) * r};
}

template <int S>
GAUSSREG_INLINE void dft4(Complex& x0, Complex& x1, Complex& x2, Complex& x3) {
  const Complex a = x0 + x2, b = x0 - x2, c = x1 + x3, d = quarter<S>(x1 - x3);
  x0 = a + c;
  x1 = b + d;
  x2 = a - c;
  x3 = b - d;
}

template <int N, int S>
GAUSSREG_INLINE void dft(Complex* x) {
  static_assert(N == 2 || N == 4 || N == 8 || N == 16);
  if constexpr (N == 2) {
    const Complex a = x[0], b = x[1];
    x[0] = a + b;
    x[1] = a - b;
  } else if constexpr (N == 4) {
    dft4<S>(x[0], x[1], x[2], x[3]);
  } else if constexpr (N == 8) {
    dft4<S>(x[0], x[2], x[4], x[6]);
    dft4<S>(x[1], x[3], x[5], x[7]);
    const Complex even[4] = {x[0], x[2], x[4], x[6]};
    const Complex odd[4] = {x[1], eighth<S>(x[3]), quarter<S>(x[5]),
                            quarter<S>(eighth<S>(x[7]))};
    for (int q = 0; q < 4; ++q) {
      x[q] = even[q] + odd[q];
      x[q + 4] = even[q] - odd[q];
    }
  } else {
    constexpr float c = 0.92387953251128674f, s = 0.38268343236508977f;  // cos, sin of pi/8
    for (int b = 0; b < 4; ++b) dft4<S>(x[b], x[b + 4], x[b + 8], x[b + 12]);
    // x[b + 4q] times exp(S 2 pi i b q / 16)
    const Complex w1{splat(c), splat(-s)}, w3{splat(s), splat(-c)};
    x[5] = turn<S>(x[5], w1);
    x[6] = eighth<S>(x[6]);
    x[7] = turn<S>(x[7], w3);
    x[9] = eighth<S>(x[9]);
    x[10] = quarter<S>(x[10]);
    x[11] = quarter<S>(eighth<S>(x[11]));
    x[13] = turn<S>(x[13], w3);
    x[14] = quarter<S>(eighth<S>(x[14]));
    x[15] = turn<S>(x[15], Complex{splat(-c), splat(s)});
    for (int q = 0; q < 4; ++q) dft4<S>(x[4 * q], x[4 * q + 1], x[4 * q + 2], x[4 * q + 3]);
    // x[4q + d] is now bin q + 4d
    for (int q = 0; q < 4; ++q)
      for (int d = q + 1; d < 4; ++d) {
        const Complex t = x[4 * q + d];
        x[4 * q + d] = x[4 * d + q];
        x[4 * d + q] = t;
      }
  }
}

}  // namespace gaussreg::GAUSSREG_ISA
