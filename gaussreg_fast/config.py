"""Launch parameters of the kernels: which way a sample goes, and with what numbers.

Pure functions of shapes and of the device's properties; no torch, no search at run time. The
tables are data: what a measurement on a device finds better goes there.
"""

from __future__ import annotations

from dataclasses import dataclass

FUSED_DIMENSIONS = (64, 32768)
LARGE_DIMENSIONS = (65536, 2**22)
VECTOR = 8  # neighbouring table entries that one thread reads, as in kernels/fused.py


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
    512: Fused((16, 16, 1), 1),
    1024: Fused((16, 16, 2), 2),
    2048: Fused((16, 16, 4), 4),
    4096: Fused((16, 16, 8), 4),
    8192: Fused((16, 16, 16), 8),
    16384: Fused((32, 16, 16), 8, reload=True),
    32768: Fused((32, 16, 32), 16, reload=True),
}
# Architecture -> D -> parameters that replace the ones above there.
TUNED: dict[str, dict[int, Fused]] = {}


def is_power_of_two(n: int) -> bool:
    """1, 2, 4, ..."""
    return n > 0 and n & (n - 1) == 0


def path(dimension: int, block_size: int, shared_memory: int) -> str:
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
    return "general"


def fused(dimension: int, arch: str) -> Fused:
    """Parameters of the one-launch kernel."""
    return TUNED.get(arch, {}).get(dimension, FUSED[dimension])


def permutation_bits(dimension: int) -> int:
    """Bits of the network that permutes 0..D-1."""
    return max(2, (dimension - 1).bit_length())


def table_tile(dimension: int) -> int:
    """Table entries that one program writes."""
    return min(1024, 1 << (dimension - 1).bit_length())
