"""Discrete Fourier transforms within threads, and what surrounds them.

A complex vector of N = R * T numbers is held as two tensors (R, T), real and imaginary. R is small
and lies in a thread's registers, T is spread over the threads; so a transform over the first
dimension is arithmetic alone, and an exchange through shared memory then brings another digit of
the index into its place. Code works on whole tensors: as tuples of R tensors it would be as fast,
and take minutes to compile.
"""

import math

import triton
import triton.language as tl


@triton.constexpr_function
def cosine(k, n):
    """cos(2 pi k / n)."""
    return math.cos(2 * math.pi * k / n)


@triton.constexpr_function
def sine(k, n):
    """sin(2 pi k / n)."""
    return math.sin(2 * math.pi * k / n)


@triton.constexpr_function
def log2(n):
    """Of a power of two."""
    return n.bit_length() - 1


@triton.jit
def constant_roots(R: tl.constexpr, N: tl.constexpr, SIGN: tl.constexpr):
    """exp(SIGN 2 pi i k / N) for k < R -> (cosines, sines), each (R, 1).

    Where R lies in registers, the selections are made when compiling and leave constants.
    """
    k = tl.expand_dims(tl.arange(0, R), 1)
    c = tl.full((R, 1), 1.0, tl.float32)
    s = tl.full((R, 1), 0.0, tl.float32)
    for i in tl.static_range(1, R):
        c = tl.where(k == i, cosine(i, N), c)
        s = tl.where(k == i, SIGN * sine(i, N), s)
    return c, s


@triton.jit
def halves(z, P: tl.constexpr, N: tl.constexpr, T: tl.constexpr):
    """z[p, bit, n, t] of any shape -> its halves (P, N, T) by the bit."""
    return tl.split(tl.permute(tl.reshape(z, (P, 2, N, T)), (0, 2, 3, 1)))


@triton.jit
def stacked(a, b):
    """Two tensors (P, N, T) -> one (2 P, N, T)."""
    P: tl.constexpr = a.shape[0]
    both = tl.permute(tl.join(a, b), (3, 0, 1, 2))
    return tl.reshape(both, (2 * P, a.shape[1], a.shape[2]))


@triton.jit
def interleaved(a, b):
    """The inverse of `halves`, in the shape (P * 2 * N, T)."""
    both = tl.permute(tl.join(a, b), (0, 3, 1, 2))
    return tl.reshape(both, (2 * a.shape[0] * a.shape[1], a.shape[2]))


@triton.jit
def butterfly(re, im, SIGN: tl.constexpr):
    """One step by decimation in frequency: P transforms of N points -> 2 P of N / 2 points."""
    HALF: tl.constexpr = re.shape[1] // 2
    a_re, b_re = halves(re, re.shape[0], HALF, re.shape[2])
    a_im, b_im = halves(im, re.shape[0], HALF, re.shape[2])
    d_re, d_im = a_re - b_re, a_im - b_im
    if HALF > 1:
        c, s = constant_roots(HALF, 2 * HALF, SIGN)
        k = tl.expand_dims(tl.expand_dims(tl.arange(0, HALF), 1), 0)
        c, s = tl.expand_dims(c, 0), tl.expand_dims(s, 0)
        # The roots 1 and +-i are spelt out: a product with 0 would not be dropped.
        t_re = tl.where(2 * k == HALF, -SIGN * d_im, d_re * c - d_im * s)
        t_im = tl.where(2 * k == HALF, SIGN * d_re, d_im * c + d_re * s)
        d_re, d_im = tl.where(k == 0, d_re, t_re), tl.where(k == 0, d_im, t_im)
    return stacked(a_re + b_re, d_re), stacked(a_im + b_im, d_im)


@triton.jit
def dft(re, im, SIGN: tl.constexpr):
    """sum_n z_n exp(SIGN 2 pi i k n / R) over the first dimension of (R, T), R a power of two."""
    R: tl.constexpr = re.shape[0]
    T: tl.constexpr = re.shape[1]
    re, im = tl.reshape(re, (1, R, T)), tl.reshape(im, (1, R, T))
    for _ in tl.static_range(log2(R)):
        re, im = butterfly(re, im, SIGN)
    return tl.reshape(re, (R, T)), tl.reshape(im, (R, T))


@triton.jit
def together(re, im):
    """Two tensors (R, T) -> one (2, R, T): both go through shared memory at once."""
    return tl.permute(tl.join(re, im), (2, 0, 1))


@triton.jit
def apart(z):
    """The inverse of `together`."""
    return tl.split(tl.permute(z, (1, 2, 0)))


@triton.jit
def exchange(re, im, A: tl.constexpr, B: tl.constexpr, C: tl.constexpr):
    """z[a, (b, c)] as z[b, (c, a)]."""
    z = tl.permute(tl.reshape(together(re, im), (2, A, B, C)), (0, 2, 3, 1))
    return apart(tl.reshape(z, (2, B, C * A)))


@triton.jit
def exchange_back(re, im, A: tl.constexpr, B: tl.constexpr, C: tl.constexpr):
    """The inverse of `exchange`."""
    z = tl.permute(tl.reshape(together(re, im), (2, B, C, A)), (0, 3, 1, 2))
    return apart(tl.reshape(z, (2, A, B * C)))


@triton.jit
def swap(re, im, A: tl.constexpr, B: tl.constexpr, C: tl.constexpr):
    """z[a, (b, c)] as z[b, (a, c)]."""
    z = tl.permute(tl.reshape(together(re, im), (2, A, B, C)), (0, 2, 1, 3))
    return apart(tl.reshape(z, (2, B, A * C)))


@triton.jit
def root(roots, index, SIZE: tl.constexpr, CACHE: tl.constexpr):
    """(cos, sin) of an angle from a table of SIZE cosines and, after them, SIZE sines.

    `CACHE` is a cache modifier: where two loads of the same roots differ in it, they are not merged
    into one that would hold registers in between.
    """
    c = tl.load(roots + index, cache_modifier=CACHE)
    return c, tl.load(roots + SIZE + index, cache_modifier=CACHE)


@triton.jit
def times(a_re, a_im, b_re, b_im):
    """The product of two complex tensors."""
    return a_re * b_re - a_im * b_im, a_re * b_im + a_im * b_re


@triton.jit
def twiddle(re, im, c, s, SIGN: tl.constexpr):
    """Multiplies row k of (R, T) by (c + i s)^k; by its conjugate if SIGN > 0.

    Bit by bit of k: a few more multiplications than with a table of powers, and none of its
    registers.
    """
    R: tl.constexpr = re.shape[0]
    T: tl.constexpr = re.shape[1]
    c, s = tl.reshape(c, (1, 1, T)), tl.reshape(s * -SIGN, (1, 1, T))
    for level in tl.static_range(log2(R)):
        if level > 0:
            c, s = times(c, s, c, s)
        low_re, high_re = halves(re, R >> (level + 1), 1 << level, T)
        low_im, high_im = halves(im, R >> (level + 1), 1 << level, T)
        high_re, high_im = times(high_re, high_im, c, s)
        re = interleaved(low_re, high_re)
        im = interleaved(low_im, high_im)
    return re, im
