"""The second of three launches, between those of `columns`: from rows to losses and back.

A program holds 17 rows. It needs both halves of 15 of them, the lower half of the first and the
upper half of the last: these are whole blocks, see loss_large_columns.
"""

import math

import triton
import triton.language as tl

from .dft import (
    apart,
    joined,
    lower_upper,
    root,
    swap,
    together,
    turned_dft,
    turned_dft_adjoint,
)
from .metadata import by_second, transform, work
from .moments import sign
from .shuffle import shuffled_index
from .spectrum import amplitudes
from .workspace import edge_places, load_rows, store_rows, tile_places

BLOCK = tl.constexpr(16)
HALF_ROOT = tl.constexpr(math.sqrt(0.5))


def _rows_work(args):
    back = args["TASK"] in ("gradient", "pullback")
    blocks = args["D"] // 8 * (args["TASK"] in ("statistics", "pullback"))
    operations = (1 + back) * transform(args["N2"], args["N1"] / 2) + 10 * args["D"]
    return args["D"] * 4 * (1 + back) + blocks, operations


@triton.jit
def turn(re, im, A: tl.constexpr, B: tl.constexpr, C: tl.constexpr, R: tl.constexpr):
    """Return z[a, (b, c, r)] as z[c, (a, b, r)]."""
    z = tl.permute(tl.reshape(together(re, im), (2, A, B, C, R)), (0, 3, 1, 2, 4))
    return apart(tl.reshape(z, (2, C, A * B * R)))


@triton.jit
def turn_back(re, im, A: tl.constexpr, B: tl.constexpr, C: tl.constexpr, R: tl.constexpr):
    """Invert `turn`."""
    z = tl.permute(tl.reshape(together(re, im), (2, C, A, B, R)), (0, 2, 3, 1, 4))
    return apart(tl.reshape(z, (2, A, B * C * R)))


