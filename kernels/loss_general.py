"""Statistics, loss and gradient of samples of any length, around the FFTs of torch.

Four kernels: `gather` permutes samples and adds up their powers; `spectrum` reads the output of
rfft, adds up the blocks' losses and writes the input of irfft in place; `finish` scatters the
gradient back, adds the moments' gradient and writes the losses; `moments_only` does it all in one
launch if there is no spectrum and a sample fits into a program.

A sample is split into PARTS programs, each of which takes STEPS tiles in turn. Each program writes
a partial sum; the programs that need the total add all of them up, always in the same order.
"""

import math

import triton
import triton.language as tl

from .metadata import by_part, work
from .moments import count, moment_gradient, moment_terms, place, power_sums, sign
from .permutation import permutation_state, permuted
from .spectrum import amplitudes

HALF_ROOT = tl.constexpr(math.sqrt(0.5))


def _gather_work(args):
    moved = args["x"].element_size() + 4 * args["COPY"]
    moved += {"table": args["table"].element_size(), "seed": 4, "none": 0}[args["PERMUTATION"]]
    return args["D"] * moved, args["D"] * 2 * args["SUMS"].bit_length()


def _spectrum_work(args):
    both = 8 * (args["TASK"] in ("gradient", "pullback"))
    blocks = args["D"] // 2 // args["BLOCK"] * (args["TASK"] in ("statistics", "pullback"))
    return args["D"] * 4 + args["D"] // 2 * both + 4 * blocks, args["D"] * 5


def _finish_work(args):
    if args["TASK"] not in ("gradient", "pullback"):
        return 4 * args["SUM_PARTS"], args["SUM_PARTS"]
    moved = args["grad"].element_size() + args["v"].element_size() * (args["ORDERS"] > 0)
    moved += args["table"].element_size() * args["INDEXED"] + 4 * args["SPECTRUM"]
    return args["D"] * moved, args["D"] * 2 * args["ORDERS"].bit_length()


def _moments_work(args):
    moved = args["x"].element_size()
    if args["TASK"] == "gradient":
        moved += args["grad"].element_size()
    return args["D"] * moved, args["D"] * 4 * args["ORDERS"].bit_length()


@triton.jit
def whose(PARTS: tl.constexpr):
    """Return the sample and the part of this program, int64."""
    program = tl.program_id(0).to(tl.int64)
    return program // PARTS, program % PARTS


@triton.jit
def added(a, b):
    """Add two tuples item by item."""
    both = ()
    for k in tl.static_range(len(a)):
        both = both + (a[k] + b[k],)
    return both


@triton.jit
def total(parts, PARTS: tl.constexpr):
    """Return the sum of PARTS numbers in memory."""
    i = tl.arange(0, triton.next_power_of_2(PARTS))
    return tl.sum(tl.load(parts + i, mask=i < PARTS, other=0.0), 0)


