// Complex DFTs of 2, 4, 8, 9, 16 and odd primes of vectors, lane by lane. S = -1 forward, +1
// backward; results in natural order.
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

// The cosine and the sine of 2 pi n / N, n < N, computed by the compiler.
template <int N>
struct Circle {
  float cosine[N] = {}, sine[N] = {};
  constexpr Circle() {
    for (int n = 0; n < N; ++n) {
      const double angle = 6.283185307179586477 * (2 * n > N ? n - N : n) / N;
      double term = 1, sums[4] = {};
      for (int i = 0; i < 40; ++i) {  // Taylor's series; the angle is at most pi
        sums[i % 4] += term;
        term *= angle / (i + 1);
      }
      cosine[n] = static_cast<float>(sums[0] - sums[2]);
      sine[n] = static_cast<float>(sums[1] - sums[3]);
    }
  }
};

// exp(S 2 pi i n / N) times a.
template <int N, int S>
GAUSSREG_INLINE Complex turn_by(Complex a, int n) {
  constexpr Circle<N> circle;
  return turn<S>(a, Complex{splat(circle.cosine[n]), splat(-circle.sine[n])});
}

// An odd number of points. Inputs i and N - i share their factors: sums go with cosines, differences
// with sines.
template <int N, int S>
GAUSSREG_INLINE void dft_odd(Complex* x) {
  constexpr Circle<N> circle;
  constexpr int H = N / 2;
  Complex sum[H], difference[H], first = x[0];
  for (int i = 0; i < H; ++i) {
    sum[i] = x[i + 1] + x[N - 1 - i];
    difference[i] = x[i + 1] - x[N - 1 - i];
    first = first + sum[i];
  }
#pragma GCC unroll 16
  for (int k = 1; k <= H; ++k) {
    Complex even = x[0], odd{};
#pragma GCC unroll 16
    for (int i = 0; i < H; ++i) {
      const float c = circle.cosine[(i + 1) * k % N], s = circle.sine[(i + 1) * k % N];
      even = {even.re + sum[i].re * c, even.im + sum[i].im * c};
      odd = {odd.re + difference[i].re * s, odd.im + difference[i].im * s};
    }
    odd = quarter<S>(odd);
    x[k] = even + odd;
    x[N - k] = even - odd;
  }
  x[0] = first;
}

template <int N, int S>
GAUSSREG_INLINE void dft(Complex* x) {
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
  } else if constexpr (N == 9) {
    Complex y[3][3];
    for (int b = 0; b < 3; ++b) {
      Complex column[3] = {x[b], x[b + 3], x[b + 6]};
      dft_odd<3, S>(column);
      for (int q = 0; q < 3; ++q) y[q][b] = turn_by<9, S>(column[q], b * q);
    }
    for (int q = 0; q < 3; ++q) {
      dft_odd<3, S>(y[q]);
      for (int d = 0; d < 3; ++d) x[q + 3 * d] = y[q][d];
    }
  } else {
    dft_odd<N, S>(x);
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
