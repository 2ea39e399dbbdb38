"""The first and the last of three launches, for samples of D = 65536 numbers and more.

From four samples of one permutation on, up to D = 2^21, there are five launches instead: see
loss_large_groups.

The D numbers of the permuted sample are N1 x N2, transformed in two steps through a workspace z
that stays in the L2 cache: `columns` of N1 numbers, then `rows` of N2.

    n = n1 N2 + n2,    k = k1 + N1 k2

Columns n2 and n2 + N2 / 2 are real and packed as one complex column. Its transform Z holds the
transforms of both: rows k1 and N1 - k1 give A = Z_k1 + conj Z_{N1-k1} and
B = -i (Z_k1 - conj Z_{N1-k1}), which are twice the two columns' transforms. So the rows
k1 = 0 .. N1 / 2 are unpacked as they are loaded, and hold every bin once: at k2 < N2 / 2 the bins
k1 + N1 k2, above that the mirrors D - k1 - N1 k2.

A block of 16 bins is rows 16 i .. 16 i + 15 in the lower half and rows 16 i + 1 .. 16 i + 16 in
the upper half. A program of `rows` takes these 17 rows, and so has whole blocks: it goes from bins
to signs and back in one launch. Two programs share row 16 i: one needs its lower half, the other
its upper half. `edges` keeps a copy of these rows, and the gradients of both programs are added in
`columns_back`, which scatters them with the moments' gradient.
"""

import triton
import triton.language as tl

from .dft import fourier, fourier_back
from .metadata import by_part, by_second, transform, work
from .moments import count, moment_gradient, moment_terms, place, power_sums
from .permutation import permutation_state, permuted
from .workspace import load_columns, store_columns


def _index_bytes(args):
    return args["table"].element_size() if args["MODE"] in ("table", "columns") else 0


def _columns_work(args):
    moved = args["x"].element_size() + _index_bytes(args) + 4 * args["SAVE"] + 4
    return args["D"] * moved, transform(args["N1"], args["N2"] / 2) + 3 * args["D"]


def _finish_work(args):
    return args["TILES"] * 4 * args["ORDERS"].bit_count() + args["N1"] // 8, args["TILES"]


def _columns_back_work(args):
    moved = 4 + args["grad"].element_size() + _index_bytes(args)
    moved += args["xp"].element_size() * (args["ORDERS"] > 0)
    return args["D"] * moved, transform(args["N1"], args["N2"] / 2) + 3 * args["D"]


