"""Launch parameters of the kernels: the route of a sample, and the sizes of its launches.

They are pure functions of shapes and of the device's properties, without torch and without a search
at run time. The tables are data: better parameters that are measured on a device belong there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

FUSED_DIMENSIONS = (64, 32768)
VECTOR = 4  # neighbouring table entries that one thread reads; the same as in kernels/loss_fused.py


@dataclass(frozen=True)
class Fused:
    """One launch: radices of the three steps, warps, and what is read twice: x, roots of the bins.

    What is read twice need not be kept in registers in between.
    """

    radices: tuple[int, int, int]
    num_warps: int
    reload: bool = False
    reload_roots: bool = False


# D -> parameters. Registers limit them: from 2048 on a thread holds 64 numbers of a sample, or 32
# if that leaves room for more programs on a multiprocessor (bench/results/kernel_resources.json).
# From 256 on it holds the last transform of a column and its mirror, 4 R3 numbers: see
# kernels/mirrors.py.
FUSED = {
    64: Fused((8, 4, 1), 1),
    128: Fused((4, 8, 2), 1),
    256: Fused((4, 16, 2), 1),
    512: Fused((4, 32, 2), 2),
    1024: Fused((8, 16, 4), 2),
    2048: Fused((16, 16, 4), 2),
    4096: Fused((16, 16, 8), 4, reload=True),
    8192: Fused((16, 32, 8), 4, reload=True),
    16384: Fused((16, 32, 16), 8, reload=True),
    32768: Fused((32, 32, 16), 16, reload=True, reload_roots=True),
}


@dataclass(frozen=True)
class Large:
    """Large samples: D = n1 n2, radices of n1 and n2, packed columns per program, warps.

    Samples of one permutation are taken in groups of `width`, a column of each per program.
    `edge_radix` is the first radix of the row that two programs share, which all threads of a
    program compute together: a smaller one leaves each of them less to do.
    """

    column_radices: tuple[int, int, int]
    row_radices: tuple[int, int, int]
    width: int
    column_warps: int
    row_warps: int
    edge_radix: int

    @property
    def n1(self) -> int:
        """Numbers in a column."""
        return math.prod(self.column_radices)

    @property
    def n2(self) -> int:
        """Numbers in a row."""
        return math.prod(self.row_radices)

    @property
    def neighbours(self) -> int:
        """Samples of a group, side by side in memory, that a thread of a column launch holds."""
        held = self.n1 // self.column_radices[0] * self.width // (32 * self.column_warps)
        return min(max(1, held), self.width)

    @property
    def copies(self) -> int:
        """Copies of a row that a program computes alone: so that each of its threads has work."""
        return max(1, 32 * self.row_warps * self.edge_radix // self.n2)


# A program takes 17 rows, or as many columns as its registers hold: up to 8192 complex numbers. It
# should hold 64 numbers a thread: with fewer there are more threads, which all compute the shared
# row.
LARGE = {
    65536: Large((16, 32, 1), (16, 1, 8), 8, 4, 2, 8),
    131072: Large((32, 32, 1), (16, 1, 8), 8, 8, 2, 8),
    262144: Large((32, 32, 1), (32, 1, 8), 8, 8, 4, 8),
    524288: Large((32, 32, 1), (8, 8, 8), 8, 8, 8, 8),
    1048576: Large((16, 16, 8), (8, 8, 8), 4, 8, 8, 8),
    2097152: Large((16, 16, 16), (8, 8, 8), 2, 8, 8, 8),
    4194304: Large((16, 16, 32), (8, 8, 8), 1, 8, 8, 8),
}
# For fewer samples than FEW: more and smaller programs, since the others would leave most of a GPU
# without work. N1 / 32 programs of rows times N2 / (2 width) of columns are D / 64 at most.
FEW = 4
LARGE_FEW = {
    65536: Large((32, 32, 1), (8, 1, 8), 1, 1, 2, 8),
    131072: Large((32, 32, 1), (16, 1, 8), 1, 1, 2, 8),
    262144: Large((16, 16, 8), (16, 1, 8), 1, 2, 2, 8),
}
INTERLEAVED = 1024  # numbers of each sample that a program of four warps brings side by side
LARGE_WORKSPACE = 2**24  # bytes: well within the L2 cache, and little beside the gradients
# Architecture -> D -> parameters that replace those above on that architecture.
TUNED: dict[str, dict[int, Fused]] = {}
TUNED_LARGE: dict[str, dict[int, Large]] = {}


def is_power_of_two(n: int) -> bool:
    """Return whether n is 1, 2, 4, ..."""
    return n > 0 and n & (n - 1) == 0


def route(dimension: int, block_size: int, shared_memory: int) -> str:
    """Return which kernels compute a sample: "fused" (one launch), "large" or "general".

    Args:
        dimension: D.
        block_size: bins per block; 0 for moments alone.
        shared_memory: bytes that one program may have.
    """
    if not block_size or not is_power_of_two(dimension) or not is_power_of_two(block_size):
        return "general"
    low, high = FUSED_DIMENSIONS
    if low <= dimension <= high and 2 * block_size <= dimension and 4 * dimension <= shared_memory:
        return "fused"
    if dimension in LARGE and block_size == 16 and shared_memory >= 2**16:
        return "large"
    return "general"


def fused(dimension: int, arch: str) -> Fused:
    """Return the parameters of the one-launch kernel."""
    return TUNED.get(arch, {}).get(dimension, FUSED[dimension])


def large(dimension: int, arch: str, few: bool = False) -> Large:
    """Return the parameters of large samples, or those for fewer of them than FEW."""
    if few and dimension in LARGE_FEW:
        return LARGE_FEW[dimension]
    return TUNED_LARGE.get(arch, {}).get(dimension, LARGE[dimension])


def loss_route(
    dimension: int, block_size: int, shared_memory: int, arch: str, *, batch: int, shared: bool
) -> str:
    """Return `route`, or "groups" for large samples of one permutation, if there are enough.

    With samples missing, a group gathers and transforms columns of zeros for them: at 65536 four
    of eight take a quarter fewer sectors each than they would alone, and half as many instructions
    again.
    """
    found = route(dimension, block_size, shared_memory)
    if found == "large" and shared and batch >= FEW and large(dimension, arch).width > 1:
        return "groups"
    return found


def large_chunk(dimension: int) -> int:
    """Return how many samples' workspaces, two float32 per element, stay in the cache together."""
    return max(1, LARGE_WORKSPACE // (8 * dimension))


def permutation_bits(dimension: int) -> int:
    """Return the number of bits of the network that permutes 0..D-1."""
    return max(2, (dimension - 1).bit_length())


def table_rows(dimension: int) -> int:
    """Return how many samples have their tables, two of int16, made at once: 16 MiB of them."""
    return max(1, 2**24 // (4 * dimension))


def table_tile(dimension: int) -> int:
    """Return the number of table entries that one program writes."""
    return min(1024, next_power_of_two(dimension))


@dataclass(frozen=True)
class Drift:
    """How programs share a list of tensors: a chunk of a tensor each, read tile by tile."""

    chunk: int
    tile: int
    num_warps: int


# Bytes of each of the two buffers through which a base on the CPU is streamed.
DRIFT_STAGING = 2**26
# Sums of chunks that the one program of the second launch adds up at once.
DRIFT_PARTIALS = 1024


def drift(numbers: int) -> Drift:
    """Return how a list with so many numbers in all is split.

    There are programs enough for any GPU, but not many more, because each leaves a sum to be added.
    """
    return Drift(chunk=16384 if numbers < 2**28 else 65536, tile=2048, num_warps=4)


@dataclass(frozen=True)
class Split:
    """How programs share a sample: `parts` programs that each take `steps` tiles in turn."""

    tile: int
    parts: int
    steps: int
    num_warps: int


# The general route. A program holds GENERAL_TILE numbers at once. There are at most GENERAL_PARTS
# parts, because every program of the last pass adds up the partial sums of all of them.
GENERAL_TILE = 2048
GENERAL_PARTS = 512
# Numbers in a workspace of the general route, unless one sample has more. It holds four of them
# (permuted samples, spectra, cuFFT's copy of these, gradients): 64 MiB, the order of an L2 cache.
# With far smaller ones a large GPU would wait for launches.
GENERAL_WORKSPACE = 2**22
# The largest block whose lengths one thread holds while it is projected.
PROJECTED_BLOCK = 32
# The most numbers that one program holds to compute a sample's moments and their gradient.
MOMENTS_IN_ONE_LAUNCH = 32768


def _split(size: int, tile: int, numbers: int) -> Split:
    """Split `size` items over programs: `tile` items at a time, of `numbers` numbers together."""
    tiles = -(-size // tile)
    steps = -(-tiles // GENERAL_PARTS)
    num_warps = min(16, max(1, numbers // 256))
    return Split(tile, -(-tiles // steps), steps, num_warps)


def general(dimension: int) -> Split:
    """Return how passes over a sample's numbers are split."""
    tile = min(GENERAL_TILE, next_power_of_two(dimension))
    return _split(dimension, tile, tile)


def general_blocks(bins: int, block_size: int) -> tuple[Split, int]:
    """Return how a pass over a spectrum is split, and how many bins of a block it takes at once.

    `tile` counts blocks.
    """
    width = min(GENERAL_TILE // 2, next_power_of_two(block_size))
    blocks = -(-bins // block_size)
    tile = min(GENERAL_TILE // 2 // width, next_power_of_two(blocks))
    return _split(blocks, tile, 2 * tile * width), width


def projection_route(dimension: int, block_size: int, shared_memory: int) -> str:
    """Return which kernels project a sample: `route`, but "general" if a thread holds no block."""
    if block_size > PROJECTED_BLOCK:
        return "general"
    return route(dimension, block_size, shared_memory)


def projected_blocks(bins: int, block_size: int) -> tuple[Split, int, bool]:
    """Return how the general route's pass over a spectrum is split when it is projected.

    Returns:
        The split (`tile` counts blocks), the bins of a block that are taken at once, and whether
        these are only a part of the block.
    """
    blocks = bins // block_size
    if block_size > PROJECTED_BLOCK:
        size = min(GENERAL_TILE // 2, next_power_of_two(block_size))
        return _split(blocks, 1, 2 * size), size, True
    size = next_power_of_two(block_size)
    tile = min(GENERAL_TILE // 2 // size, next_power_of_two(blocks))
    return _split(blocks, tile, 2 * tile * size), size, False


def moments(dimension: int) -> Split:
    """Return how the one launch for moments alone is split: a sample per program."""
    tile = next_power_of_two(dimension)
    return _split(dimension, tile, tile)


def path_sums(steps: int, parts: int) -> tuple[int, int, int]:
    """Return the padded parts, the time steps at once and the warps of the pass over path sums."""
    padded = next_power_of_two(parts)
    tile = min(max(1, 1024 // padded), next_power_of_two(steps))
    return padded, tile, min(4, max(1, tile * padded // 256))


def chunk(dimension: int, batch: int) -> int:
    """Return the number of samples that the general route processes at a time."""
    at_most = max(1, GENERAL_WORKSPACE // dimension)
    chunks = -(-batch // at_most)
    return -(-batch // chunks)  # equal chunks: cuFFT plans for at most two batch sizes


def next_power_of_two(n: int) -> int:
    """Return the least power of two that is not less than n."""
    return 1 << (n - 1).bit_length()
