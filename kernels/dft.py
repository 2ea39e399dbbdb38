"""Discrete Fourier transforms within threads, and exchanges of digits and roots between them.

A complex vector of N = R * T numbers is held as two tensors (R, T), real and imaginary. R is small
and lies in a thread's registers, T is spread over the threads. So a transform over the first
dimension is arithmetic alone, and an exchange through shared memory then brings another digit of
the index into the first dimension. The code works on whole tensors: with tuples of R tensors it
would be as fast, but take minutes to compile.
"""

import math

import triton
import triton.language as tl


@triton.constexpr_function
def cosine(k, n):
    """Return cos(2 pi k / n)."""
    return math.cos(2 * math.pi * k / n)


@triton.constexpr_function
def tangent(k, n):
    """Return tan(2 pi k / n)."""
    return math.tan(2 * math.pi * k / n)


@triton.constexpr_function
def log2(n):
    """Return the binary logarithm of a power of two."""
    return n.bit_length() - 1


@triton.jit
def constant_roots(COUNT: tl.constexpr, P: tl.constexpr, SIGN: tl.constexpr):
    """Return k, cosines and tangents of exp(SIGN pi i k / P) for k < COUNT, each (COUNT, 1, 1).

    If COUNT lies in registers, the selections are made at compile time and leave constants.
    """
    k = tl.expand_dims(tl.expand_dims(tl.arange(0, COUNT), 1), 1)
    c = tl.full((COUNT, 1, 1), 1.0, tl.float32)
    tan = tl.full((COUNT, 1, 1), 0.0, tl.float32)
    for i in tl.static_range(1, COUNT):
        c = tl.where(k == i, cosine(i, 2 * P), c)
        tan = tl.where(k == i, SIGN * tangent(i, 2 * P), tan)
    return k, c, tan


@triton.jit
def halves(z, P: tl.constexpr, N: tl.constexpr, T: tl.constexpr):
    """Return the two halves (P, N, T) of z[p, bit, n, t], of any shape, by the bit."""
    return tl.split(tl.permute(tl.reshape(z, (P, 2, N, T)), (0, 2, 3, 1)))


@triton.jit
def stacked(a, b):
    """Stack two tensors (P, N, T) into one (2 P, N, T)."""
    P: tl.constexpr = a.shape[0]
    both = tl.permute(tl.join(a, b), (3, 0, 1, 2))
    return tl.reshape(both, (2 * P, a.shape[1], a.shape[2]))


@triton.jit
def interleaved(a, b):
    """Invert `halves`, in the shape (P * 2 * N, T)."""
    both = tl.permute(tl.join(a, b), (0, 3, 1, 2))
    return tl.reshape(both, (2 * a.shape[0] * a.shape[1], a.shape[2]))


