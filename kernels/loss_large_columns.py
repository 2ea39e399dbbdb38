"""The first and the last of three launches, for samples of D = 65536 numbers and more.

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
from .workspace import load_complex, place_in_edges, place_in_z, store_complex


def _index_bytes(args):
    return args["table"].element_size() if args["MODE"] == "table" else 0


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
def source(
    j, sample, table, table_stride, seed, MODE: tl.constexpr, D: tl.constexpr, BITS: tl.constexpr
):
    """Return perm[j] for a sample: from a table, by arithmetic, or j itself."""
    if MODE == "table":
        return tl.load(table + sample * table_stride + j).to(tl.int32)
    elif MODE == "seed":
        state = permutation_state(seed, sample)
        flat = tl.reshape(j, (j.numel,)).to(tl.uint32)
        return tl.reshape(permuted(flat, state, D, BITS, False).to(tl.int32), j.shape)
    else:
        return j


@triton.jit
def column_numbers(N1: tl.constexpr, N2: tl.constexpr, R1: tl.constexpr, W: tl.constexpr):
    """Return n of the real parts of elements [n1, (n2, n3, w)] of a tile of W packed columns."""
    t = tl.arange(0, N1 // R1 * W)
    start = tl.program_id(0) * W + t // W * N2 + t % W
    return tl.expand_dims(tl.arange(0, R1), 1) * (N1 // R1 * N2) + tl.expand_dims(start, 0)


@triton.jit
def column_rows(N1: tl.constexpr, R1: tl.constexpr, R3: tl.constexpr, W: tl.constexpr):
    """Return rows and columns of the elements [k3, (k2, w, k1)] of a transformed tile.

    Rows are k1 = low + high, low (1, T) and high (R3, 1), a multiple of 16; columns are m (1, T).
    """
    t = tl.expand_dims(tl.arange(0, N1 // R3 * W), 0)
    low = t // (R1 * W) * R1 + t % R1
    high = tl.expand_dims(tl.arange(0, R3), 1) * (N1 // R3)
    return low, high, tl.program_id(0) * W + t // R1 % W


@triton.jit
def saved_place(j, SIZE: tl.constexpr, MODE: tl.constexpr):
    """Return where `columns` keeps a tile's numbers for `columns_back`: a run for each program."""
    if MODE == "none":  # they are x itself
        return j
    flat = tl.reshape(tl.arange(0, SIZE), j.shape)
    return tl.program_id(0) * (2 * SIZE) + flat


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
    j = column_numbers(N1, N2, R1, W)
    re = tl.load(x + source(j, sample, table, table_stride, seed, MODE, D, BITS)).to(tl.float32)
    high = j + N2 // 2
    im = tl.load(x + source(high, sample, table, table_stride, seed, MODE, D, BITS)).to(tl.float32)
    if SAVE:
        at = xp + row * D + saved_place(j, N1 * W, MODE)
        tl.store(at, re)
        tl.store(at + N1 * W, im)
    flat = tl.reshape(tl.join(re, im), (2 * N1 * W,))
    parts = power_sums(flat, ORDERS)
    out = sums + (row * tl.num_programs(0) + tl.program_id(0)) * (len(parts) + 1)
    for k in tl.static_range(len(parts)):
        tl.store(out + k, parts[k])
    tl.store(out + len(parts), tl.sum(flat, 0))

    re, im = fourier(re, im, roots, D, R1, R2, R3, W)
    low, high, m = column_rows(N1, R1, R3, W)
    k1 = low + high
    # Row N1 / 2 is in `edges` alone, row 0 in z alone, since `columns_back` adds both workspaces.
    z_re, z_im = tl.where(k1 == N1 // 2, 0.0, re), tl.where(k1 == N1 // 2, 0.0, im)
    store_complex(z + row * D, place_in_z(low, high, m, N2), z_re, z_im)
    re, im = tl.where(k1 == 0, 0.0, re), tl.where(k1 == 0, 0.0, im)
    places = place_in_edges(low, high, m, N2)
    store_complex(edges + row * (D // 16), places, re, im, mask=low % 16 == 0)


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
def sample_loss(gaps, row, term, total, power_weight, D: tl.constexpr, N1: tl.constexpr):
    """Return the loss of a sample from its moments' term and its blocks' gaps.

    It is NaN if the plain sum of the sample is not finite.
    """
    PROGRAMS: tl.constexpr = N1 // 32
    gap = tl.sum(tl.load(gaps + row * PROGRAMS + tl.arange(0, PROGRAMS)), 0)
    return term + power_weight * (gap / (D // 32)) + 0 * total


@triton.jit(launch_metadata=work(by_part, _finish_work), do_not_specialize=["sample0"])
def finish(
    sums, gaps, loss, moments, power_weight, sample0,
    TASK: tl.constexpr, ORDERS: tl.constexpr, FORM: tl.constexpr, TILES: tl.constexpr,
    D: tl.constexpr, N1: tl.constexpr,
):  # fmt: skip
    """Write the loss, or the moments, of a sample from its sums."""
    row = tl.program_id(0).to(tl.int64)
    sample = row + sample0
    m, total = total_moments(sums, row, TILES, ORDERS, D)
    if TASK == "value":
        term, _ = moment_terms(m, ORDERS, FORM, D)
        tl.store(loss + sample, sample_loss(gaps, row, term, total, power_weight, D, N1))
    else:
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
    low, high, m = column_rows(N1, R1, R3, W)
    re, im = load_complex(z + row * D, place_in_z(low, high, m, N2))
    shared = tl.broadcast_to(low % 16 == 0, re.shape)
    at = edges + row * (D // 16) + 2 * place_in_edges(low, high, m, N2)
    re += tl.load(at, mask=shared, other=0.0)
    im += tl.load(at + 1, mask=shared, other=0.0)
    re, im = fourier_back(re, im, roots, D, R1, R2, R3, W)

    if TASK == "gradient":
        means, total = total_moments(sums, row, N2 // 2 // W, ORDERS, D)
        term, slopes = moment_terms(means, ORDERS, FORM, D)
        if tl.program_id(0) == 0:
            value = sample_loss(gaps, row, term, total, power_weight, D, N1)
            tl.store(loss + sample, value)
    else:
        slopes = ()
        for k in tl.static_range(1, 9):
            if (ORDERS >> k) & 1:
                at = moments + sample * count(ORDERS) + place(ORDERS, k)
                slopes = slopes + (tl.load(at),)
    grad += sample * D
    j = column_numbers(N1, N2, R1, W)
    high = j + N2 // 2
    if ORDERS:
        at = xp + row * xp_stride + saved_place(j, N1 * W, MODE)
        v = tl.load(at).to(tl.float32)
        at += N2 // 2 if MODE == "none" else N1 * W
        w = tl.load(at).to(tl.float32)
        v = moment_gradient(v, slopes, ORDERS, D)
        w = moment_gradient(w, slopes, ORDERS, D)
        re += v * scale if TASK == "gradient" else v
        im += w * scale if TASK == "gradient" else w
    number = source(j, sample, table, table_stride, seed, MODE, D, BITS)
    tl.store(grad + number, re.to(grad.dtype.element_ty))
    number = source(high, sample, table, table_stride, seed, MODE, D, BITS)
    tl.store(grad + number, im.to(grad.dtype.element_ty))