@triton.jit
def column_starts(N1: tl.constexpr, N2: tl.constexpr, R1: tl.constexpr, W: tl.constexpr):
    """Return n of the real parts of elements [0, (n2, n3, w)] of a tile of W packed columns."""
    t = tl.arange(0, N1 // R1 * W)
    return tl.program_id(0) * W + t // W * N2 + t % W


@triton.jit
def column_numbers(start, D: tl.constexpr, R1: tl.constexpr):
    """Return n of elements [n1, (n2, n3, w)], `start` being those of the first row."""
    return tl.expand_dims(tl.arange(0, R1), 1) * (D // R1) + tl.expand_dims(start, 0)


@triton.jit
def source(
    start, sample, table, table_stride, seed,
    MODE: tl.constexpr, D: tl.constexpr, BITS: tl.constexpr, R1: tl.constexpr,
):  # fmt: skip
    """Return perm[n] of `column_numbers`: from a table, by arithmetic, or n itself.

    The table is a permutation, or its matrix of R1 rows by columns: of this a thread reads R1
    neighbours at once, and a program whole sectors, however few its columns are.
    """
    if MODE == "columns":
        at = tl.expand_dims(start, 1) * R1 + tl.expand_dims(tl.arange(0, R1), 0)
        return tl.trans(tl.load(table + at).to(tl.int32))
    else:
        n = column_numbers(start, D, R1)
        if MODE == "table":
            return tl.load(table + sample * table_stride + n).to(tl.int32)
        elif MODE == "seed":
            state = permutation_state(seed, sample)
            flat = tl.reshape(n, (n.numel,)).to(tl.uint32)
            return tl.reshape(permuted(flat, state, D, BITS, False).to(tl.int32), n.shape)
        else:
            return n


@triton.jit
def column_rows(first, N1: tl.constexpr, R1: tl.constexpr, R3: tl.constexpr, W: tl.constexpr):
    """Return rows and columns of the elements [k3, (k2, w, k1)] of a tile of columns from `first`.

    Rows are k1 = low + high, low (1, T) and high (R3, 1), a multiple of 16; columns are m (1, T).
    """
    t = tl.expand_dims(tl.arange(0, N1 // R3 * W), 0)
    low = t // (R1 * W) * R1 + t % R1
    high = tl.expand_dims(tl.arange(0, R3), 1) * (N1 // R3)
    return low, high, first + t // R1 % W


@triton.jit
def saved_place(start, SIZE: tl.constexpr, MODE: tl.constexpr, D: tl.constexpr, R1: tl.constexpr):
    """Return where `columns` keeps a tile's numbers for `columns_back`: a run for each program."""
    if MODE == "none":  # they are x itself
        return column_numbers(start, D, R1)
    flat = tl.reshape(tl.arange(0, SIZE), (R1, SIZE // R1))
    # Triton 3.6 does not see that neighbours are neighbours in memory.
    return tl.program_id(0) * (2 * SIZE) + tl.max_contiguous(flat, [1, SIZE // R1])


@triton.jit(launch_metadata=work(by_second, _columns_work), do_not_specialize=["sample0"])
def columns(
    x, xp, z, edges, sums, table, seed, roots, x_stride, table_stride, sample0,
    MODE: tl.constexpr, ORDERS: tl.constexpr, SAVE: tl.constexpr, D: tl.constexpr,
    BITS: tl.constexpr, N1: tl.constexpr, N2: tl.constexpr,
    R1: tl.constexpr, R2: tl.constexpr, R3: tl.constexpr, W: tl.constexpr,
):  # fmt: skip
    """Gather a tile of W packed columns of the permuted samples and transform them.

    Partial power sums and the plain sum are written to `sums` (B, tiles, K + 1); with SAVE the
    permuted sample is written to `xp`. Samples count from sample0, rows of workspaces from 0.
    """
    row = tl.program_id(1).to(tl.int64)
    sample = row + sample0
    x += sample * x_stride
    start = column_starts(N1, N2, R1, W)
    number = source(start, sample, table, table_stride, seed, MODE, D, BITS, R1)
    re = tl.load(x + number).to(tl.float32)
    number = source(start + N2 // 2, sample, table, table_stride, seed, MODE, D, BITS, R1)
    im = tl.load(x + number).to(tl.float32)
    if SAVE:
        at = xp + row * D + saved_place(start, N1 * W, MODE, D, R1)
        tl.store(at, re)
        tl.store(at + N1 * W, im)
    flat = tl.reshape(tl.join(re, im), (2 * N1 * W,))
    parts = power_sums(flat, ORDERS)
    out = sums + (row * tl.num_programs(0) + tl.program_id(0)) * (len(parts) + 1)
    for k in tl.static_range(len(parts)):
        tl.store(out + k, parts[k])
    tl.store(out + len(parts), tl.sum(flat, 0))

    re, im = fourier(re, im, roots, D, R1, R2, R3, W)
    low, high, m = column_rows(tl.program_id(0) * W, N1, R1, R3, W)
    store_columns(z + row * D, edges + row * (D // 16), re, im, low, high, m, N1, N2)


@triton.jit
def total_moments(sums, row, TILES: tl.constexpr, ORDERS: tl.constexpr, D: tl.constexpr):
    """Return the moments of a sample from its partial sums, and its plain sum."""
    K: tl.constexpr = count(ORDERS)
    at = sums + row * TILES * (K + 1) + tl.arange(0, TILES) * (K + 1)
    m = ()
    for k in tl.static_range(K):
        m = m + (tl.sum(tl.load(at + k), 0) / D,)
    return m, tl.sum(tl.load(at + K), 0)


@triton.jit
def finish_sample(
    sums, gaps, row, power_weight, TILES: tl.constexpr, ORDERS: tl.constexpr, FORM: tl.constexpr,
    D: tl.constexpr, N1: tl.constexpr,
):  # fmt: skip
    """Return the loss of a sample from its sums and gaps, and its derivatives by the moments.

    The loss is NaN if the plain sum of the sample is not finite.
    """
    m, total = total_moments(sums, row, TILES, ORDERS, D)
    term, slopes = moment_terms(m, ORDERS, FORM, D)
    PROGRAMS: tl.constexpr = N1 // 32
    gap = tl.sum(tl.load(gaps + row * PROGRAMS + tl.arange(0, PROGRAMS)), 0)
    return term + power_weight * (gap / (D // 32)) + 0 * total, slopes


@triton.jit(launch_metadata=work(by_part, _finish_work), do_not_specialize=["sample0"])
def finish(
    sums, gaps, loss, moments, power_weight, sample0,
    TASK: tl.constexpr, ORDERS: tl.constexpr, FORM: tl.constexpr, TILES: tl.constexpr,
    D: tl.constexpr, N1: tl.constexpr,
):  # fmt: skip
    """Write the loss, or the moments, of a sample from its sums."""
    row = tl.program_id(0).to(tl.int64)
    sample = row + sample0
    if TASK == "value":
        value, _ = finish_sample(sums, gaps, row, power_weight, TILES, ORDERS, FORM, D, N1)
        tl.store(loss + sample, value)
    else:
        m, _ = total_moments(sums, row, TILES, ORDERS, D)
        for k in tl.static_range(len(m)):
            tl.store(moments + sample * len(m) + k, m[k])


@triton.jit(launch_metadata=work(by_second, _columns_back_work), do_not_specialize=["sample0"])
def columns_back(
    xp, z, edges, sums, gaps, loss, grad, moments, table, seed, roots,
    xp_stride, table_stride, power_weight, scale, sample0,
    TASK: tl.constexpr, MODE: tl.constexpr, ORDERS: tl.constexpr, FORM: tl.constexpr,
    D: tl.constexpr, BITS: tl.constexpr, N1: tl.constexpr, N2: tl.constexpr,
    R1: tl.constexpr, R2: tl.constexpr, R3: tl.constexpr, W: tl.constexpr,
):  # fmt: skip
    """Transform columns of z back and scatter them, with the moments' gradient, to `grad`."""
    row = tl.program_id(1).to(tl.int64)
    sample = row + sample0
    low, high, m = column_rows(tl.program_id(0) * W, N1, R1, R3, W)
    re, im = load_columns(z + row * D, edges + row * (D // 16), low, high, m, N2)
    re, im = fourier_back(re, im, roots, D, R1, R2, R3, W)

    if TASK == "gradient":
        value, slopes = finish_sample(
            sums, gaps, row, power_weight, N2 // 2 // W, ORDERS, FORM, D, N1
        )
        if tl.program_id(0) == 0:
            tl.store(loss + sample, value)
    else:
        slopes = ()
        for k in tl.static_range(1, 9):
            if (ORDERS >> k) & 1:
                at = moments + sample * count(ORDERS) + place(ORDERS, k)
                slopes = slopes + (tl.load(at),)
    grad += sample * D
    start = column_starts(N1, N2, R1, W)
    if ORDERS:
        at = xp + row * xp_stride + saved_place(start, N1 * W, MODE, D, R1)
        v = tl.load(at).to(tl.float32)
        at += N2 // 2 if MODE == "none" else N1 * W
        w = tl.load(at).to(tl.float32)
        v = moment_gradient(v, slopes, ORDERS, D)
        w = moment_gradient(w, slopes, ORDERS, D)
        re += v * scale if TASK == "gradient" else v
        im += w * scale if TASK == "gradient" else w
    number = source(start, sample, table, table_stride, seed, MODE, D, BITS, R1)
    tl.store(grad + number, re.to(grad.dtype.element_ty))
    number = source(start + N2 // 2, sample, table, table_stride, seed, MODE, D, BITS, R1)
    tl.store(grad + number, im.to(grad.dtype.element_ty))
