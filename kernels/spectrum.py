"""From the packed spectrum to the bins of a real sample, their magnitudes, and back.

A sample of D real numbers is transformed as M = D / 2 complex numbers; its compact spectrum has M
bins.
"""

import triton
import triton.language as tl

from .dft import constant_roots, root, times

FLOOR = tl.constexpr(1e-18)  # smaller amplitudes count as 0: float32 hardly holds their squares


@triton.jit
def bin_roots(roots, start, D: tl.constexpr, R: tl.constexpr, CACHE: tl.constexpr):
    """Return exp(-2 pi i k / D) of the bins k = start + r D / (2 R), (R, T); `start` is (T,)."""
    c, s = root(roots, start, D // 2, CACHE)
    _, turn_c, tan = constant_roots(R, -1)
    turn_c = tl.reshape(turn_c, (R, 1))
    turn_s = turn_c * tl.reshape(tan, (R, 1))
    return times(tl.expand_dims(c, 0), tl.expand_dims(s, 0), turn_c, turn_s)


@triton.jit
def untangle(re, im, mirror_re, mirror_im, w_re, w_im, first):
    """Return twice the bins from the packed spectrum Z and its mirror, y_0 up to a rotation.

    2 X_k = E + w O with E = Z_k + conj Z_{M-k}, O = -i (Z_k - conj Z_{M-k}) and
    w = exp(-2 pi i k / D). `first` marks k = 0: X_0 and X_M share a bin, of the size of Z_0.
    """
    t_re, t_im = times(im + mirror_im, mirror_re - re, w_re, w_im)
    y_re = tl.where(first, 2 * re, re + mirror_re + t_re)
    y_im = tl.where(first, 2 * im, im - mirror_im + t_im)
    return y_re, y_im


@triton.jit
def untangle_adjoint(re, im, mirror_re, mirror_im, w_re, w_im, first):
    """Apply the adjoint of `untangle` to V and its mirror V_{M-k}."""
    # conj(w) (V_k - conj V_{M-k})
    o_re, o_im = times(re - mirror_re, im + mirror_im, w_re, -w_im)
    z_re = tl.where(first, 2 * re, re + mirror_re - o_im)
    z_im = tl.where(first, 2 * im, im - mirror_im + o_re)
    return z_re, z_im


@triton.jit
def amplitudes(re, im, STATISTIC: tl.constexpr, SCALE: tl.constexpr):
    """Return |y| or |y|^2 of y = SCALE (re + i im), and a slope: times (re, im) its derivative.

    |y| below FLOOR counts as 0. The results are fused multiply-adds with 0, because a plain product
    could be merged into the first addition of a sum over lanes, and then each lane would round a
    different sum.
    """
    square = re * re + im * im
    if STATISTIC == "power":
        return tl.fma(square, SCALE * SCALE, 0.0), 2 * SCALE * SCALE
    else:
        LEAST: tl.constexpr = (FLOOR / SCALE) * (FLOOR / SCALE)
        inverse = tl.where(square < LEAST, 0.0, tl.rsqrt(square))
        return tl.fma(square * inverse, SCALE, 0.0), inverse * SCALE
