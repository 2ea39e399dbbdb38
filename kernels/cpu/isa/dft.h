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

// Loads a vector of a block of 16 lanes: 16 real parts, then 16 imaginary parts.
GAUSSREG_INLINE Complex load_block(const float* z, int column) {
  return {load(z + column * W), load(z + L + column * W)};
}

GAUSSREG_INLINE void store_block(float* z, int column, Complex v) {
  store(z + column * W, v.re);
  store(z + L + column * W, v.im);
}

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
  static_assert(N == 2 || N == 4 || N == 8);
  if constexpr (N == 2) {
    const Complex a = x[0], b = x[1];
    x[0] = a + b;
    x[1] = a - b;
  } else if constexpr (N == 4) {
    dft4<S>(x[0], x[1], x[2], x[3]);
  } else {
    dft4<S>(x[0], x[2], x[4], x[6]);
    dft4<S>(x[1], x[3], x[5], x[7]);
    const Complex even[4] = {x[0], x[2], x[4], x[6]};
    const Complex odd[4] = {x[1], eighth<S>(x[3]), quarter<S>(x[5]),
                            quarter<S>(eighth<S>(x[7]))};
    for (int q = 0; q < 4; ++q) {
      x[q] = even[q] + odd[q];
      x[q + 4] = even[q] - odd[q];
    }
  }
}

// exp(S 2 pi i b q / 16) times a, for b, q < 4.
template <int S>
GAUSSREG_INLINE Complex sixteenth(Complex a, int b, int q) {
  constexpr float c = 0.92387953251128674f, s = 0.38268343236508977f;  // cos, sin of pi/8
  switch (b * q) {
    case 0: return a;
    case 1: return turn<S>(a, Complex{splat(c), splat(-s)});
    case 2: return eighth<S>(a);
    case 3: return turn<S>(a, Complex{splat(s), splat(-c)});
    case 4: return quarter<S>(a);
    case 6: return quarter<S>(eighth<S>(a));
    default: return turn<S>(a, Complex{splat(-c), splat(s)});  // 9
  }
}

// The DFT of 16 vectors, as 4 x 4: `get` reads vector n, `put` takes bin k. The two steps exchange
// data through memory, because 16 complex vectors do not fit into the registers.
template <int S, class Get, class Put>
GAUSSREG_INLINE void dft16(Get&& get, Put&& put) {
  float between[16][2][W];
#pragma GCC unroll 4
  for (int b = 0; b < 4; ++b) {
    Complex x[4];
    for (int a = 0; a < 4; ++a) x[a] = get(b + 4 * a);
    dft<4, S>(x);
    for (int q = 0; q < 4; ++q) {
      const Complex y = sixteenth<S>(x[q], b, q);
      store(between[4 * q + b][0], y.re);
      store(between[4 * q + b][1], y.im);
    }
  }
#pragma GCC unroll 4
  for (int q = 0; q < 4; ++q) {
    Complex x[4];
    for (int b = 0; b < 4; ++b)
      x[b] = {load(between[4 * q + b][0]), load(between[4 * q + b][1])};
    dft<4, S>(x);
    for (int d = 0; d < 4; ++d) put(q + 4 * d, x[d]);
  }
}

}  // namespace gaussreg::GAUSSREG_ISA
