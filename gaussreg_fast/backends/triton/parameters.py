"""Launch parameters of the kernels: which way a sample goes, and with what numbers.

Pure functions of shapes and of the device's properties; no torch, no search at run time. The
tables are data: what a measurement on a device finds better goes there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

FUSED_DIMENSIONS = (64, 32768)
VECTOR = 8  # neighbouring table entries that one thread reads, as in kernels/loss_fused.py


@dataclass(frozen=True)
class Fused:
    """One launch: radices of the three steps, warps, and whether x is read twice."""

    radices: tuple[int, int, int]
    num_warps: int
    reload: bool = False


# D -> parameters. Registers set them: 64 numbers of a sample per thread, or 32 where that leaves
# room for more programs on a multiprocessor (bench/results/kernel_resources.json).
FUSED = {
    64: Fused((8, 4, 1), 1),
    128: Fused((8, 8, 1), 1),
    256: Fused((16, 8, 1), 1),
    512: Fused((16, 16, 1), 2),
    1024: Fused((16, 16, 2), 2),
    2048: Fused((8, 8, 16), 2),
    4096: Fused((16, 8, 16), 4, reload=True),
    8192: Fused((16, 16, 16), 8, reload=True),
    16384: Fused((16, 16, 32), 8, reload=True),
    32768: Fused((16, 32, 32), 16, reload=True),
}


@dataclass(frozen=True)
class Large:
    """Three launches: D = n1 n2, radices of n1 and n2, packed columns per program, warps."""

    column_radices: tuple[int, int, int]
    row_radices: tuple[int, int, int]
    width: int
    column_warps: int
    row_warps: int

    @property
    def n1(self) -> int:
        """Numbers in a column."""
        return math.prod(self.column_radices)

    @property
    def n2(self) -> int:
        """Numbers in a row."""
        return math.prod(self.row_radices)

    @property
    def copies(self) -> int:
        """Of a row that a program has by itself: a transform for each of 32 row_warps threads."""
        return max(1, 32 * self.row_warps * self.row_radices[0] // self.n2)


# Rows come in 17s; columns in as many as a program's registers hold, 8192 complex numbers.
LARGE = {
    65536: Large((16, 32, 1), (16, 1, 8), 8, 4, 4),
    131072: Large((32, 32, 1), (16, 1, 8), 8, 8, 4),
    262144: Large((32, 32, 1), (16, 1, 16), 8, 8, 8),
    524288: Large((32, 32, 1), (8, 8, 8), 8, 8, 8),
    1048576: Large((16, 16, 8), (8, 8, 8), 4, 8, 8),
    2097152: Large((16, 16, 16), (8, 8, 8), 2, 8, 8),
    4194304: Large((16, 16, 32), (8, 8, 8), 1, 8, 8),
}
LARGE_WORKSPACE = 2**24  # bytes: well within the L2 cache, and little beside the gradients
# Architecture -> D -> parameters that replace the ones above there.
TUNED: dict[str, dict[int, Fused]] = {}
TUNED_LARGE: dict[str, dict[int, Large]] = {}


def is_power_of_two(n: int) -> bool:
    """1, 2, 4, ..."""
    return n > 0 and n & (n - 1) == 0


def route(dimension: int, block_size: int, shared_memory: int) -> str:
    """Which kernels compute a sample: "fused" (one launch), "large" or "general".

    Args:
        dimension: D.
        block_size: bins per block; 0 for none, moments alone.
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
    """Parameters of the one-launch kernel."""
    return TUNED.get(arch, {}).get(dimension, FUSED[dimension])


def large(dimension: int, arch: str) -> Large:
    """Parameters of the three-launch kernels."""
    return TUNED_LARGE.get(arch, {}).get(dimension, LARGE[dimension])


