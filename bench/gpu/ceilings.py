"""Measure the rates that bound every kernel, each by a kernel that does nothing else.

The rates are fused multiply-adds a second, bytes a second out of the L2 cache, and wavefronts of
shared memory a second, 128 bytes each without bank conflicts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl

from bench.gpu.stage import Row
from bench.harness import timing

BLOCK = 1024  # numbers that a program holds
CHAINS = 8  # independent multiply-adds, so that none waits for its predecessor
LANES = 32


@triton.jit
def multiply_adds(out, start, STEPS: tl.constexpr, BLOCK: tl.constexpr, CHAINS: tl.constexpr):
    """Compute STEPS multiply-adds of each of BLOCK x CHAINS numbers."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = start + tl.arange(0, CHAINS)[None, :] * 1e-3 + at[:, None] * 1e-6
    factor = 1.0 - start * 1e-6
    for _ in range(STEPS):
        x = x * factor + start
    tl.store(out + at, tl.sum(x, 1))


@triton.jit
def read_again(x, out, STEPS: tl.constexpr, PIECES: tl.constexpr, BLOCK: tl.constexpr):
    """Read STEPS of PIECES blocks in every program, past the first cache."""
    program = tl.program_id(0)
    total = tl.zeros([BLOCK], tl.float32)
    for k in range(STEPS):
        at = ((program + k * 17) % PIECES) * BLOCK + tl.arange(0, BLOCK)
        total += tl.load(x + at, cache_modifier=".cg")
    tl.store(out + program * BLOCK + tl.arange(0, BLOCK), total)


@triton.jit
def shuffled(out, start, STEPS: tl.constexpr, BLOCK: tl.constexpr):
    """Move a block's numbers between warps STEPS times, through shared memory.

    A warp's lanes store and load neighbouring numbers, so that no two of them share a bank.
    """
    at = tl.arange(0, BLOCK)
    x = start + at * 1e-6
    for _ in range(STEPS):
        x = tl.gather(x, (at + 160) % BLOCK, 0) * 0.999
    tl.store(out + tl.program_id(0) * BLOCK + at, x)


def _timed(call: Callable[[int], Any]) -> float:
    """Return the microseconds of a call, the least of its samples."""
    return min(timing.GpuClock.timed({"": call}, 1, 1.0).samples[""])


def _programs(small: bool) -> int:
    processors = torch.cuda.get_device_properties(0).multi_processor_count
    return 2 if small else 8 * int(processors)


def _arithmetic(small: bool, steps: int) -> tuple[Callable[[int], Any], float]:
    programs = _programs(small)
    out = torch.empty(programs * BLOCK, device="cuda")

    def call(_: int) -> None:
        multiply_adds[(programs,)](out, 0.5, STEPS=steps, BLOCK=BLOCK, CHAINS=CHAINS, num_warps=8)

    return call, float(programs * BLOCK * CHAINS * steps)


def _cache(small: bool, steps: int) -> tuple[Callable[[int], Any], float]:
    programs, pieces = _programs(small), 16 if small else 4096  # 16 MiB: less than the cache
    x = torch.rand(pieces * BLOCK, device="cuda")
    out = torch.empty(programs * BLOCK, device="cuda")

    def call(_: int) -> None:
        read_again[(programs,)](x, out, STEPS=steps, PIECES=pieces, BLOCK=BLOCK, num_warps=4)

    return call, 4.0 * programs * BLOCK * steps


def _shared(small: bool, steps: int) -> tuple[Callable[[int], Any], float]:
    """Return the call and its wavefronts: a store and a load of every number, 32 to a wavefront."""
    programs = _programs(small)
    out = torch.empty(programs * BLOCK, device="cuda")

    def call(_: int) -> None:
        shuffled[(programs,)](out, 0.5, STEPS=steps, BLOCK=BLOCK, num_warps=4)

    return call, 2.0 * programs * BLOCK / LANES * steps


def _rate(make: Callable[[bool, int], Any], steps: int, name: str, per_us: float) -> Any:
    def measure(small: bool, _: float) -> Row:
        call, amount = make(small, 8 if small else steps)
        us = _timed(call)
        return {"ceilings": {name: amount * per_us / us}, "us": us}

    def kernels(small: bool) -> None:
        make(small, 8 if small else steps)[0](0)

    return measure, kernels


# Name -> (measure, launch). Operations count two for a multiply-add.
MEASURES = {
    "arithmetic": _rate(_arithmetic, 4096, "fma_gflop_per_s", 2e-3),
    "L2 cache": _rate(_cache, 256, "l2_gb_per_s", 1e-3),
    "shared memory": _rate(_shared, 2048, "shared_gb_per_s", 4 * LANES * 1e-3),
}
