"""Four launches: statistics, loss and gradient of samples of D = 65536 numbers and more.

The permuted sample is packed into M = D / 2 complex numbers, as in `fused`, and transformed in two
steps, N1 points in `columns` and N2 in `rows` (M = N1 N2), through a workspace z that stays in the
L2 cache:

    n = n1 N2 + n2,    k = k1 + N1 k2

A block of 16 bins is 16 neighbouring rows k1 at one k2. Bin k needs its mirror M - k, which lies in
row N1 - k1: so a program of `rows` takes rows 16 i .. 16 i + 15 and their mirrors, 32 in all. The
mirrors of a block are 15 rows of one block and one of the next, whose other rows another program
has. Block sums come in two parts therefore, and `rows_back` is a launch of its own, after all of
them are there. Last, `columns_back` scatters the gradient and adds that of the moments.
"""

import triton
import triton.language as tl

from .dft import apart, dft, root, swap, times, together, twiddle
from .metadata import by_part, by_second, transform, work
from .moments import count, moment_gradient, moment_terms, place, power_sums, sign
from .permutation import permutation_state, permuted
from .spectrum import amplitudes, bin_roots, untangle, untangle_adjoint

BLOCK = tl.constexpr(16)


def _index_bytes(args):
    return args["table"].element_size() if args["MODE"] == "table" else 0


def _columns_work(args):
    moved = args["x"].element_size() + _index_bytes(args) + 4 * args["SAVE"] + 4
    return args["D"] * moved, transform(args["N1"], args["N2"]) + 3 * args["D"]


def _rows_work(args):
    return args["D"] * (4 + 4 * args["SAVE"]), transform(args["N2"], args["N1"]) + 10 * args["D"]


def _rows_back_work(args):
    return args["D"] * 8, transform(args["N2"], args["N1"]) + 10 * args["D"]


def _finish_work(args):
    return args["D"] // 4, args["D"] // 8


def _columns_back_work(args):
    moved = 4 + args["grad"].element_size() + _index_bytes(args)
    moved += args["xp"].element_size() * (args["ORDERS"] > 0)
    return args["D"] * moved, transform(args["N1"], args["N2"]) + 3 * args["D"]


@triton.jit
def source(
    j, sample, table, table_stride, seed, MODE: tl.constexpr, D: tl.constexpr, BITS: tl.constexpr
):
    """perm[j] for a sample: from a table, by arithmetic, or j itself."""  # fmt: skip
    if MODE == "table":
        return tl.load(table + sample * table_stride + j).to(tl.int32)
    elif MODE == "seed":
        state = permutation_state(seed, sample)
        flat = tl.reshape(j, (j.numel,)).to(tl.uint32)
        return tl.reshape(permuted(flat, state, D, BITS, False).to(tl.int32), j.shape)
    else:
        return j


