"""Permutation v1 (docs/internals/permutation.md) as device functions, and as a table.

Every device function works on uint32 values and is exact: the permutation is the same on every
device and in every backend.
"""

import triton
import triton.language as tl

from .metadata import work

GOLDEN = tl.constexpr(0x9E3779B97F4A7C15)
STREAM = tl.constexpr(0xD1B54A32D192ED03)


@triton.jit
def mix64(z):
    """Return splitmix64's finaliser of uint64 values."""
    z = (z ^ (z >> 30)) * tl.full((), 0xBF58476D1CE4E5B9, tl.uint64)
    z = (z ^ (z >> 27)) * tl.full((), 0x94D049BB133111EB, tl.uint64)
    return z ^ (z >> 31)


@triton.jit
def permutation_state(seed, sample):
    """Return the state, uint64, from which a sample's keys are made; `seed` points to an int64."""
    state = mix64(tl.load(seed).to(tl.uint64, bitcast=True) + tl.full((), GOLDEN, tl.uint64))
    return state + sample.to(tl.uint64) * tl.full((), STREAM, tl.uint64)


@triton.jit
def feistel(value, state, BITS: tl.constexpr, INVERSE: tl.constexpr):
    """Pass `value` (uint32, BITS bits) through the network once."""
    LOW: tl.constexpr = BITS // 2
    HIGH: tl.constexpr = BITS - LOW
    ROUNDS: tl.constexpr = 12 if BITS > 5 else 24
    FIRST: tl.constexpr = ROUNDS - 1 if INVERSE else 0
    STEP: tl.constexpr = -1 if INVERSE else 1
    left = value >> LOW
    right = value & ((1 << LOW) - 1)
    for r in tl.static_range(FIRST, FIRST + STEP * ROUNDS, STEP):
        word = mix64(state + tl.full((), (r + 1) * GOLDEN % 2**64, tl.uint64))
        factor = (word >> 32).to(tl.uint32) | 1
        addend = word.to(tl.uint32)
        if r % 2 == 0:
            left = left ^ ((right * factor + addend) >> (32 - HIGH))
        else:
            right = right ^ ((left * factor + addend) >> (32 - LOW))
    return (left << LOW) | right


@triton.jit
def permuted(value, state, D: tl.constexpr, BITS: tl.constexpr, INVERSE: tl.constexpr):
    """Return perm[value], or its inverse, for uint32 values below D, by cycle walking."""
    value = feistel(value, state, BITS, INVERSE)
    if D != 1 << BITS:
        while tl.max((value >= D).to(tl.int32), 0) > 0:
            value = tl.where(value >= D, feistel(value, state, BITS, INVERSE), value)
    return value


def _rows(grid, args):
    return grid[0] // -(-args["D"] // args["TILE"])


def _table_work(args):
    return args["D"] * args["out"].element_size(), 0


@triton.jit(launch_metadata=work(_rows, _table_work))
def permutation_table(
    seed, out, D: tl.constexpr, BITS: tl.constexpr, INVERSE: tl.constexpr, TILE: tl.constexpr,
    ROWS: tl.constexpr,
):  # fmt: skip
    """Write one permutation, or its inverse, per row of `out` (samples, D).

    It is taken as a matrix of ROWS rows, and written by columns.
    """
    # One dimension, because either count may exceed the limit of a grid's second dimension.
    TILES: tl.constexpr = (D + TILE - 1) // TILE
    sample = tl.program_id(0) // TILES
    j = tl.program_id(0) % TILES * TILE + tl.arange(0, TILE)
    inside = j < D
    at = out + sample.to(tl.int64) * D + j
    if ROWS > 1:
        j = j % ROWS * (D // ROWS) + j // ROWS
    state = permutation_state(seed, sample)
    # 0 stands in for numbers past the end, whose walk might never end.
    value = permuted(tl.where(inside, j, 0).to(tl.uint32), state, D, BITS, INVERSE)
    tl.store(at, value.to(out.dtype.element_ty), mask=inside)
