"""One launch: statistics, loss and gradient of samples that fit on the chip.

One program computes one sample of D = 64 to 32768 numbers, a power of two. The permuted sample is
packed into M = D / 2 complex numbers, z_n = xp_2n + i xp_2n+1, and transformed in three steps of
radix R1, R2, R3 (M = R1 R2 R3, C = R1 R2), or in two if R3 = 1:

    n = n1 R2 R3 + n2 R3 + n3,    k = k1 + R1 k2 + C k3

Each step transforms the first dimension of a tensor, and the exchanges between steps go through
shared memory. Each Z_k and its mirror Z_{M-k} give a bin of the real sample's spectrum; `mirrors`
says how they come into one thread.
"""

import triton
import triton.language as tl

from .metadata import by_part, transform, work
from .mirrors import (
    bins,
    bins_adjoint,
    block_order,
    by_block,
    fourier_paired,
    fourier_paired_back,
    to_bins,
)
from .moments import count, moment_gradient, moment_terms, place, power_sums, sign
from .permutation import permutation_state, permuted
from .spectrum import bin_roots, sizes, unit

VECTOR = tl.constexpr(4)  # neighbouring table entries that one thread reads


def _table_work(args):
    given = args["given"].element_size() if args["GIVEN"] else 0
    return args["D"] * (4 + given), 0


