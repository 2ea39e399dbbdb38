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
    c, s = root(roots, D, start, D, CACHE)
    _, turn_c, tan = constant_roots(R, R, -1)
    turn_c = tl.reshape(turn_c, (R, 1))
    turn_s = turn_c * tl.reshape(tan, (R, 1))
    return times(tl.expand_dims(c, 0), tl.expand_dims(s, 0), turn_c, turn_s)


@triton.jit
def sizes(re, im, STATISTIC: tl.constexpr, SCALE: tl.constexpr):
    """Return |re + i im| or its square, and a slope: times (re, im) the derivative.

    A bin is SCALE times as large; an amplitude that is then below FLOOR counts as 0. The results
    are for sums within a thread, or for sums of which all lanes take one: see `amplitudes`.
    """
    square = re * re + im * im
    if STATISTIC == "power":
        return square, 2.0
    else:
        LEAST: tl.constexpr = (FLOOR / SCALE) * (FLOOR / SCALE)
        inverse = tl.where(square < LEAST, 0.0, tl.rsqrt(square))
        return square * inverse, inverse


@triton.constexpr_function
def unit(statistic, scale):
    """Return the factor from `sizes` to the statistic of the bins."""
    return scale * scale if statistic == "power" else scale


@triton.jit
def amplitudes(re, im, STATISTIC: tl.constexpr, SCALE: tl.constexpr):
    """Return |y| or |y|^2 of y = SCALE (re + i im), and a slope: times (re, im) its derivative.

    |y| below FLOOR counts as 0. The results are fused multiply-adds with 0, because a plain product
    could be merged into the first addition of a sum over lanes, and then each lane would round a
    different sum.
    """
    size, slope = sizes(re, im, STATISTIC, SCALE)
    UNIT: tl.constexpr = unit(STATISTIC, SCALE)
    return tl.fma(size, UNIT, 0.0), slope * UNIT
