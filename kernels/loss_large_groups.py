"""Launches for groups of large samples that share a permutation.

A random access moves a sector of 32 bytes for the sake of one number. Here G samples stand side by
side in a workspace, number by number, so that a sector holds numbers of all of them. `interleave`
brings them there, `group_columns` gathers and transforms a packed column of each sample, and after
`rows` the way back is `group_columns_back` and `deinterleave`. The transforms, and the workspace
between them, are those of loss_large_columns. The last group may be incomplete: zeros stand for its
missing samples.
"""

import triton
import triton.language as tl

from .dft import fourier, fourier_back
from .loss_large_columns import column_rows, finish_sample, source
from .metadata import transform, work
from .moments import count, moment_gradient, place, power_sums
from .workspace import load_columns, store_columns


def _samples(grid, args):
    return grid[1] * args["G"]


def _interleave_work(args):
    return args["D"] * (args["x"].element_size() + 4), 0


def _columns_work(args):
    moved = 8 + args["table"].element_size() / args["G"]
    return args["D"] * moved, transform(args["N1"], args["N2"] / 2) + 3 * args["D"]


def _columns_back_work(args):
    moved = 8 + args["table"].element_size() / args["G"]
    return args["D"] * moved, transform(args["N1"], args["N2"] / 2)


def _deinterleave_work(args):
    moments = args["ORDERS"] > 0
    moved = args["x"].element_size() * moments + 4 + args["grad"].element_size()
    return args["D"] * moved, 3 * args["D"] * moments


@triton.jit
def group_rows(G: tl.constexpr):
    """Return the first row of a program's group in workspaces, and rows in it (G, 1)."""
    return tl.program_id(1).to(tl.int64) * G, tl.expand_dims(tl.arange(0, G), 1)


@triton.jit(
    launch_metadata=work(_samples, _interleave_work), do_not_specialize=["sample0", "samples"]
)
def interleave(
    x, mixed, x_stride, sample0, samples, D: tl.constexpr, G: tl.constexpr, TILE: tl.constexpr
):
    """Copy TILE numbers of each of G samples to `mixed` (groups, D, G).

    Samples count from sample0 to before `samples`, rows of workspaces from 0.
    """
    row, s = group_rows(G)
    i = tl.expand_dims(tl.program_id(0) * TILE + tl.arange(0, TILE), 0)
    sample = row + sample0 + s
    inside = tl.broadcast_to(sample < samples, (G, TILE))
    v = tl.load(x + sample * x_stride + i, mask=inside, other=0.0).to(tl.float32)
    tl.store(mixed + row * D + (i * G + s), v)


