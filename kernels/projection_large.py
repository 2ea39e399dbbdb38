"""The white-noise projection of samples of D = 65536 numbers and more: two of its three launches.

The launches are those of the loss (see loss_large_columns and loss_large_rows): columns of the
transform, rows there and back, and columns back, which is the loss's `columns_back`. A program of
rows has whole blocks. Columns are scaled tile by tile, since a sample's peak is known only after
the first launch; the second launch brings all tiles to one scale.
"""

import math

import triton
import triton.language as tl

from .dft import fourier, joined, lower_upper
from .loss_large_columns import column_numbers, column_rows, column_starts
from .loss_large_rows import row_fourier, row_fourier_back
from .metadata import by_second, transform, work
from .nearest import directed, nearest, peak_of, unit_scale
from .shuffle import transposed
from .spectrum import amplitudes
from .workspace import (
    edge_places,
    load_rows,
    store_columns,
    store_rows,
    tile_places,
)

BLOCK = tl.constexpr(16)
HALF_ROOT = tl.constexpr(math.sqrt(0.5))


def _columns_work(args):
    operations = transform(args["N1"], args["N2"] / 2) + 3 * args["D"]
    return args["D"] * (args["x"].element_size() + 4), operations


def _rows_work(args):
    return args["D"] * 8, 2 * transform(args["N2"], args["N1"] / 2) + 60 * args["D"]


