"""Path KL: sum_t ||dmu_t||^2 / (2 sigma_t^2) over trajectories, and its gradient dmu_t / sigma_t^2.

A row is one step of one trajectory. As in kernels/loss_general.py it is split into PARTS programs,
each of which takes STEPS tiles in turn; a second kernel adds up their sums, always in the same
order.
"""

import triton
import triton.language as tl

from .loss_general import whose
from .metadata import by_part, work


def _path_work(args):
    # A row of D numbers is read, and if there is a gradient it is written, too.
    moved = args["dmu"].element_size()
    if args["GRADIENT"]:
        moved += args["grad"].element_size()
    return args["D"] * moved, args["D"] * (3 * args["VALUE"] + 2 * args["GRADIENT"])


@triton.jit(launch_metadata=work(by_part, _path_work))
def path_rows(
    dmu, sigma, upstream, partials, grad, batch,
    VALUE: tl.constexpr, GRADIENT: tl.constexpr, UPSTREAM: tl.constexpr, PER_SAMPLE: tl.constexpr,
    D: tl.constexpr, TILE: tl.constexpr, PARTS: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    """Write partials (T, B, PARTS) of (dmu / sigma)^2 / 2, and grad = upstream_b dmu / sigma^2.

    dmu (T, B, D); sigma (T, B), or (T,) without `PER_SAMPLE`; upstream (B,), 1 without `UPSTREAM`.
    """
    row, part = whose(PARTS)
    step = row if PER_SAMPLE else row // batch
    deviation = tl.load(sigma + step)
    inverse = tl.where(deviation >= 0, 1 / deviation, float("nan"))
    slope = inverse
    if UPSTREAM:
        slope *= tl.load(upstream + row % batch)
    dmu += row * D
    squares = tl.zeros((TILE,), tl.float32)
    for k in range(STEPS):
        i = (part * STEPS + k) * TILE + tl.arange(0, TILE)
        inside = i < D
        # Multiplied before squaring: the square of inverse may leave float32's range.
        z = tl.load(dmu + i, mask=inside, other=0.0).to(tl.float32) * inverse
        if VALUE:
            squares += tl.where(inside, z * z, 0.0)
        if GRADIENT:
            tl.store(grad + row * D + i, (z * slope).to(grad.dtype.element_ty), mask=inside)
    if VALUE:
        tl.store(partials + row * PARTS + part, 0.5 * tl.sum(squares, 0))


def _sums_work(args):
    return 4 * args["steps"] * (args["PARTS"] + 1), args["steps"] * args["PARTS"]


def _trajectories(grid, args):
    return grid[0]


@triton.jit(launch_metadata=work(_trajectories, _sums_work), do_not_specialize=["steps"])
def path_sums(
    partials, costs, kl, batch, steps,
    D: tl.constexpr, PARTS: tl.constexpr, PADDED: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Write costs (T, B) and kl (B,) from partials (T, B, PARTS): a trajectory per program."""
    b = tl.program_id(0).to(tl.int64)
    p = tl.expand_dims(tl.arange(0, PADDED), 0)
    value = tl.zeros((TILE,), tl.float32)
    for start in range(0, steps, TILE):
        t = start + tl.arange(0, TILE)
        row = t.to(tl.int64) * batch + b
        inside = t < steps
        at = partials + tl.expand_dims(row * PARTS, 1) + p
        parts = tl.load(at, mask=tl.expand_dims(inside, 1) & (p < PARTS), other=0.0)
        cost = tl.sum(parts, 1)
        tl.store(costs + row, cost, mask=inside)
        value += cost
    tl.store(kl + b, tl.sum(value, 0))
