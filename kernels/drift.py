"""Parameter drift over a list of tensors in one launch.

A program computes a chunk of one tensor. It finds its chunk in a table on the device, int64, with a
row per tensor: the addresses of the parameter, its base and its gradient, the tensor's number of
elements, its scale (float64) and its types. After the rows comes one number per chunk:
tensor << 32 | chunk, the number of the chunk in the tensor.
"""

import triton
import triton.language as tl

from .metadata import named_work

# Codes of types. The table holds 4 * code of the parameter + code of the base; 0 is no base.
FLOAT32 = tl.constexpr(1)
BFLOAT16 = tl.constexpr(2)
FLOAT16 = tl.constexpr(3)
COLUMNS = tl.constexpr(6)


@triton.constexpr_function
def number_type(code):
    """Return the type of numbers of a code."""
    return {1: tl.float32, 2: tl.bfloat16, 3: tl.float16}[code]


@triton.jit
def numbers_at(address, code: tl.constexpr, ALIGNED: tl.constexpr):
    """Return a pointer to numbers of a type. It may be null if nothing is read from it."""
    pointer = address.to(tl.pointer_type(number_type(code)))
    if ALIGNED:
        pointer = tl.multiple_of(pointer, 16)
    return pointer


@triton.jit
def drift_tile(
    theta, base, grad, offsets, inside, factor,
    TASK: tl.constexpr, HAS_BASE: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Return d^2 of a tile, d = theta - base in float32, and write the gradient by the task."""
    mask = inside if MASKED else None
    value = tl.load(theta + offsets, mask=mask).to(tl.float32)
    d = value
    if HAS_BASE:
        d = value - tl.load(base + offsets, mask=mask).to(tl.float32)
    if TASK == "gradient":
        tl.store(grad + offsets, (factor * d).to(grad.dtype.element_ty), mask=mask)
    elif TASK == "accumulate":
        before = tl.load(grad + offsets, mask=mask).to(tl.float32)
        tl.store(grad + offsets, (before + factor * d).to(grad.dtype.element_ty), mask=mask)
    if MASKED:
        d = tl.where(inside, d, 0.0)
    return d * d


@triton.jit
def drift_chunk(
    theta, base, grad, first, size, factor,
    TASK: tl.constexpr, CODE: tl.constexpr, ALIGNED: tl.constexpr,
    CHUNK: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Return the sum of d^2 over elements first .. first + CHUNK - 1 of a tensor of `size`."""
    HAS_BASE: tl.constexpr = CODE % 4 != 0
    theta = numbers_at(theta, CODE // 4, ALIGNED) + first
    grad = numbers_at(grad, CODE // 4, ALIGNED) + first
    base = numbers_at(base, CODE % 4 if HAS_BASE else CODE // 4, ALIGNED) + first
    left = tl.minimum(size - first, CHUNK).to(tl.int32)
    lane = tl.arange(0, TILE)
    total = tl.zeros((TILE,), dtype=tl.float32)
    whole = left // TILE
    for i in range(0, whole):
        at = i * TILE + lane
        total += drift_tile(theta, base, grad, at, at < left, factor, TASK, HAS_BASE, False)
    if whole * TILE < left:
        at = whole * TILE + lane
        total += drift_tile(theta, base, grad, at, at < left, factor, TASK, HAS_BASE, True)
    return tl.sum(total, 0)


def _drift_work(grid, args):
    numbers, moved = args["numbers"], args["bytes_moved"]
    return moved, 3 * numbers


# Lists of other lengths and sizes need no new compilation.
@triton.jit(
    launch_metadata=named_work(_drift_work),
    do_not_specialize=["tensors", "numbers", "bytes_moved"],
)
def drift(
    table, step, partials, tensors, numbers, bytes_moved, constant_step,
    TASK: tl.constexpr, CODES: tl.constexpr, ALIGNED: tl.constexpr,
    STEP_LOADED: tl.constexpr, CHUNK: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Write the sum of scale d^2 of each chunk to `partials`, and gradients scale * step * d.

    TASK "gradient" writes the gradients, "accumulate" adds them, "value" leaves them out. CODES is
    a bit mask of the types in the list: a branch is compiled for each. `numbers` and `bytes_moved`
    are for profilers.
    """
    chunk = tl.load(table + COLUMNS * tensors + tl.program_id(0))
    row = table + (chunk >> 32) * COLUMNS
    first = (chunk & 0xFFFFFFFF) * CHUNK
    theta, base, grad = tl.load(row), tl.load(row + 1), tl.load(row + 2)
    size = tl.load(row + 3)
    scale = tl.load(row + 4).to(tl.float64, bitcast=True).to(tl.float32)
    code = tl.load(row + 5)
    factor = scale * constant_step
    if STEP_LOADED:
        factor = factor * tl.load(step).to(tl.float32)
    if ALIGNED:
        first = tl.multiple_of(first, TILE)
    total = 0.0
    for c in tl.static_range(4, 16):
        if (CODES >> c) & 1:  # noqa: SIM102 - this one is known when compiled
            if code == c:
                total = drift_chunk(
                    theta, base, grad, first, size, factor, TASK, c, ALIGNED, CHUNK, TILE
                )
    tl.store(partials + tl.program_id(0), scale * total)


@triton.jit(do_not_specialize=["count"])
def drift_sum(partials, value, count, TILE: tl.constexpr):
    """Add up the sums of all chunks, in one program, in float64 and in a fixed order."""
    lane = tl.arange(0, TILE)
    total = tl.zeros((TILE,), dtype=tl.float64)
    for i in range(0, count, TILE):
        total += tl.load(partials + i + lane, mask=i + lane < count, other=0.0).to(tl.float64)
    tl.store(value, tl.sum(total, 0).to(tl.float32))