@triton.jit(launch_metadata=work(by_second, _columns_work), do_not_specialize=["sample0"])
def project_columns(
    x, z, edges, sizes, roots, x_stride, sample0,
    D: tl.constexpr, N1: tl.constexpr, N2: tl.constexpr,
    R1: tl.constexpr, R2: tl.constexpr, R3: tl.constexpr, W: tl.constexpr,
):  # fmt: skip
    """Transform a tile of W packed columns of the samples, divided by the tile's size.

    The size is written to `sizes` (B, tiles). Samples count from sample0, rows of the workspaces
    and of sizes from 0.
    """
    row = tl.program_id(1).to(tl.int64)
    at = x + (row + sample0) * x_stride + column_numbers(column_starts(N1, N2, R1, W), D, R1)
    re = tl.load(at).to(tl.float32)
    im = tl.load(at + N2 // 2).to(tl.float32)
    scale = unit_scale(tl.maximum(peak_of(re), peak_of(im)))
    tl.store(sizes + row * tl.num_programs(0) + tl.program_id(0), 1 / scale)
    re, im = fourier(re * scale, im * scale, roots, D, R1, R2, R3, W)
    low, high, m = column_rows(tl.program_id(0) * W, N1, R1, R3, W)
    store_columns(z + row * D, edges + row * (D // 16), re, im, low, high, m, N1, N2)


@triton.jit
def load_scaled(
    z, own, mirror, sizes, N2: tl.constexpr, C1: tl.constexpr, R: tl.constexpr, W: tl.constexpr
):
    """Load R rows of C1 x C numbers like `load_rows`, all at the scale of the largest tile."""
    TILES: tl.constexpr = N2 // 2 // W
    re, im = load_rows(z, own, mirror)
    scale = 1 / tl.max(tl.load(sizes + tl.arange(0, TILES)), 0)
    n2 = tl.expand_dims(tl.arange(0, C1), 1) * (N2 // C1)
    n2 += tl.expand_dims(tl.arange(0, N2 // C1 * R) // R, 0)
    factor = tl.load(sizes + n2 % (N2 // 2) // W) * scale
    return re * factor, im * factor


@triton.jit
def spread(weight, R: tl.constexpr):
    """Repeat a number per block for R rows: (A, C) -> (A, C R)."""
    A: tl.constexpr = weight.shape[0]
    C: tl.constexpr = weight.shape[1]
    weight = tl.broadcast_to(tl.expand_dims(weight, 2), (A, C, R))
    return tl.reshape(weight, (A, C * R))


@triton.jit
def row_means(a, R: tl.constexpr):
    """Return means over R rows: (A, C R) -> (A, C)."""
    return tl.sum(tl.reshape(a, (a.shape[0], a.shape[1] // R, R)), 2) / R


@triton.jit
def own_block_lengths(low, high, last, A: tl.constexpr, C: tl.constexpr):
    """Return the lengths of the nearest points of a tile's bins.

    low (A, C 16) has rows 0 to 15 of the lower half; high (A, C 16) has rows 1 to 15 of the upper
    half, and last (A, C) its row 16, which takes the place of row 0 in high.
    """
    own_rows = tl.expand_dims(tl.arange(0, 16 * C), 0) % 16 > 0
    a = joined(low, tl.where(own_rows, high, spread(last, 16)))
    r = tl.expand_dims(tl.arange(0, 16), 1)
    block = tl.expand_dims(tl.arange(0, 2 * A * C), 0)
    # In the upper half bins ascend where rows descend.
    place = tl.where(block < A * C, r, (16 - r) % 16)
    a = nearest(transposed(tl.reshape(a, (2 * A * C, 16))), r >= 0, place, BLOCK)
    low, high = lower_upper(tl.reshape(tl.trans(a), (2 * A, 16 * C)))
    return low, high, row_means(tl.where(own_rows, 0.0, high), 16) * 16


@triton.jit(launch_metadata=work(by_second, _rows_work))
def project_rows(
    z, edges, z_back, edges_back, sizes, roots,
    D: tl.constexpr, N1: tl.constexpr, N2: tl.constexpr, W: tl.constexpr,
    C1: tl.constexpr, C2: tl.constexpr, C3: tl.constexpr, E1: tl.constexpr, COPIES: tl.constexpr,
):  # fmt: skip
    """Transform 17 rows of z, give their bins new lengths, and transform them back.

    z_back is z and edges_back is edges: they are passed twice, so that no pointer of a load stays
    in registers until its store.
    """
    C: tl.constexpr = C1 * C2
    E2: tl.constexpr = C // E1
    SCALE: tl.constexpr = 1 / D**0.5
    i = tl.program_id(0)
    row = tl.program_id(1).to(tl.int64)
    z += row * D
    edges += row * (D // 16)
    z_back += row * D
    edges_back += row * (D // 16)
    sizes += row * (N2 // 2 // W)
    # One row is too little work for the program's threads: each group of them has a copy of it.
    edge_own, edge_mirror = edge_places(i, N1, E1, E2 * C3, COPIES)
    edge = 16 * i + 16
    edges_k1 = tl.full((E2 * C3 * COPIES,), 16, tl.int32) * (i + 1)
    e_re, e_im = load_scaled(edges, edge_own, edge_mirror, sizes, N2, E1, COPIES, W)
    e_re, e_im = row_fourier(e_re, e_im, edge, roots, True, D, N1, E1, E2, C3, COPIES)
    _, e_re = lower_upper(e_re)
    _, e_im = lower_upper(e_im)
    last, e_inverse = amplitudes(e_re, e_im, "amplitude", 1.0)

    k1 = 16 * i + tl.arange(0, 16 * C2 * C3) % 16
    own, mirror = tile_places(i, N1, C1, C2 * C3)
    re, im = load_scaled(z, own, mirror, sizes, N2, C1, 16, W)
    re, im = row_fourier(re, im, 16 * i, roots, False, D, N1, C1, C2, C3, 16)

    # Lower and upper half; X_0 and X_{D/2}, both real, share a bin.
    low_re, high_re = lower_upper(re)
    low_im, high_im = lower_upper(im)
    t = tl.expand_dims(tl.arange(0, 16 * C), 0)
    first = (i == 0) & (t == 0) & (tl.expand_dims(tl.arange(0, C3 // 2), 1) == 0)
    low_im = tl.where(first, high_re * HALF_ROOT, low_im)
    low_re = tl.where(first, low_re * HALF_ROOT, low_re)
    low, low_inverse = amplitudes(low_re, low_im, "amplitude", 1.0)
    high, high_inverse = amplitudes(high_re, high_im, "amplitude", 1.0)
    last = row_means(last, COPIES)
    low, high, last = own_block_lengths(low, high, last, C3 // 2, C)
    high = tl.where(t % 16 > 0, high, 0.0)
    low_re, low_im = directed(low_re, low_im, low_inverse, low * SCALE, 1.0, 0.0)
    high_re, high_im = directed(high_re, high_im, high_inverse, high * SCALE, 1.0, 0.0)

    high_re = tl.where(first, low_im * HALF_ROOT, high_re)
    low_re = tl.where(first, low_re * HALF_ROOT, low_re)
    low_im = tl.where(first, 0.0, low_im)
    re, im = joined(low_re, high_re), joined(low_im, high_im)
    re, im = row_fourier_back(re, im, 16 * i, roots, False, D, N1, C1, C2, C3, 16)
    store_rows(z_back, own, mirror, re, im, k1, N1, 1)

    last = spread(last, COPIES) * SCALE
    e_re, e_im = directed(e_re, e_im, e_inverse, last, 1.0, 0.0)
    e_re, e_im = joined(e_re * 0, e_re), joined(e_im * 0, e_im)
    e_re, e_im = row_fourier_back(e_re, e_im, edge, roots, True, D, N1, E1, E2, C3, COPIES)
    store_rows(edges_back, edge_own, edge_mirror, e_re, e_im, edges_k1, N1, COPIES)