@triton.jit
def mixed_places(
    table, column, D: tl.constexpr, N1: tl.constexpr, N2: tl.constexpr, R1: tl.constexpr,
    G: tl.constexpr, V: tl.constexpr,
):  # fmt: skip
    """Return where `mixed` holds [n1, (n2, n3, s)] of a column.

    V is the number of samples, side by side, that a thread is to access at once.
    """
    start = column + tl.arange(0, N1 // R1) * N2
    number = source(start, 0, table, 0, table, "columns", D, 0, R1)
    s = tl.expand_dims(tl.expand_dims(tl.arange(0, G), 0), 0)
    at = tl.reshape(tl.expand_dims(number * G, 2) + s, (R1, N1 // R1 * G))
    # The inner hint prevents vectors of four, which threads would then exchange for numbers of
    # their own; the outer one puts the samples of a number into neighbouring lanes.
    return tl.max_contiguous(tl.multiple_of(at, [1, V]), [1, G])


@triton.jit
def group_column_rows(
    N1: tl.constexpr, D: tl.constexpr, R1: tl.constexpr, R3: tl.constexpr, G: tl.constexpr
):
    """Return `column_rows` of a packed column of G samples.

    A sample takes as much of z and of `edges` as D / 32 columns do, so that column m of sample s
    lies where column m + s D / 32 of the first sample would.
    """
    low, high, w = column_rows(0, N1, R1, R3, G)
    return low, high, tl.program_id(0) + w * (D // 32)


@triton.jit
def by_sample(z, G: tl.constexpr):
    """Return sums over the numbers of each sample: (T G,) -> (G,)."""
    return tl.sum(tl.reshape(z, (z.shape[0] // G, G)), 0)


@triton.jit(launch_metadata=work(_samples, _columns_work))
def group_columns(
    mixed, z, edges, sums, table, roots,
    ORDERS: tl.constexpr, D: tl.constexpr, N1: tl.constexpr, N2: tl.constexpr,
    R1: tl.constexpr, R2: tl.constexpr, R3: tl.constexpr, G: tl.constexpr, V: tl.constexpr,
):  # fmt: skip
    """Gather a packed column of each of G permuted samples and transform them.

    A thread reads V samples at once. Partial power sums and the plain sum are written to `sums`
    (B, columns, K + 1).
    """
    row = tl.program_id(1).to(tl.int64) * G
    mixed += row * D
    column = tl.program_id(0)
    re = tl.load(mixed + mixed_places(table, column, D, N1, N2, R1, G, V))
    im = tl.load(mixed + mixed_places(table, column + N2 // 2, D, N1, N2, R1, G, V))
    out = (row + tl.arange(0, G)) * tl.num_programs(0) + column
    out = sums + out * (count(ORDERS) + 1)
    re_sums, im_sums = power_sums(re, ORDERS), power_sums(im, ORDERS)
    for k in tl.static_range(count(ORDERS)):
        tl.store(out + k, by_sample(re_sums[k] + im_sums[k], G))
    tl.store(out + count(ORDERS), by_sample(tl.sum(re, 0) + tl.sum(im, 0), G))

    re, im = fourier(re, im, roots, D, R1, R2, R3, G)
    low, high, m = group_column_rows(N1, D, R1, R3, G)
    store_columns(z + row * D, edges + row * (D // 16), re, im, low, high, m, N1, N2)


@triton.jit(
    launch_metadata=work(_samples, _columns_back_work), do_not_specialize=["sample0", "samples"]
)
def group_columns_back(
    mixed, z, edges, sums, gaps, loss, slopes, table, roots, power_weight, scale, sample0, samples,
    TASK: tl.constexpr, ORDERS: tl.constexpr, FORM: tl.constexpr, TILES: tl.constexpr,
    D: tl.constexpr, N1: tl.constexpr, N2: tl.constexpr,
    R1: tl.constexpr, R2: tl.constexpr, R3: tl.constexpr, G: tl.constexpr,
):  # fmt: skip
    """Transform a packed column of each of G samples back and scatter them to `mixed`.

    `TASK`: "gradient" also writes each sample's loss, and its derivatives by the moments, times
    `scale`, to `slopes` (B, K).
    """
    column = tl.program_id(0)
    row = tl.program_id(1).to(tl.int64) * G
    if TASK == "gradient":
        sample = row + sample0 + column
        if (column < G) & (sample < samples):
            value, parts = finish_sample(
                sums, gaps, row + column, power_weight, TILES, ORDERS, FORM, D, N1
            )
            tl.store(loss + sample, value)
            for k in tl.static_range(count(ORDERS)):
                tl.store(slopes + sample * count(ORDERS) + k, parts[k] * scale)
    low, high, m = group_column_rows(N1, D, R1, R3, G)
    re, im = load_columns(z + row * D, edges + row * (D // 16), low, high, m, N2)
    re, im = fourier_back(re, im, roots, D, R1, R2, R3, G)
    mixed += row * D
    tl.store(mixed + mixed_places(table, column, D, N1, N2, R1, G, 1), re)
    tl.store(mixed + mixed_places(table, column + N2 // 2, D, N1, N2, R1, G, 1), im)


@triton.jit(
    launch_metadata=work(_samples, _deinterleave_work), do_not_specialize=["sample0", "samples"]
)
def deinterleave(
    mixed, x, grad, slopes, x_stride, sample0, samples,
    ORDERS: tl.constexpr, D: tl.constexpr, G: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Copy TILE numbers of each of G samples to `grad`, with the moments' gradient added."""
    row, s = group_rows(G)
    i = tl.expand_dims(tl.program_id(0) * TILE + tl.arange(0, TILE), 0)
    sample = row + sample0 + s
    inside = sample < samples
    g = tl.load(mixed + row * D + (i * G + s))
    if ORDERS:
        parts = ()
        for n in tl.static_range(1, 9):
            if (ORDERS >> n) & 1:
                at = slopes + sample * count(ORDERS) + place(ORDERS, n)
                parts = parts + (tl.load(at, mask=inside, other=0.0),)
        every = tl.broadcast_to(inside, (G, TILE))
        v = tl.load(x + sample * x_stride + i, mask=every, other=0.0).to(tl.float32)
        g += moment_gradient(v, parts, ORDERS, D)
    inside = tl.broadcast_to(inside, (G, TILE))
    tl.store(grad + sample * D + i, g.to(grad.dtype.element_ty), mask=inside)