@triton.jit
def row_root(
    roots, low, first, SHARED: tl.constexpr, T: tl.constexpr, R: tl.constexpr, D: tl.constexpr,
    N1: tl.constexpr, C: tl.constexpr, CACHE: tl.constexpr,
):  # fmt: skip
    """Load exp(-2 pi i C (k1 + N1 low) / D) of T numbers of R rows k1, `first` and the next ones.

    With SHARED all of them are copies of the row `first`.
    """
    r = tl.arange(0, T) % R * (0 if SHARED else 1)
    return root(roots, D // C, first + r + N1 * low, D, CACHE)


@triton.jit
def row_fourier(
    re, im, first, roots, SHARED: tl.constexpr, D: tl.constexpr, N1: tl.constexpr,
    C1: tl.constexpr, C2: tl.constexpr, C3: tl.constexpr, R: tl.constexpr,
):  # fmt: skip
    """Transform R rows k1, twiddled: [c1, (c2, c3, r)] -> [kc3, (kc2, kc1, r)].

    n2 = c1 C2 C3 + c2 C3 + c3, k2 = kc1 + C1 kc2 + C1 C2 kc3. The twiddles exp(-2 pi i k1 n2 / D)
    are powers in each digit of n2, like the factors between the steps: `turned_dft` takes both.
    """
    t1: tl.constexpr = C2 * C3 * R
    c, s = row_root(roots, 0, first, SHARED, t1, R, D, N1, C2 * C3, "")
    re, im = turned_dft(re, im, c, s, -1)
    re, im = swap(re, im, C1, C2, C3 * R)
    if C2 > 1:
        t2: tl.constexpr = C1 * C3 * R
        kc1 = tl.arange(0, t2) // (C3 * R)
        c, s = row_root(roots, kc1, first, SHARED, t2, R, D, N1, C3, "")
        re, im = turned_dft(re, im, c, s, -1)
    re, im = turn(re, im, C2, C1, C3, R)
    t3: tl.constexpr = C2 * C1 * R
    low = tl.arange(0, t3) // R  # kc2 C1 + kc1
    c, s = row_root(roots, low, first, SHARED, t3, R, D, N1, 1, "")
    return turned_dft(re, im, c, s, -1)


@triton.jit
def row_fourier_back(
    re, im, first, roots, SHARED: tl.constexpr, D: tl.constexpr, N1: tl.constexpr,
    C1: tl.constexpr, C2: tl.constexpr, C3: tl.constexpr, R: tl.constexpr,
):  # fmt: skip
    """Apply the adjoint of `row_fourier`."""
    t3: tl.constexpr = C2 * C1 * R
    c, s = row_root(roots, tl.arange(0, t3) // R, first, SHARED, t3, R, D, N1, 1, ".cg")
    re, im = turned_dft_adjoint(re, im, c, s, -1)
    re, im = turn_back(re, im, C2, C1, C3, R)
    if C2 > 1:
        t2: tl.constexpr = C1 * C3 * R
        kc1 = tl.arange(0, t2) // (C3 * R)
        c, s = row_root(roots, kc1, first, SHARED, t2, R, D, N1, C3, ".cg")
        re, im = turned_dft_adjoint(re, im, c, s, -1)
    re, im = swap(re, im, C2, C1, C3 * R)
    t1: tl.constexpr = C2 * C3 * R
    c, s = row_root(roots, 0, first, SHARED, t1, R, D, N1, C2 * C3, ".cg")
    return turned_dft_adjoint(re, im, c, s, -1)


@triton.jit
def directions(re, im, STATISTIC: tl.constexpr, D: tl.constexpr):
    """Return amplitudes of bins, which come at twice their size, and their gradient by the bins."""
    a, slope = amplitudes(re, im, STATISTIC, 0.5 / D**0.5)
    return a, re * slope, im * slope


@triton.jit
def flat(z):
    """Return the numbers of a tensor one after the other."""
    return tl.reshape(z, (z.numel,))


@triton.jit
def in_threads(a, P: tl.constexpr):
    """Return the 16 numbers of each of P blocks, which lie one after the other in a, (16, P).

    A column is a block, shuffled, and in one thread (see `shuffle`).
    """
    return tl.reshape(tl.gather(flat(a), shuffled_index(P, BLOCK), 0), (BLOCK, P))


@triton.jit
def respread(weight, first, like):
    """Give each number of `like` the weight of its block; its blocks are those from `first` on."""
    R: tl.constexpr = 2 * like.numel // weight.numel
    each = tl.gather(weight, first + tl.arange(0, like.numel) // R, 0)
    return tl.reshape(each, like.shape)


@triton.jit(launch_metadata=work(by_second, _rows_work), do_not_specialize=["sample0"])
def rows(
    z, edges, z_back, edges_back, gaps, blocks, roots, power_weight, target, scale, sample0,
    TASK: tl.constexpr, STATISTIC: tl.constexpr, D: tl.constexpr, N1: tl.constexpr,
    N2: tl.constexpr, C1: tl.constexpr, C2: tl.constexpr, C3: tl.constexpr, E1: tl.constexpr,
    COPIES: tl.constexpr,
):  # fmt: skip
    """Transform 17 rows of z, and transform the gradient by them back.

    The row that is shared with the next program has E1 for its first radix, and COPIES of it are
    computed. z_back is z and edges_back is edges: they are passed twice, so that no pointer of a
    load stays in registers until its store. `TASK`: "value" writes a sum of |A_p - target| to gaps
    (B, programs); "gradient" does that and overwrites z and edges with the gradient; "statistics"
    writes A_p to blocks (B, P); "pullback" reads gradients by A_p from blocks and overwrites z and
    edges.
    """
    C: tl.constexpr = C1 * C2
    E2: tl.constexpr = C // E1
    P: tl.constexpr = D // 32
    i = tl.program_id(0)
    row = tl.program_id(1).to(tl.int64)
    z += row * D
    edges += row * (D // 16)
    z_back += row * D
    edges_back += row * (D // 16)
    # One row is too little work for the program's threads: each group of them has a copy of it.
    edge_own, edge_mirror = edge_places(i, N1, E1, E2 * C3, COPIES)
    edge = 16 * i + 16
    edges_k1 = tl.full((E2 * C3 * COPIES,), 16, tl.int32) * (i + 1)
    e_re, e_im = load_rows(edges, edge_own, edge_mirror)
    e_re, e_im = row_fourier(e_re, e_im, edge, roots, True, D, N1, E1, E2, C3, COPIES)
    _, e_re = lower_upper(e_re)
    _, e_im = lower_upper(e_im)

    k1 = 16 * i + tl.arange(0, 16 * C2 * C3) % 16
    own, mirror = tile_places(i, N1, C1, C2 * C3)
    re, im = load_rows(z, own, mirror)
    re, im = row_fourier(re, im, 16 * i, roots, False, D, N1, C1, C2, C3, 16)

    # Lower and upper half; X_0 and X_{D/2}, both real, share a bin.
    low_re, high_re = lower_upper(re)
    low_im, high_im = lower_upper(im)
    t = tl.expand_dims(tl.arange(0, 16 * C), 0)
    kc3 = tl.expand_dims(tl.arange(0, C3 // 2), 1)
    first = (i == 0) & (t == 0) & (kc3 == 0)
    low_im = tl.where(first, high_re * HALF_ROOT, low_im)
    low_re = tl.where(first, low_re * HALF_ROOT, low_re)
    low, low_re, low_im = directions(low_re, low_im, STATISTIC, D)
    high, high_re, high_im = directions(high_re, high_im, STATISTIC, D)
    last, e_re, e_im = directions(e_re, e_im, STATISTIC, D)
    own_rows = t % 16 > 0
    high = tl.where(own_rows, high, 0.0)
    # The lower half's blocks come first; to those of the upper half belongs a number of the edge.
    block = tl.arange(0, N2)
    upper = block >= N2 // 2
    means = tl.sum(in_threads(joined(low, high), N2), 0)
    means += tl.where(upper, tl.gather(flat(last), block % (N2 // 2) * COPIES, 0), 0.0)
    means = tl.fma(means, 1 / BLOCK, 0.0)

    k2 = block % (N2 // 2)
    place = tl.where(upper, N1 // 16 * (N2 // 2 - k2) - i - 1, i + N1 // 16 * k2)
    places = blocks + (row + sample0) * P + place
    if TASK == "statistics":
        tl.store(places, means)
    if (TASK == "value") | (TASK == "gradient"):
        gap = means - target
        tl.store(gaps + row * tl.num_programs(0) + i, tl.sum(tl.abs(gap), 0))
    if (TASK == "gradient") | (TASK == "pullback"):
        if TASK == "gradient":
            weight = sign(gap) * (scale * power_weight / (P * BLOCK))
        else:
            weight = tl.load(places) / BLOCK
        by_low = respread(weight, 0, low)
        by_high = tl.where(own_rows, respread(weight, N2 // 2, high), 0.0)
        by_edge = respread(weight, N2 // 2, last)
        low_re, low_im = low_re * by_low, low_im * by_low
        high_re, high_im = high_re * by_high, high_im * by_high
        high_re = tl.where(first, low_im * HALF_ROOT, high_re)
        low_re = tl.where(first, low_re * HALF_ROOT, low_re)
        low_im = tl.where(first, 0.0, low_im)
        re, im = joined(low_re, high_re), joined(low_im, high_im)
        re, im = row_fourier_back(re, im, 16 * i, roots, False, D, N1, C1, C2, C3, 16)
        store_rows(z_back, own, mirror, re, im, k1, N1, 1)

        e_re, e_im = e_re * by_edge, e_im * by_edge
        e_re, e_im = joined(e_re * 0, e_re), joined(e_im * 0, e_im)
        e_re, e_im = row_fourier_back(e_re, e_im, edge, roots, True, D, N1, E1, E2, C3, COPIES)
        store_rows(edges_back, edge_own, edge_mirror, e_re, e_im, edges_k1, N1, COPIES)
