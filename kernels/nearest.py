"""The nearest lengths of a block: what all kernels of the white-noise projection (GPER) share.

In every block of b bins these are relu(|y| - lambda) times a factor. Of a set of n lengths with
mean m and sum of squares about it v, the threshold lambda is m - sqrt(g b v / (n (n - g b))) with
g = pi / 4. That of a set with too many lengths is too low, but drops none that belongs: so lengths
below the threshold are dropped until none is, which takes b - floor(g b) - 1 steps at most, three
where b = 16. There is no sort, and sums about a mean lose no digits to cancellation.
"""

import math

import triton
import triton.language as tl

from .dft import log2
from .workspace import joined, lower_upper

TINY = tl.constexpr(2.0**-126)  # the smallest normal number
CLOSE = tl.constexpr(16 * 2.0**-23)  # lengths this close to the largest, relative, are tied with it


@triton.constexpr_function
def share(block):
    """g b: what (sum y)^2 / sum y^2 is in a block of white noise."""
    return math.pi / 4 * block


@triton.constexpr_function
def least(block):
    """Lengths that a block keeps at least: fewer cannot meet both norms."""
    return math.floor(math.pi / 4 * block) + 1


@triton.constexpr_function
def one_norm(block):
    """sqrt(g) b: the sum of a block's lengths."""
    return math.sqrt(math.pi / 4) * block


@triton.jit
def peak_of(v):
    """The largest |v| of a float32 tensor (A, C), as the bits of a float32: of NaN and inf too."""
    bits = v.to(tl.int32, bitcast=True) & 0x7FFFFFFF
    return tl.max(tl.max(bits, 1), 0)


@triton.jit
def unit_scale(peak):
    """The power of two that brings a peak, given by its bits, near 1; NaN where it is not finite.

    So squares of sums stay within float32, and a bad number makes all of its sample NaN.
    """
    exponent = tl.minimum(peak >> 23, 253)
    scale = ((254 - exponent) << 23).to(tl.float32, bitcast=True)
    # Not a global: Triton compares these at each launch, and NaN differs from itself.
    return tl.where(peak >= 0x7F800000, float("nan"), scale)


@triton.jit
def within_threads(z):
    """A tensor (R, P) as it is, its columns in one thread each: taken apart and put together.

    Compilers that would rather leave it where it was then keep what is made of it there, too.
    """
    if z.shape[0] == 1:
        return z
    else:
        low, high = lower_upper(z)
        return joined(within_threads(low), within_threads(high))


@triton.jit
def row_sum(z):
    """The sum of a tensor's rows, (R, P) -> (1, P), within threads: R is a small power of two."""
    for _ in tl.static_range(log2(z.shape[0])):
        low, high = lower_upper(z)
        z = low + high
    return z


@triton.jit
def row_max(z):
    """The maximum of a tensor's rows, as `row_sum`."""
    for _ in tl.static_range(log2(z.shape[0])):
        low, high = lower_upper(z)
        z = tl.maximum(low, high)
    return z


@triton.jit
def threshold_of(mean, squares, n, BLOCK: tl.constexpr):
    """lambda of n lengths by their mean and the sum of squares about it."""
    # n - g b to all its digits: integers first.
    WHOLE: tl.constexpr = least(BLOCK) - 1
    PART: tl.constexpr = share(BLOCK) - WHOLE
    return mean - tl.sqrt(squares * (share(BLOCK) / (n * (n - WHOLE - PART))))


@triton.jit
def kept_threshold(w, keep, n, BLOCK: tl.constexpr):
    """lambda of the n lengths to keep of columns (R, P)."""
    mean = row_sum(tl.where(keep, w, 0.0)) / n
    gap = tl.where(keep, w - mean, 0.0)
    return threshold_of(mean, row_sum(gap * gap), n, BLOCK)


@triton.jit
def unit_of(top, close, BLOCK: tl.constexpr):
    """What lengths are measured in, below the largest, and how far apart a tie is pulled.

    `close` says how many are tied with the largest. Where they alone could not have both norms,
    there are many nearest points: a ramp picks one.
    """
    LEAST: tl.constexpr = least(BLOCK)
    tied = close >= LEAST
    unit = tl.maximum(tl.where(tied, top * CLOSE, top), TINY)
    return 1 / unit, tl.where(tied, 1.0 / LEAST, 0.0)


@triton.jit
def nearest(a, inside, place, BLOCK: tl.constexpr):
    """Lengths a >= 0 of blocks, columns of (R, P), -> those of the nearest points.

    `inside` says which rows are of a block, the others being 0; `place` which of its bins they are.
    """
    a = within_threads(a)
    top = row_max(a)
    close = row_sum((inside & (top - a <= top * CLOSE)).to(tl.float32))
    unit, step = unit_of(top, close, BLOCK)
    w = (a - top) * unit - place * step
    n = tl.full(top.shape, BLOCK, tl.float32)
    threshold = kept_threshold(w, inside, n, BLOCK)
    for _ in tl.static_range(BLOCK - least(BLOCK)):
        keep = inside & (w > threshold)
        n = row_sum(keep.to(tl.float32))
        higher = kept_threshold(w, keep, n, BLOCK)
        threshold = tl.where(n >= least(BLOCK), tl.maximum(threshold, higher), threshold)
    excess = tl.where(inside, tl.maximum(w - threshold, 0.0), 0.0)
    return excess * (one_norm(BLOCK) / row_sum(excess))


@triton.jit
def directed(re, im, inverse, length, one_re, one_im):
    """re + i im, 1 / inverse long, to another length; in direction `one` where inverse is 0."""
    nowhere = inverse == 0
    re = tl.where(nowhere, one_re, re * inverse) * length
    return re, tl.where(nowhere, one_im, im * inverse) * length