@triton.jit
def butterfly(re, im, SIGN: tl.constexpr):
    """Do a step by decimation in time: P points of each of N transforms -> 2 P points of N / 2."""
    P: tl.constexpr = re.shape[0]
    a_re, b_re = halves(re, P, re.shape[1] // 2, re.shape[2])
    a_im, b_im = halves(im, P, im.shape[1] // 2, im.shape[2])
    if P == 1:
        return stacked(a_re + b_re, a_re - b_re), stacked(a_im + b_im, a_im - b_im)
    else:
        # a +- b w with w = c (1 + i tan): six fused operations; the product w b alone takes four.
        k, c, tan = constant_roots(P, P, SIGN)
        u_re, u_im = b_re - tan * b_im, b_im + tan * b_re
        # The roots 1 and +-i have a case of their own: the compiler would keep a product with 0.
        quarter = 2 * k == P
        u_re = tl.where(k == 0, b_re, tl.where(quarter, -SIGN * b_im, u_re))
        u_im = tl.where(k == 0, b_im, tl.where(quarter, SIGN * b_re, u_im))
        plain = (k == 0) | quarter
        high_re = tl.where(plain, a_re - u_re, a_re - c * u_re)
        high_im = tl.where(plain, a_im - u_im, a_im - c * u_im)
        low_re = tl.where(plain, a_re + u_re, a_re + c * u_re)
        low_im = tl.where(plain, a_im + u_im, a_im + c * u_im)
        return stacked(low_re, high_re), stacked(low_im, high_im)


@triton.jit
def dft(re, im, SIGN: tl.constexpr):
    """Return sum_n z_n exp(SIGN 2 pi i k n / R) over the first dimension of (R, T), R = 2^m."""
    R: tl.constexpr = re.shape[0]
    T: tl.constexpr = re.shape[1]
    re, im = tl.reshape(re, (1, R, T)), tl.reshape(im, (1, R, T))
    for _ in tl.static_range(log2(R)):
        re, im = butterfly(re, im, SIGN)
    return tl.reshape(re, (R, T)), tl.reshape(im, (R, T))


@triton.jit
def turns(c, s, P: tl.constexpr, SIGN: tl.constexpr):
    """Turn c + i s, (1, 1, T), by SIGN pi k / P for each k < P: (P, 1, T)."""
    if P > 2:
        k, turn_c, tan = constant_roots(P // 2, P, SIGN)
        turned_c, turned_s = times(c, s, turn_c, turn_c * tan)
        c, s = tl.where(k == 0, c, turned_c), tl.where(k == 0, s, turned_s)
    if P > 1:  # those from k = P / 2 on are a quarter of a turn further
        c, s = stacked(c, -SIGN * s), stacked(s, SIGN * c)
    return c, s


@triton.jit
def powers_of_two(c, s, R: tl.constexpr):
    """Return (c + i s)^(2^j) for 2^j < R: a tuple of real and one of imaginary parts."""
    cosines, sines = (c,), (s,)
    for _ in tl.static_range(log2(R) - 1):
        c, s = times(c, s, c, s)
        cosines, sines = cosines + (c,), sines + (s,)
    return cosines, sines


@triton.jit
def turned_butterfly(re, im, c, s):
    """Do `butterfly` with the factors c + i s, (P, 1, T), in place of its own roots."""
    P: tl.constexpr = re.shape[0]
    a_re, b_re = halves(re, P, re.shape[1] // 2, re.shape[2])
    a_im, b_im = halves(im, P, im.shape[1] // 2, im.shape[2])
    low_re = a_re + c * b_re - s * b_im
    low_im = a_im + c * b_im + s * b_re
    # a - w b = 2 a - (a + w b): one operation where another product would be two.
    high_re, high_im = tl.fma(a_re, 2.0, -low_re), tl.fma(a_im, 2.0, -low_im)
    return stacked(low_re, high_re), stacked(low_im, high_im)


@triton.jit
def turned_dft(re, im, c, s, SIGN: tl.constexpr):
    """Do `dft` of rows n multiplied by (c + i s)^n, or by the conjugate's powers if SIGN > 0.

    The numbers themselves are not multiplied: the factors of a butterfly's two inputs differ by
    (c + i s)^(R / 2P), which is multiplied into its root; the factor that both have in common is
    left to the next butterfly. The roots so made cost 1.6 operations a number if R = 16.
    """
    R: tl.constexpr = re.shape[0]
    T: tl.constexpr = re.shape[1]
    cosines, sines = powers_of_two(tl.reshape(c, (1, 1, T)), tl.reshape(s * -SIGN, (1, 1, T)), R)
    re, im = tl.reshape(re, (1, R, T)), tl.reshape(im, (1, R, T))
    for level in tl.static_range(log2(R)):
        c, s = cosines[log2(R) - 1 - level], sines[log2(R) - 1 - level]
        c, s = turns(c, s, 1 << level, SIGN)
        re, im = turned_butterfly(re, im, c, s)
    return tl.reshape(re, (R, T)), tl.reshape(im, (R, T))


@triton.jit
def turned_butterfly_adjoint(re, im, c, s):
    """Apply the adjoint of `turned_butterfly`."""
    P: tl.constexpr = re.shape[0] // 2
    N: tl.constexpr = re.shape[1]
    T: tl.constexpr = re.shape[2]
    low_re, high_re = tl.split(tl.permute(tl.reshape(re, (2, P, N, T)), (1, 2, 3, 0)))
    low_im, high_im = tl.split(tl.permute(tl.reshape(im, (2, P, N, T)), (1, 2, 3, 0)))
    b_re, b_im = times(low_re - high_re, low_im - high_im, c, -s)
    re, im = interleaved(low_re + high_re, b_re), interleaved(low_im + high_im, b_im)
    return tl.reshape(re, (P, 2 * N, T)), tl.reshape(im, (P, 2 * N, T))


@triton.jit
def turned_dft_adjoint(re, im, c, s, SIGN: tl.constexpr):
    """Apply the adjoint of `turned_dft`."""
    R: tl.constexpr = re.shape[0]
    T: tl.constexpr = re.shape[1]
    cosines, sines = powers_of_two(tl.reshape(c, (1, 1, T)), tl.reshape(s * -SIGN, (1, 1, T)), R)
    re, im = tl.reshape(re, (R, 1, T)), tl.reshape(im, (R, 1, T))
    for power in tl.static_range(log2(R)):
        c, s = turns(cosines[power], sines[power], R >> (power + 1), SIGN)
        re, im = turned_butterfly_adjoint(re, im, c, s)
    return tl.reshape(re, (R, T)), tl.reshape(im, (R, T))


@triton.jit
def lower_upper(z):
    """Return the first and the second half of the rows of a tensor (2 R, T)."""
    return apart(tl.reshape(z, (2, z.shape[0] // 2, z.shape[1])))


@triton.jit
def joined(low, high):
    """Invert `lower_upper`."""
    return tl.reshape(together(low, high), (2 * low.shape[0], low.shape[1]))


@triton.jit
def together(re, im):
    """Join two tensors (R, T) into one (2, R, T), so that both cross shared memory at once."""
    return tl.permute(tl.join(re, im), (2, 0, 1))


@triton.jit
def apart(z):
    """Invert `together`."""
    return tl.split(tl.permute(z, (1, 2, 0)))


@triton.jit
def exchange(re, im, A: tl.constexpr, B: tl.constexpr, C: tl.constexpr):
    """Return z[a, (b, c)] as z[b, (c, a)]."""
    z = tl.permute(tl.reshape(together(re, im), (2, A, B, C)), (0, 2, 3, 1))
    return apart(tl.reshape(z, (2, B, C * A)))


@triton.jit
def exchange_back(re, im, A: tl.constexpr, B: tl.constexpr, C: tl.constexpr):
    """Invert `exchange`."""
    z = tl.permute(tl.reshape(together(re, im), (2, B, C, A)), (0, 3, 1, 2))
    return apart(tl.reshape(z, (2, A, B * C)))


@triton.jit
def swap(re, im, A: tl.constexpr, B: tl.constexpr, C: tl.constexpr):
    """Return z[a, (b, c)] as z[b, (a, c)]."""
    z = tl.permute(tl.reshape(together(re, im), (2, A, B, C)), (0, 2, 1, 3))
    return apart(tl.reshape(z, (2, B, A * C)))


@triton.jit
def root(roots, N: tl.constexpr, index, D: tl.constexpr, CACHE: tl.constexpr):
    """Load exp(-2 pi i index / N), index < N / 2, as real and imaginary part.

    `roots` holds D real parts and then D imaginary ones, the roots of N = 2, 4, .. D one after the
    other; so neighbouring roots of any N are neighbours in memory. `CACHE` is a cache modifier: the
    compiler would merge two loads of the same roots that have the same modifier into one, which
    would hold registers from the first use to the last.
    """
    # The hint prevents vector loads: those would have a layout of their own and be exchanged.
    at = roots + tl.max_contiguous(N // 2 + index, 1)
    return tl.load(at, cache_modifier=CACHE), tl.load(at + D, cache_modifier=CACHE)


@triton.jit
def times(a_re, a_im, b_re, b_im):
    """Return the product of two complex tensors."""
    return a_re * b_re - a_im * b_im, a_re * b_im + a_im * b_re


@triton.jit
def fourier(
    re, im, roots, D: tl.constexpr, R1: tl.constexpr, R2: tl.constexpr, R3: tl.constexpr,
    W: tl.constexpr,
):  # fmt: skip
    """Do W transforms of N = R1 R2 R3 points, z[n1, (n2, n3, w)] -> [k3, (k2, w, k1)].

    There are three steps: n = n1 R2 R3 + n2 R3 + n3, k = k1 + R1 k2 + R1 R2 k3. The factors between
    two steps are part of the second one, see `turned_dft`. `roots` is the table of D.
    """
    re, im = dft(re, im, -1)
    re, im = exchange(re, im, R1, R2, R3 * W)
    c, s = root(roots, R1 * R2, tl.arange(0, R3 * W * R1) % R1, D, "")
    re, im = turned_dft(re, im, c, s, -1)
    if R3 > 1:
        re, im = swap(re, im, R2, R3, W * R1)
        t = tl.arange(0, R2 * W * R1)
        c, s = root(roots, R1 * R2 * R3, t // (W * R1) * R1 + t % R1, D, "")
        return turned_dft(re, im, c, s, -1)
    else:
        return tl.reshape(re, (1, R2 * W * R1)), tl.reshape(im, (1, R2 * W * R1))


@triton.jit
def fourier_back(
    re, im, roots, D: tl.constexpr, R1: tl.constexpr, R2: tl.constexpr, R3: tl.constexpr,
    W: tl.constexpr,
):  # fmt: skip
    """Apply the adjoint of `fourier`, with the places of input and output exchanged."""
    if R3 > 1:
        re, im = dft(re, im, 1)
        re, im = swap(re, im, R3, R2, W * R1)
        c, s = root(roots, R2 * R3, tl.arange(0, R3 * W * R1) // (W * R1), D, ".cg")
        re, im = turned_dft(re, im, c, s, 1)
    else:
        re, im = dft(tl.reshape(re, (R2, W * R1)), tl.reshape(im, (R2, W * R1)), 1)
    re, im = exchange_back(re, im, R1, R2, R3 * W)
    c, s = root(roots, R1 * R2 * R3, tl.arange(0, R2 * R3 * W) // W, D, ".cg")
    return turned_dft(re, im, c, s, 1)