@triton.jit
def column_numbers(N1: tl.constexpr, N2: tl.constexpr, A: tl.constexpr, W: tl.constexpr):
    """n of the elements [a1, (a2, w)] of a tile of W columns, n1 = a1 N1 / A + a2 -> (A, T)."""
    t = tl.arange(0, N1 // A * W)
    n2 = tl.program_id(0) * W + t % W
    a1 = tl.expand_dims(tl.arange(0, A), 1)
    return (a1 * (N1 // A) + tl.expand_dims(t // W, 0)) * N2 + tl.expand_dims(n2, 0)


@triton.jit
def column_twiddles(roots, N1: tl.constexpr, N2: tl.constexpr, A: tl.constexpr, W: tl.constexpr):
    """For the elements [kb, (ka, w)] of a column, k1 = ka + A kb: exp(-2 pi i k1 n2 / M) is the
    first root, for ka, times the second to the power of kb."""
    M: tl.constexpr = N1 * N2
    t = tl.arange(0, A * W)
    n2 = tl.program_id(0) * W + t % W
    ka_c, ka_s = root(roots, 2 * (t // W) * n2, M, "")
    kb_c, kb_s = root(roots, 2 * A * n2, M, "")
    return tl.expand_dims(ka_c, 0), tl.expand_dims(ka_s, 0), kb_c, kb_s


@triton.jit
def column_places(N1: tl.constexpr, N2: tl.constexpr, A: tl.constexpr, W: tl.constexpr):
    """Places in z of the elements [kb, (ka, w)], k1 = ka + A kb -> (N1 / A, A W)."""
    t = tl.arange(0, A * W)
    n2 = tl.program_id(0) * W + t % W
    kb = tl.expand_dims(tl.arange(0, N1 // A), 1)
    return (tl.expand_dims(t // W, 0) + A * kb) * N2 + tl.expand_dims(n2, 0)


@triton.jit
def load_complex(z, places):
    """z[places] of an interleaved complex array."""
    last = tl.expand_dims(tl.expand_dims(tl.arange(0, 2), 0), 0)
    return tl.split(tl.load(z + (2 * tl.expand_dims(places, 2) + last)))


@triton.jit
def store_complex(z, places, re, im):
    """z[places] = re + i im."""
    last = tl.expand_dims(tl.expand_dims(tl.arange(0, 2), 0), 0)
    tl.store(z + (2 * tl.expand_dims(places, 2) + last), tl.join(re, im))


@triton.jit(launch_metadata=work(by_second, _columns_work), do_not_specialize=["sample0"])
def columns(
    x, xp, z, sums, table, seed, roots, x_stride, table_stride, sample0,
    MODE: tl.constexpr, ORDERS: tl.constexpr, SAVE: tl.constexpr, D: tl.constexpr,
    BITS: tl.constexpr, N1: tl.constexpr, N2: tl.constexpr, A: tl.constexpr, W: tl.constexpr,
):  # fmt: skip
    """Gathers a tile of W columns of the permuted samples and transforms them.

    Partial power sums and the plain sum go to `sums` (B, tiles, K + 1); with SAVE the permuted
    sample to `xp`. Samples are numbered from sample0, rows of the workspaces from 0.
    """
    AB: tl.constexpr = N1 // A
    row = tl.program_id(1).to(tl.int64)
    sample = row + sample0
    n = column_numbers(N1, N2, A, W)
    j = 2 * tl.expand_dims(n, 2) + tl.expand_dims(tl.expand_dims(tl.arange(0, 2), 0), 0)
    number = source(j, sample, table, table_stride, seed, MODE, D, BITS)
    v = tl.load(x + sample * x_stride + number).to(tl.float32)
    if SAVE:
        tl.store(xp + row * D + j, v)
    flat = tl.reshape(v, (2 * N1 * W,))
    parts = power_sums(flat, ORDERS)
    out = sums + (row * tl.num_programs(0) + tl.program_id(0)) * (len(parts) + 1)
    for k in tl.static_range(len(parts)):
        tl.store(out + k, parts[k])
    tl.store(out + len(parts), tl.sum(flat, 0))

    re, im = tl.split(v)
    re, im = dft(re, im, -1)
    a2 = tl.arange(0, AB * W) // W
    c, s = root(roots, a2 * (D // N1), D // 2, "")
    re, im = twiddle(re, im, c, s, -1)
    re, im = swap(re, im, A, AB, W)
    re, im = dft(re, im, -1)
    ka_c, ka_s, kb_c, kb_s = column_twiddles(roots, N1, N2, A, W)
    re, im = twiddle(re, im, kb_c, kb_s, -1)
    re, im = times(re, im, ka_c, ka_s)
    store_complex(z + row * D, column_places(N1, N2, A, W), re, im)


@triton.jit
def tile_rows(t, C: tl.constexpr, N1: tl.constexpr):
    """Row k1 of the elements (slot, c) of a tile of 32 rows: 16 i + r, then their mirrors."""
    slot = t // C
    k1 = tl.program_id(0) * 16 + slot % 16
    # Row 0 is its own mirror, and leaves its mirror's slot to row N1 / 2, the other such row.
    mirror = tl.where(k1 == 0, N1 // 2, N1 - k1)
    return tl.where(slot < 16, k1, mirror)


@triton.jit
def mirror_rows(re, im, C1: tl.constexpr, C2: tl.constexpr):
    """z_k -> z_{M-k} within a tile [kc2, (slot, kc1)], k2 = kc1 + C1 kc2."""
    N2: tl.constexpr = C1 * C2
    SIZE: tl.constexpr = 32 * N2
    q = tl.arange(0, 2 * SIZE)
    kc1, slot, kc2 = q % C1, q // C1 % 32, q // (32 * C1) % C2
    k2 = kc1 + C1 * kc2
    alone = (tl.program_id(0) == 0) & (slot % 16 == 0)
    k2 = tl.where(alone & (slot == 0), (N2 - k2) % N2, N2 - 1 - k2)
    slot = tl.where(alone, slot, (slot + 16) % 32)
    index = q // SIZE * SIZE + (k2 // C1 * 32 + slot) * C1 + k2 % C1
    z = tl.gather(tl.reshape(together(re, im), (2 * SIZE,)), index, 0)
    return apart(tl.reshape(z, (2, C2, 32 * C1)))


@triton.jit
def turned(re, im, A: tl.constexpr, B: tl.constexpr, C: tl.constexpr):
    """z[a, (b, c)] as z[c, (b, a)]."""
    z = tl.permute(tl.reshape(together(re, im), (2, A, B, C)), (0, 3, 2, 1))
    return apart(tl.reshape(z, (2, C, B * A)))


@triton.jit(launch_metadata=work(by_second, _rows_work))
def rows(
    z, parts, roots,
    SAVE: tl.constexpr, POWER: tl.constexpr, D: tl.constexpr, N1: tl.constexpr, N2: tl.constexpr,
    C1: tl.constexpr,
):  # fmt: skip
    """Transforms 32 rows of z; sums of amplitudes over blocks go to `parts` (B, 2, P).

    With SAVE the bins, times two, go back to z.
    """
    C2: tl.constexpr = N2 // C1
    G: tl.constexpr = N1 // 16
    P: tl.constexpr = D // 32
    row = tl.program_id(1).to(tl.int64)
    z += row * D
    t = tl.arange(0, 32 * C2)
    c1 = tl.expand_dims(tl.arange(0, C1), 1)
    places = c1 * C2 + tl.expand_dims(tile_rows(t, C2, N1) * N2 + t % C2, 0)
    re, im = load_complex(z, places)
    re, im = dft(re, im, -1)
    c, s = root(roots, t % C2 * (D // N2), D // 2, "")
    re, im = twiddle(re, im, c, s, -1)
    re, im = turned(re, im, C1, 32, C2)
    re, im = dft(re, im, -1)

    t = tl.arange(0, 32 * C1)
    kc2 = tl.expand_dims(tl.arange(0, C2), 1)
    start = tile_rows(t, C1, N1) + N1 * (t % C1)
    w_re, w_im = bin_roots(roots, start, D, C2, "")
    m_re, m_im = mirror_rows(re, im, C1, C2)
    first = (kc2 == 0) & (tl.expand_dims(start, 0) == 0)
    re, im = untangle(re, im, m_re, m_im, w_re, w_im, first)
    if SAVE:
        places = kc2 * C1 + tl.expand_dims(tile_rows(t, C1, N1) * N2 + t % C1, 0)
        store_complex(z, places, re, im)
    SCALE: tl.constexpr = 0.5 / D**0.5
    a, _ = amplitudes(re, im, POWER, SCALE)

    # One sum over the rows of the own blocks, one over 15 rows of the mirror's block; the row that
    # is left belongs to a block whose other rows another program has.
    a = tl.reshape(a, (C2, 2, 16, C1))
    half = tl.reshape(tl.arange(0, 2), (1, 2, 1, 1))
    r = tl.reshape(tl.arange(0, 16), (1, 1, 16, 1))
    left = (half == 1) & (r == 0)
    main = tl.sum(tl.where(left, 0.0, a), 2)
    rest = tl.sum(tl.where(left, a, 0.0), 2)
    i = tl.program_id(0)
    half = tl.reshape(tl.arange(0, 2), (1, 2, 1))
    k2 = tl.reshape(tl.arange(0, C2), (C2, 1, 1)) * C1 + tl.reshape(tl.arange(0, C1), (1, 1, C1))
    parts += row * 2 * P + G * k2
    tl.store(parts + tl.where(half == 0, i, G - 1 - i), main)
    tl.store(parts + P + tl.where(half == 0, i, tl.where(i == 0, G // 2, G - i)), rest)


@triton.jit(launch_metadata=work(by_second, _rows_back_work), do_not_specialize=["sample0"])
def rows_back(
    z, parts, grad_blocks, roots, power_weight, target, scale, sample0,
    TASK: tl.constexpr, POWER: tl.constexpr, D: tl.constexpr, N1: tl.constexpr, N2: tl.constexpr,
    C1: tl.constexpr,
):  # fmt: skip
    """From the bins in z and the block sums to the gradient by the rows, transformed back."""
    C2: tl.constexpr = N2 // C1
    G: tl.constexpr = N1 // 16
    P: tl.constexpr = D // 32
    row = tl.program_id(1).to(tl.int64)
    z += row * D
    t = tl.arange(0, 32 * C1)
    kc2 = tl.expand_dims(tl.arange(0, C2), 1)
    k1 = tile_rows(t, C1, N1)
    places = kc2 * C1 + tl.expand_dims(k1 * N2 + t % C1, 0)
    re, im = load_complex(z, places)
    block = kc2 * (C1 * G) + tl.expand_dims(k1 // 16 + t % C1 * G, 0)
    if TASK == "gradient":
        at = parts + row * 2 * P + block
        gap = (tl.load(at) + tl.load(at + P)) / BLOCK - target
        weight = sign(gap) * (scale * power_weight / (P * BLOCK))
    else:
        weight = tl.load(grad_blocks + (row + sample0) * P + block) / BLOCK
    SCALE: tl.constexpr = 0.5 / D**0.5
    _, slope = amplitudes(re, im, POWER, SCALE)
    re, im = re * (weight * slope), im * (weight * slope)
    m_re, m_im = mirror_rows(re, im, C1, C2)
    start = k1 + N1 * (t % C1)
    w_re, w_im = bin_roots(roots, start, D, C2, "")
    first = (kc2 == 0) & (tl.expand_dims(start, 0) == 0)
    re, im = untangle_adjoint(re, im, m_re, m_im, w_re, w_im, first)

    re, im = dft(re, im, 1)
    re, im = turned(re, im, C2, 32, C1)
    t = tl.arange(0, 32 * C2)
    c, s = root(roots, t % C2 * (D // N2), D // 2, "")
    re, im = twiddle(re, im, c, s, 1)
    re, im = dft(re, im, 1)
    c1 = tl.expand_dims(tl.arange(0, C1), 1)
    places = c1 * C2 + tl.expand_dims(tile_rows(t, C2, N1) * N2 + t % C2, 0)
    store_complex(z, places, re, im)


@triton.jit
def total_moments(sums, row, TILES: tl.constexpr, ORDERS: tl.constexpr, D: tl.constexpr):
    """The moments of a sample from its partial sums, and its plain sum."""
    K: tl.constexpr = count(ORDERS)
    at = sums + row * TILES * (K + 1) + tl.arange(0, TILES) * (K + 1)
    m = ()
    for k in tl.static_range(K):
        m = m + (tl.sum(tl.load(at + k), 0) / D,)
    return m, tl.sum(tl.load(at + K), 0)


@triton.jit
def sample_loss(
    parts, row, term, total, power_weight, target, D: tl.constexpr, CHUNK: tl.constexpr
):
    """The loss of a sample: its moments' term and its blocks'; NaN where its plain sum is not
    finite."""
    P: tl.constexpr = D // 32
    gaps = tl.zeros((CHUNK,), tl.float32)
    for start in range(0, P, CHUNK):
        at = parts + row * 2 * P + start + tl.arange(0, CHUNK)
        gaps += tl.abs((tl.load(at) + tl.load(at + P)) / BLOCK - target)
    return term + power_weight * (tl.sum(gaps, 0) / P) + 0 * total


@triton.jit(launch_metadata=work(by_part, _finish_work), do_not_specialize=["sample0"])
def finish(
    sums, parts, loss, moments, blocks, power_weight, target, sample0,
    TASK: tl.constexpr, ORDERS: tl.constexpr, FORM: tl.constexpr, TILES: tl.constexpr,
    D: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Loss, or moments and block amplitudes, of a sample from its sums."""
    P: tl.constexpr = D // 32
    row = tl.program_id(0).to(tl.int64)
    sample = row + sample0
    m, total = total_moments(sums, row, TILES, ORDERS, D)
    if TASK == "value":
        term, _ = moment_terms(m, ORDERS, FORM, D)
        value = sample_loss(parts, row, term, total, power_weight, target, D, CHUNK)
        tl.store(loss + sample, value)
    else:
        for k in tl.static_range(len(m)):
            tl.store(moments + sample * len(m) + k, m[k])
        for start in range(0, P, CHUNK):
            p = start + tl.arange(0, CHUNK)
            at = parts + row * 2 * P + p
            tl.store(blocks + sample * P + p, (tl.load(at) + tl.load(at + P)) / BLOCK)


@triton.jit(launch_metadata=work(by_second, _columns_back_work), do_not_specialize=["sample0"])
def columns_back(
    xp, z, sums, parts, loss, grad, moments, table, seed, roots,
    xp_stride, table_stride, power_weight, target, scale, sample0,
    TASK: tl.constexpr, MODE: tl.constexpr, ORDERS: tl.constexpr, FORM: tl.constexpr,
    D: tl.constexpr, BITS: tl.constexpr, N1: tl.constexpr, N2: tl.constexpr, A: tl.constexpr,
    W: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Transforms columns of z back and scatters them, with the moments' gradient, to `grad`."""
    AB: tl.constexpr = N1 // A
    row = tl.program_id(1).to(tl.int64)
    sample = row + sample0
    re, im = load_complex(z + row * D, column_places(N1, N2, A, W))
    ka_c, ka_s, kb_c, kb_s = column_twiddles(roots, N1, N2, A, W)
    re, im = times(re, im, ka_c, -ka_s)
    re, im = twiddle(re, im, kb_c, kb_s, 1)
    re, im = dft(re, im, 1)
    re, im = swap(re, im, AB, A, W)
    a2 = tl.arange(0, AB * W) // W
    c, s = root(roots, a2 * (D // N1), D // 2, "")
    re, im = twiddle(re, im, c, s, 1)
    re, im = dft(re, im, 1)

    n = column_numbers(N1, N2, A, W)
    j = 2 * tl.expand_dims(n, 2) + tl.expand_dims(tl.expand_dims(tl.arange(0, 2), 0), 0)
    g = tl.join(re, im)
    if TASK == "gradient":
        m, total = total_moments(sums, row, N2 // W, ORDERS, D)
        term, slopes = moment_terms(m, ORDERS, FORM, D)
        if tl.program_id(0) == 0:
            value = sample_loss(parts, row, term, total, power_weight, target, D, CHUNK)
            tl.store(loss + sample, value)
    else:
        slopes = ()
        for k in tl.static_range(1, 9):
            if (ORDERS >> k) & 1:
                at = moments + sample * count(ORDERS) + place(ORDERS, k)
                slopes = slopes + (tl.load(at),)
    if ORDERS:
        v = tl.load(xp + row * xp_stride + j).to(tl.float32)
        local = moment_gradient(v, slopes, ORDERS, D)
        g += local * scale if TASK == "gradient" else local
    number = source(j, sample, table, table_stride, seed, MODE, D, BITS)
    tl.store(grad + sample * D + number, g.to(grad.dtype.element_ty))
