"""The nearest lengths of a block, for all kernels of the white-noise projection (GPER).

In every block of b bins the nearest lengths are relu(|y| - lambda) times a factor. If n lengths are
kept, with mean m and sum of squares about it v, the threshold lambda is
m - sqrt(g b v / (n (n - g b))) with g = pi / 4. With too many lengths the threshold is too low, but
still drops no length that must be kept. So lengths below the threshold are dropped until there are
none, which takes at most b - floor(g b) - 1 steps, three if b = 16. No sort is needed, and sums
about a mean lose no digits to cancellation.
"""

import math

import triton
import triton.language as tl

from .dft import joined, log2, lower_upper

TINY = tl.constexpr(2.0**-126)  # the smallest normal number
CLOSE = tl.constexpr(16 * 2.0**-23)  # relative: lengths this close to the largest count as equal


@triton.constexpr_function
def share(block):
    """Return g b, the value of (sum y)^2 / sum y^2 in a block of white noise."""
    return math.pi / 4 * block


@triton.constexpr_function
def least(block):
    """Return the least number of lengths that a block keeps: fewer cannot meet both norms."""
    return math.floor(math.pi / 4 * block) + 1


@triton.constexpr_function
def one_norm(block):
    """Return sqrt(g) b, the sum of a block's lengths."""
    return math.sqrt(math.pi / 4) * block


@triton.jit
def peak_of(v):
    """Return the largest |v| of a float32 tensor (A, C) as bits, so that NaN and inf count too."""
    bits = v.to(tl.int32, bitcast=True) & 0x7FFFFFFF
    return tl.max(tl.max(bits, 1), 0)


@triton.jit
def unit_scale(peak):
    """Return the power of two that brings a peak, given by its bits, near 1.

    Scaled by it, squares of sums stay within float32. If the peak is not finite it is NaN, which
    makes the whole sample NaN.
    """
    exponent = tl.minimum(peak >> 23, 253)
    scale = ((254 - exponent) << 23).to(tl.float32, bitcast=True)
    # NaN is no global, because Triton compares globals at each launch and NaN differs from itself.
    return tl.where(peak >= 0x7F800000, float("nan"), scale)


@triton.jit
def within_threads(z):
    """Return a tensor (R, P) with each column in one thread, by taking it apart and joining it.

    Without this, Triton 3.6 leaves the tensor in its layout and computes thresholds once per bin.
    """
    if z.shape[0] == 1:
        return z
    else:
        low, high = lower_upper(z)
        return joined(within_threads(low), within_threads(high))


@triton.jit
def row_sum(z):
    """Return the sum of a tensor's rows, (R, P) -> (1, P), within threads; R is a power of two."""
    for _ in tl.static_range(log2(z.shape[0])):
        low, high = lower_upper(z)
        z = low + high
    return z


@triton.jit
def row_max(z):
    """Return the maximum of a tensor's rows, like `row_sum`."""
    for _ in tl.static_range(log2(z.shape[0])):
        low, high = lower_upper(z)
        z = tl.maximum(low, high)
    return z


@triton.jit
def threshold_of(mean, squares, n, BLOCK: tl.constexpr):
    """Return lambda of n lengths from their mean and the sum of squares about it."""
    # Integers are subtracted first, so that n - g b keeps all its digits.
    WHOLE: tl.constexpr = least(BLOCK) - 1
    PART: tl.constexpr = share(BLOCK) - WHOLE
    return mean - tl.sqrt(squares * (share(BLOCK) / (n * (n - WHOLE - PART))))


@triton.jit
def kept_threshold(w, keep, n, BLOCK: tl.constexpr):
    """Return lambda of the n lengths of columns (R, P) that are kept."""
    mean = row_sum(tl.where(keep, w, 0.0)) / n
    gap = tl.where(keep, w - mean, 0.0)
    return threshold_of(mean, row_sum(gap * gap), n, BLOCK)


@triton.jit
def unit_of(top, close, BLOCK: tl.constexpr):
    """Return the inverse unit of lengths below the largest, and the step of a ramp over ties.

    `close` lengths are tied with the largest. So many equal lengths cannot have both norms if there
    are at least `least` of them: then there are many nearest points, and the ramp picks one.
    """
    LEAST: tl.constexpr = least(BLOCK)
    tied = close >= LEAST
    unit = tl.maximum(tl.where(tied, top * CLOSE, top), TINY)
    return 1 / unit, tl.where(tied, 1.0 / LEAST, 0.0)


@triton.jit
def nearest(a, inside, place, BLOCK: tl.constexpr):
    """Return the lengths of the nearest points of blocks with lengths a >= 0, columns of (R, P).

    `inside` says which rows belong to a block (the others are 0), `place` which bin a row is.
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
    """Give re + i im, of length 1 / inverse, another length; in direction `one` if inverse is 0."""
    nowhere = inverse == 0
    re = tl.where(nowhere, one_re, re * inverse) * length
    return re, tl.where(nowhere, one_im, im * inverse) * length