def large_chunk(dimension: int) -> int:
    """Samples whose workspaces, two float32 numbers per element, stay in the cache together."""
    return max(1, LARGE_WORKSPACE // (8 * dimension))


def permutation_bits(dimension: int) -> int:
    """Bits of the network that permutes 0..D-1."""
    return max(2, (dimension - 1).bit_length())


def table_rows(dimension: int) -> int:
    """Samples whose tables, two of int16 each, are made together: 16 MiB of them."""
    return max(1, 2**24 // (4 * dimension))


def table_tile(dimension: int) -> int:
    """Table entries that one program writes."""
    return min(1024, next_power_of_two(dimension))


@dataclass(frozen=True)
class Drift:
    """A list of tensors over programs: a chunk of a tensor each, a tile of it at a time."""

    chunk: int
    tile: int
    num_warps: int


# Bytes of a base on the CPU that are on the GPU at a time, in each of two buffers.
DRIFT_STAGING = 2**26
# Sums of chunks that the one program of the second stage adds up at once.
DRIFT_PARTIALS = 1024


def drift(numbers: int) -> Drift:
    """How a list with so many numbers in all is split: programs enough for any GPU, and not
    many more, for each leaves a sum to be added up."""
    return Drift(chunk=16384 if numbers < 2**28 else 65536, tile=2048, num_warps=4)


@dataclass(frozen=True)
class Split:
    """A sample's numbers over programs: `parts` programs that each take `steps` tiles in turn."""

    tile: int
    parts: int
    steps: int
    num_warps: int


# The general route. A program holds GENERAL_TILE numbers at once. Every program of its last pass
# adds up the partial sums of all parts, so that there are not too many of those.
GENERAL_TILE = 2048
GENERAL_PARTS = 512
# Numbers in a workspace of the general route, unless one sample has more. It holds four of them
# (permuted samples, spectra, cuFFT's copy of these, gradients): 64 MiB, the order of an L2 cache.
# Far smaller ones would leave a large GPU waiting for launches.
GENERAL_WORKSPACE = 2**22
# The largest block whose lengths one thread holds while it is projected.
PROJECTED_BLOCK = 32
# The most numbers that one program holds to compute a sample's moments and their gradient.
MOMENTS_IN_ONE_LAUNCH = 32768


def _split(size: int, tile: int, numbers: int) -> Split:
    """`size` things, `tile` of them at once that hold `numbers` numbers."""
    tiles = -(-size // tile)
    steps = -(-tiles // GENERAL_PARTS)
    num_warps = min(16, max(1, numbers // 256))
    return Split(tile, -(-tiles // steps), steps, num_warps)


def general(dimension: int) -> Split:
    """How passes over a sample's numbers are split."""
    tile = min(GENERAL_TILE, next_power_of_two(dimension))
    return _split(dimension, tile, tile)


def general_blocks(bins: int, block_size: int) -> tuple[Split, int]:
    """How a pass over a spectrum is split (`tile` blocks at once), and bins of a block at once."""
    width = min(GENERAL_TILE // 2, next_power_of_two(block_size))
    blocks = -(-bins // block_size)
    tile = min(GENERAL_TILE // 2 // width, next_power_of_two(blocks))
    return _split(blocks, tile, 2 * tile * width), width


def projection_route(dimension: int, block_size: int, shared_memory: int) -> str:
    """Which kernels project a sample: as `route`, for blocks that a thread can hold."""
    if block_size > PROJECTED_BLOCK:
        return "general"
    return route(dimension, block_size, shared_memory)


def projected_blocks(bins: int, block_size: int) -> tuple[Split, int, bool]:
    """How the general route's pass over a spectrum is split when it is projected.

    Returns:
        the split (`tile` blocks at once), bins of a block at once, and whether these are a part.
    """
    blocks = bins // block_size
    if block_size > PROJECTED_BLOCK:
        size = min(GENERAL_TILE // 2, next_power_of_two(block_size))
        return _split(blocks, 1, 2 * size), size, True
    size = next_power_of_two(block_size)
    tile = min(GENERAL_TILE // 2 // size, next_power_of_two(blocks))
    return _split(blocks, tile, 2 * tile * size), size, False


def moments(dimension: int) -> Split:
    """How the one launch for moments alone is split: a sample per program."""
    tile = next_power_of_two(dimension)
    return _split(dimension, tile, tile)


def path_sums(steps: int, parts: int) -> tuple[int, int, int]:
    """Of the pass over the sums of a path: parts padded, time steps at once, warps."""
    padded = next_power_of_two(parts)
    tile = min(max(1, 1024 // padded), next_power_of_two(steps))
    return padded, tile, min(4, max(1, tile * padded // 256))


def chunk(dimension: int, batch: int) -> int:
    """Samples that the general route processes at a time."""
    at_most = max(1, GENERAL_WORKSPACE // dimension)
    chunks = -(-batch // at_most)
    return -(-batch // chunks)  # equal chunks: cuFFT plans for at most two batch sizes


def next_power_of_two(n: int) -> int:
    """The least power of two that is not less than n."""
    return 1 << (n - 1).bit_length()
