"""The white-noise projection of samples of any length, with blocks of any size.

Samples are scaled before torch's rfft, and spectra are projected in place before its irfft.
"""

import triton
import triton.language as tl

from .loss_general import compact, parts_of, store_adjoint, whose
from .metadata import by_part, work
from .nearest import (
    CLOSE,
    directed,
    least,
    nearest,
    one_norm,
    threshold_of,
    unit_of,
    unit_scale,
)
from .spectrum import amplitudes


def _scaled_work(args):
    return args["D"] * (args["x"].element_size() + 4), args["D"]


def _spectrum_work(args):
    return args["D"] * 8, args["D"] * 30


@triton.jit(launch_metadata=work(by_part, _scaled_work))
def scaled(
    x, peaks, out, x_stride,
    D: tl.constexpr, TILE: tl.constexpr, PARTS: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    """Write x times the power of two that brings its peak, (B,), near 1, to out (B, D), float32."""
    sample, part = whose(PARTS)
    x += sample * x_stride
    scale = unit_scale(tl.load(peaks + sample).to(tl.float32).to(tl.int32, bitcast=True))
    for step in range(STEPS):
        j = (part * STEPS + step) * TILE + tl.arange(0, TILE)
        v = tl.load(x + j, mask=j < D, other=0.0).to(tl.float32)
        tl.store(out + sample * D + j, v * scale, mask=j < D)


@triton.jit
def lengths_at(half, k, inside, middle, D: tl.constexpr):
    """Return lengths of the bins k, up to a factor; 0 if not inside."""
    re, im = compact(half, k, inside, middle, D)
    a, _ = amplitudes(re, im, "amplitude", 1.0)
    return a


@triton.jit
def store_lengths(half, k, inside, re, im, inverse, length, D: tl.constexpr):
    """Store bins k with a new length, in the form that irfft takes; 1 / |re + i im| is inverse."""
    re, im = directed(re, im, inverse, length * (2 / D**0.5), 1.0, 0.0)
    store_adjoint(half, k, inside, re, im, D)


@triton.jit
def project_blocks(
    half, first, middle, BLOCK: tl.constexpr, D: tl.constexpr, ROWS: tl.constexpr,
    SIZE: tl.constexpr,
):  # fmt: skip
    """Project ROWS blocks at once, from `first` on; SIZE is a power of two, at least BLOCK."""
    place = tl.expand_dims(tl.arange(0, SIZE), 1)
    p = tl.expand_dims(first + tl.arange(0, ROWS), 0)
    inside = (place < BLOCK) & (p < D // 2 // BLOCK)
    k = p * BLOCK + place
    re, im = compact(half, k, inside, middle, D)
    a, inverse = amplitudes(re, im, "amplitude", 1.0)
    a = nearest(a, place < BLOCK, place, BLOCK)
    if ROWS * SIZE < 32:
        tl.debug_barrier()  # lanes share bins: all have read one before it is stored
    store_lengths(half, k, inside, re, im, inverse, a, D)


@triton.jit
def in_units(half, place, p, middle, top, unit, step, BLOCK: tl.constexpr, D: tl.constexpr):
    """Return `nearest`'s w at places of block p; -inf past its end."""
    inside = place < BLOCK
    a = lengths_at(half, p * BLOCK + place, inside, middle, D)
    return tl.where(inside, (a - top) * unit - place * step, -float("inf"))


@triton.jit
def above(
    half, p, middle, top, unit, step, threshold, BLOCK: tl.constexpr, D: tl.constexpr,
    SIZE: tl.constexpr,
):  # fmt: skip
    """Return how many lengths of block p are above a threshold, and their sum."""
    count, total = tl.zeros((SIZE,), tl.int32), tl.zeros((SIZE,), tl.float32)
    for start in range(0, BLOCK, SIZE):
        w = in_units(half, start + tl.arange(0, SIZE), p, middle, top, unit, step, BLOCK, D)
        count += (w > threshold).to(tl.int32)
        total += tl.where(w > threshold, w, 0.0)
    return tl.sum(count, 0), tl.sum(total, 0)


@triton.jit
def squares_about(
    half, p, middle, top, unit, step, threshold, mean, BLOCK: tl.constexpr, D: tl.constexpr,
    SIZE: tl.constexpr,
):  # fmt: skip
    """Return the sum of squares about a mean of the lengths above a threshold."""
    squares = tl.zeros((SIZE,), tl.float32)
    for start in range(0, BLOCK, SIZE):
        w = in_units(half, start + tl.arange(0, SIZE), p, middle, top, unit, step, BLOCK, D)
        gap = tl.where(w > threshold, w - mean, 0.0)
        squares += gap * gap
    return tl.sum(squares, 0)


@triton.jit
def project_block(
    half, p, middle, BLOCK: tl.constexpr, D: tl.constexpr, SIZE: tl.constexpr
):  # fmt: skip
    """Project block p, SIZE bins at a time: `nearest` in several passes over the block."""
    LEAST: tl.constexpr = least(BLOCK)
    c = tl.arange(0, SIZE)
    peaks = tl.zeros((SIZE,), tl.float32)
    for start in range(0, BLOCK, SIZE):
        place = start + c
        peaks = tl.maximum(peaks, lengths_at(half, p * BLOCK + place, place < BLOCK, middle, D))
    top = tl.max(peaks, 0)
    close = tl.zeros((SIZE,), tl.int32)
    for start in range(0, BLOCK, SIZE):
        place = start + c
        a = lengths_at(half, p * BLOCK + place, place < BLOCK, middle, D)
        close += ((place < BLOCK) & (top - a <= top * CLOSE)).to(tl.int32)
    unit, step = unit_of(top, tl.sum(close, 0), BLOCK)

    threshold = top * 0 - float("inf")
    before = tl.full((), BLOCK + 1, tl.int32)
    n, total = above(half, p, middle, top, unit, step, threshold, BLOCK, D, SIZE)
    while (n < before) & (n >= LEAST):
        mean = total / n
        squares = squares_about(
            half, p, middle, top, unit, step, threshold, mean, BLOCK, D, SIZE
        )  # fmt: skip
        threshold = tl.maximum(threshold, threshold_of(mean, squares, n.to(tl.float32), BLOCK))
        before = n
        n, total = above(half, p, middle, top, unit, step, threshold, BLOCK, D, SIZE)
    factor = one_norm(BLOCK) / (total - n * threshold)
    tl.debug_barrier()  # all have read bins that one will write
    for start in range(0, BLOCK, SIZE):
        place = start + c
        w = in_units(half, place, p, middle, top, unit, step, BLOCK, D)
        length = tl.maximum(w - threshold, 0.0) * factor
        k = p * BLOCK + place
        re, im = compact(half, k, place < BLOCK, middle, D)
        _, inverse = amplitudes(re, im, "amplitude", 1.0)
        store_lengths(half, k, place < BLOCK, re, im, inverse, length, D)


@triton.jit(launch_metadata=work(by_part, _spectrum_work))
def project_spectrum(
    half, BLOCK: tl.constexpr, D: tl.constexpr, LOOP: tl.constexpr,
    ROWS: tl.constexpr, SIZE: tl.constexpr, PARTS: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    """Project half spectra (B, D // 2 + 1), complex64 seen as int64, in place.

    With LOOP a program takes one block at a time, in pieces of SIZE bins.
    """
    sample, part = whose(PARTS)
    half += sample * (D // 2 + 1)
    middle, _ = parts_of(tl.load(half + D // 2, mask=part == 0, other=0))
    tl.debug_barrier()  # all threads have read it before one stores the adjoint there
    for step in range(STEPS):
        p = (part * STEPS + step) * ROWS
        if not LOOP:
            project_blocks(half, p, middle, BLOCK, D, ROWS, SIZE)
        elif p < D // 2 // BLOCK:
            project_block(half, p, middle, BLOCK, D, SIZE)