def _fused_work(args):
    task, dimension = args["TASK"], args["D"]
    blocks = dimension // (2 * args["BLOCK"]) * (task in ("statistics", "pullback"))
    moved = args["x"].element_size() * dimension + 4 * blocks
    transforms = 1
    if task in ("gradient", "pullback"):
        moved += args["grad"].element_size() * dimension
        transforms = 2
    return moved, transforms * transform(dimension // 2) + 10 * dimension


@triton.jit
def packed_number(q, T: tl.constexpr):
    """Return which number of the permuted sample the gather puts at q.

    The gather fills rows (n1, parity) of tensors (n2, n3). VECTOR rows are neighbours in memory,
    because one thread reads so many table entries at once.
    """
    row = q // (VECTOR * T) * VECTOR + q % VECTOR
    t = q // VECTOR % T
    return 2 * (row // 2 * T + t) + row % 2


@triton.jit
def packed_place(j, T: tl.constexpr):
    """Return where number j of the permuted sample lies in the flattened rows (n1, parity)."""
    n = j // 2
    return (n // T * 2 + j % 2) * T + n % T


@triton.jit(launch_metadata=work(by_part, _table_work), do_not_specialize=["sample0"])
def index_tables(
    seed, given, table, inverse, given_stride, sample0,
    GIVEN: tl.constexpr, D: tl.constexpr, BITS: tl.constexpr, T: tl.constexpr,
    TILE: tl.constexpr,
):  # fmt: skip
    """Write `table` and `inverse` of `fused`, rows of 2 D, from a seed or a given permutation.

    Samples are numbered from sample0.
    """
    row = tl.program_id(0)
    q = tl.program_id(1) * TILE + tl.arange(0, TILE)
    inside = q < D
    j = packed_number(q, T)
    if GIVEN:
        at = given + row.to(tl.int64) * given_stride + j
        number = tl.load(at, mask=inside, other=0).to(tl.int32)
    else:
        state = permutation_state(seed, row + sample0)
        number = permuted(j.to(tl.uint32), state, D, BITS, False).to(tl.int32)
    start = row.to(tl.int64) * 2 * D
    tl.store(table + start + q, number.to(tl.int16), mask=inside)
    tl.store(inverse + start + number, packed_place(j, T).to(tl.int16), mask=inside)


@triton.jit(launch_metadata=work(by_part, _fused_work))
def fused(
    x, loss, grad, moments, blocks, table, inverse, roots,
    x_stride, table_stride, power_weight, target, scale,
    TASK: tl.constexpr, PERMUTED: tl.constexpr, ORDERS: tl.constexpr, FORM: tl.constexpr,
    STATISTIC: tl.constexpr, BLOCK: tl.constexpr, D: tl.constexpr,
    R1: tl.constexpr, R2: tl.constexpr, R3: tl.constexpr, RELOAD: tl.constexpr,
    RELOAD_ROOTS: tl.constexpr,
):  # fmt: skip
    """Compute statistics, loss and gradient of one sample per program.

    `TASK`: "value" writes loss; "gradient" writes loss and `scale` times its gradient; "statistics"
    writes moments (B, K) and blocks (B, P); "pullback" reads gradients by these two and writes the
    gradient by x. With PERMUTED, `table` holds the index in x of each packed number
    (`packed_number`), and `inverse` the packed place (`packed_place`) of each number of x. With
    RELOAD, x is read again for the moments' gradient instead of being kept in registers, and with
    RELOAD_ROOTS the roots of the bins.
    """
    M: tl.constexpr = D // 2
    T: tl.constexpr = M // R1
    H: tl.constexpr = R1 * R2 // 2
    P: tl.constexpr = M // BLOCK
    block = block_order(BLOCK, R3, H)
    sample = tl.program_id(0).to(tl.int64)
    x += sample * x_stride
    i = tl.arange(0, D)
    # Without the hint a thread would take eight int16 at once, and eight numbers of x and grad as
    # well, of which a warp would then read and write half sectors.
    four = tl.max_contiguous(i, VECTOR)
    v = tl.load(x + i).to(tl.float32)

    if PERMUTED:
        index = tl.load(table + sample * table_stride + four).to(tl.int32)
    else:
        index = packed_number(i, T)
    z = tl.reshape(tl.gather(v, index, 0), (R1 * 2 // VECTOR, T, VECTOR // 2, 2))
    re, im = tl.split(tl.permute(z, (0, 2, 1, 3)))

    re, im = fourier_paired(tl.reshape(re, (R1, T)), tl.reshape(im, (R1, T)), roots, D, R1, R2, R3)
    w_re, w_im = bin_roots(roots, tl.arange(0, H), D, R3, "")
    low_re, low_im, high_re, high_im = bins(re, im, w_re, w_im, H)
    SCALE: tl.constexpr = 0.5 / D**0.5
    UNIT: tl.constexpr = unit(STATISTIC, SCALE)
    low, low_slope = sizes(low_re, low_im, STATISTIC, SCALE)
    high, high_slope = sizes(high_re, high_im, STATISTIC, SCALE)

    if TASK != "pullback":
        sums = power_sums(v, ORDERS)
        m = ()
        for k in tl.static_range(len(sums)):
            m = m + (sums[k] / D,)
        # A plain product could be merged into the subtraction of the target, and the difference
        # then not be 0 where the mean equals the target.
        means = tl.fma(tl.sum(by_block(low, high, BLOCK), 0), UNIT / BLOCK, 0.0)
    if TASK == "statistics":
        for k in tl.static_range(len(m)):
            tl.store(moments + sample * len(m) + k, m[k])
        tl.store(blocks + sample * P + block, means)
    elif TASK == "pullback":
        slopes = ()
        for n in tl.static_range(1, 9):
            if (ORDERS >> n) & 1:
                at = moments + sample * count(ORDERS) + place(ORDERS, n)
                slopes = slopes + (tl.load(at),)
    else:
        term, slopes = moment_terms(m, ORDERS, FORM, D)
        gap = means - target
        total = term + power_weight * (tl.sum(tl.abs(gap), 0) / P)
        tl.store(loss + sample, total + 0 * tl.sum(v, 0))

    if (TASK == "gradient") | (TASK == "pullback"):
        if TASK == "gradient":
            weight = sign(gap) * (scale * power_weight * UNIT / (P * BLOCK))
        else:
            weight = tl.load(blocks + sample * P + block) * (UNIT / BLOCK)
        low, high = to_bins(weight, BLOCK, R3, H)
        low, high = low * low_slope, high * high_slope
        low_re, low_im = low_re * low, low_im * low
        high_re, high_im = high_re * high, high_im * high
        if RELOAD_ROOTS:
            w_re, w_im = bin_roots(roots, tl.arange(0, H), D, R3, ".cg")
        re, im = bins_adjoint(low_re, low_im, high_re, high_im, w_re, w_im)
        re, im = fourier_paired_back(re, im, roots, D, R1, R2, R3)

        if PERMUTED:
            where = tl.load(inverse + sample * table_stride + four).to(tl.int32)
        else:
            where = packed_place(i, T)
        z = tl.reshape(tl.permute(tl.join(re, im), (0, 2, 1)), (D,))
        g = tl.gather(z, where, 0)
        if ORDERS:
            if RELOAD:
                v = tl.load(x + i, cache_modifier=".cg").to(tl.float32)
            local = moment_gradient(v, slopes, ORDERS, D)
            g += local * scale if TASK == "gradient" else local
        tl.store(grad + sample * D + i, g.to(grad.dtype.element_ty))