@triton.jit(launch_metadata=work(by_part, _gather_work), do_not_specialize=["first_sample"])
def gather(
    x, permuted_x, sums, table, seed, x_stride, table_stride, first_sample,
    PERMUTATION: tl.constexpr, COPY: tl.constexpr, SUMS: tl.constexpr,
    D: tl.constexpr, BITS: tl.constexpr,
    TILE: tl.constexpr, PARTS: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    """Write permuted_x[j] = x[table[j]], (B, D), and sums (B, K, PARTS) of powers of orders SUMS.

    `PERMUTATION`: "table" reads `table`; "seed" computes a permutation for each sample and writes
    it to `table`; "none" does not permute. Without `COPY` only the sums are written.
    """
    sample, part = whose(PARTS)
    x += sample * x_stride
    if PERMUTATION == "seed":
        state = permutation_state(seed, first_sample + sample)
    sums += sample * (count(SUMS) * PARTS) + part
    totals = power_sums(tl.zeros((TILE,), tl.float32), SUMS)
    for step in range(STEPS):
        j = (part * STEPS + step) * TILE + tl.arange(0, TILE)
        inside = j < D
        if PERMUTATION == "table":
            i = tl.load(table + sample * table_stride + j, mask=inside, other=0).to(tl.int64)
        elif PERMUTATION == "seed":
            # 0 stands in for numbers past the end, whose walk might never end.
            i = permuted(tl.where(inside, j, 0).to(tl.uint32), state, D, BITS, False).to(tl.int64)
            at = table + sample * table_stride + j
            tl.store(at, i.to(table.dtype.element_ty), mask=inside)
        else:
            i = j
        v = tl.load(x + i, mask=inside, other=0.0).to(tl.float32)
        if COPY:
            tl.store(permuted_x + sample * D + j, v, mask=inside)
        totals = added(totals, power_sums(v, SUMS))
    for k in tl.static_range(len(totals)):
        tl.store(sums + k * PARTS, totals[k])


@triton.jit
def parts_of(z):
    """Return the real and imaginary parts of complex numbers that are held as int64."""
    re = z.to(tl.uint32).to(tl.float32, bitcast=True)
    return re, (z >> 32).to(tl.uint32).to(tl.float32, bitcast=True)


@triton.jit
def complex_of(re, im):
    """Invert `parts_of`."""
    low = re.to(tl.uint32, bitcast=True).to(tl.uint64)
    high = im.to(tl.uint32, bitcast=True).to(tl.uint64)
    return ((high << 32) | low).to(tl.int64, bitcast=True)


@triton.jit
def compact(half, k, inside, middle, D: tl.constexpr):
    """Load bins k of the compact spectrum times sqrt(D); 0 if not inside."""
    re, im = parts_of(tl.load(half + k + D % 2, mask=inside, other=0))
    if D % 2 == 0:
        # Two real bins, the first and the middle one, share y_0.
        re = tl.where(k == 0, re * HALF_ROOT, re)
        im = tl.where(k == 0, middle * HALF_ROOT, im)
    return re, im


@triton.jit
def store_adjoint(half, k, inside, re, im, D: tl.constexpr):
    """Store bins in place so that irfft of them, which counts inner bins twice, is the adjoint.

    That is: the adjoint of rfft followed by `compact`.
    """
    h_re, h_im = re * 0.5, im * 0.5
    if D % 2 == 0:
        first = k == 0
        h_re, h_im = tl.where(first, re * HALF_ROOT, h_re), tl.where(first, 0.0, h_im)
        middle = complex_of(im * HALF_ROOT, im * 0)
        tl.store(half + k + D // 2, middle, mask=inside & first)
    tl.store(half + k + D % 2, complex_of(h_re, h_im), mask=inside)


@triton.jit(launch_metadata=work(by_part, _spectrum_work))
def spectrum(
    half, blocks, gaps, power_weight, target,
    TASK: tl.constexpr, STATISTIC: tl.constexpr, BLOCK: tl.constexpr, D: tl.constexpr,
    ROWS: tl.constexpr, WIDTH: tl.constexpr, PARTS: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    """Compute the losses' parts from half spectra (B, D // 2 + 1), and gradients in place.

    The spectra are complex64, seen as int64, so that a bin takes one load or store.

    `TASK`: "value" writes sums of |A_p - target| to gaps (B, PARTS); "gradient" does that and
    overwrites the spectrum so that its unscaled irfft is the loss's gradient; "statistics" writes
    A_p to blocks (B, P); "pullback" reads gradients by A_p from blocks and overwrites the spectrum.
    """
    N: tl.constexpr = D // 2
    P: tl.constexpr = (N + BLOCK - 1) // BLOCK
    SCALE: tl.constexpr = 1 / D**0.5
    sample, part = whose(PARTS)
    half += sample * (N + 1)
    middle = 0.0
    if D % 2 == 0:
        middle, _ = parts_of(tl.load(half + N, mask=part == 0, other=0))
        if (TASK == "gradient") | (TASK == "pullback"):
            tl.debug_barrier()  # all threads have read it before one stores the adjoint there
    elif (TASK == "gradient") | (TASK == "pullback"):
        tl.store(half, 0, mask=part == 0)  # the mean of an odd sample is left out
    gap_sum = tl.zeros((), tl.float32)
    for step in range(STEPS):
        p = (part * STEPS + step) * ROWS + tl.arange(0, ROWS)
        size = tl.minimum(N - p * BLOCK, BLOCK)
        at = blocks + sample * P + p
        if TASK == "pullback":
            weight = tl.load(at, mask=p < P, other=0.0)
        else:
            means = tl.zeros((ROWS,), tl.float32)
            for start in range(0, BLOCK, WIDTH):
                c = tl.expand_dims(start + tl.arange(0, WIDTH), 0)
                k = tl.expand_dims(p * BLOCK, 1) + c
                re, im = compact(half, k, c < tl.expand_dims(size, 1), middle, D)
                a, slope = amplitudes(re, im, STATISTIC, SCALE)
                means += tl.sum(a, 1)
            means = means / size
            gap = tl.where(p < P, means - target, 0.0)
            gap_sum += tl.sum(tl.abs(gap), 0)
            weight = sign(gap) * (power_weight / P)
        if TASK == "statistics":
            tl.store(at, means, mask=p < P)
        if (TASK == "gradient") | (TASK == "pullback"):
            weight = tl.expand_dims(weight / size, 1)
            for start in range(0, BLOCK, WIDTH):
                c = tl.expand_dims(start + tl.arange(0, WIDTH), 0)
                k = tl.expand_dims(p * BLOCK, 1) + c
                inside = c < tl.expand_dims(size, 1)
                re, im = compact(half, k, inside, middle, D)
                a, slope = amplitudes(re, im, STATISTIC, SCALE)
                if ROWS * WIDTH < 32:
                    tl.debug_barrier()  # lanes share bins: all have read one before it is stored
                store_adjoint(half, k, inside, re * (slope * weight), im * (slope * weight), D)
    if (TASK == "value") | (TASK == "gradient"):
        tl.store(gaps + sample * PARTS + part, gap_sum)


@triton.jit(launch_metadata=work(by_part, _finish_work))
def finish(
    v, spectral, loss, grad, moments, table, sums, gaps,
    v_stride, table_stride, power_weight, scale,
    TASK: tl.constexpr, SPECTRUM: tl.constexpr, INDEXED: tl.constexpr,
    ORDERS: tl.constexpr, SUMS: tl.constexpr, FORM: tl.constexpr,
    D: tl.constexpr, BLOCKS: tl.constexpr, SUM_PARTS: tl.constexpr, GAP_PARTS: tl.constexpr,
    TILE: tl.constexpr, PARTS: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    """Write grad[table[j]] = spectral[j] + moments' gradient at v[j], and losses or moments.

    v are the permuted samples, `spectral` is the output of irfft, `sums` come from `gather`, `gaps`
    from `spectrum`. Without `SPECTRUM` there is no spectral part, without `INDEXED` no permutation.
    """
    sample, part = whose(PARTS)
    v += sample * v_stride
    slopes = ()
    if TASK == "pullback":
        for k in tl.static_range(count(ORDERS)):
            slopes = slopes + (tl.load(moments + sample * count(ORDERS) + k),)
    else:
        sums += sample * (count(SUMS) * SUM_PARTS)
        m = ()
        for n in tl.static_range(1, 9):
            if (ORDERS >> n) & 1:
                m = m + (total(sums + place(SUMS, n) * SUM_PARTS, SUM_PARTS) / D,)
        if TASK == "statistics":
            for k in tl.static_range(len(m)):
                tl.store(moments + sample * len(m) + k, m[k])
        else:
            term, slopes = moment_terms(m, ORDERS, FORM, D)
            if part == 0:
                # The sum of x, times 0, makes the loss NaN if a number of x is not finite.
                value = 0 * total(sums, SUM_PARTS) + term
                if SPECTRUM:
                    value += total(gaps + sample * GAP_PARTS, GAP_PARTS) * (power_weight / BLOCKS)
                tl.store(loss + sample, value)

    if (TASK == "gradient") | (TASK == "pullback"):
        for step in range(STEPS):
            j = (part * STEPS + step) * TILE + tl.arange(0, TILE)
            inside = j < D
            g = tl.zeros((TILE,), tl.float32)
            if SPECTRUM:
                g = tl.load(spectral + sample * D + j, mask=inside, other=0.0)
            if ORDERS:
                number = tl.load(v + j, mask=inside, other=0.0).to(tl.float32)
                g += moment_gradient(number, slopes, ORDERS, D)
            if TASK == "gradient":
                g *= scale
            if INDEXED:
                j = tl.load(table + sample * table_stride + j, mask=inside, other=0).to(tl.int64)
            tl.store(grad + sample * D + j, g.to(grad.dtype.element_ty), mask=inside)


@triton.jit(launch_metadata=work(by_part, _moments_work))
def moments_only(
    x, loss, grad, x_stride, scale,
    TASK: tl.constexpr, ORDERS: tl.constexpr, FORM: tl.constexpr, D: tl.constexpr,
    TILE: tl.constexpr,
):  # fmt: skip
    """Compute the loss of the moments, and `scale` times its gradient: a sample per program."""
    sample = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, TILE)
    v = tl.load(x + sample * x_stride + i, mask=i < D, other=0.0).to(tl.float32)
    sums = power_sums(v, ORDERS)
    m = ()
    for k in tl.static_range(len(sums)):
        m = m + (sums[k] / D,)
    term, slopes = moment_terms(m, ORDERS, FORM, D)
    tl.store(loss + sample, 0 * tl.sum(v, 0) + term)
    if TASK == "gradient":
        g = moment_gradient(v, slopes, ORDERS, D) * scale
        tl.store(grad + sample * D + i, g.to(grad.dtype.element_ty), mask=i < D)
