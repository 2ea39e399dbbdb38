"""Lower bounds of a kernel's time on a GPU, from its counters.

bench/devices.json describes the GPUs: multiprocessors and clocks from data sheets, copy rates nine
tenths of the data sheets', L2 rates assumed. Measured rates are to replace them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.harness.errors import BadInput

DEVICES = Path(__file__).resolve().parent.parent / "devices.json"
SECTOR = 32  # bytes


@dataclass(frozen=True)
class Device:
    """A GPU's rates and sizes that bound kernels."""

    name: str
    arch: str
    multiprocessors: int
    clock_ghz: float
    copy_gb_s: float
    l2_gb_s: float
    shared_kib: int
    warps: int

    @property
    def cycles(self) -> float:
        """Cycles of all multiprocessors together in a nanosecond."""
        return self.multiprocessors * self.clock_ghz


def device(name: str) -> Device:
    """Return a device of the table.

    Raises:
        BadInput: no device has this name.
    """
    table = json.loads(DEVICES.read_text(encoding="utf-8"))
    if name not in table:
        raise BadInput(f"--device must be one of {', '.join(table)}, got {name!r}")
    return Device(name, **table[name])


def bounds(counts: dict[str, Any], gpu: Device) -> dict[str, float]:
    """Return bounds in ns by instruction issue, load/store units and L2 cache, for all programs.

    In a cycle a multiprocessor issues four instructions, and its load/store unit takes one
    shared-memory wavefront, shuffle or global request.
    """
    accesses = counts["wavefronts"] + counts.get("SHFL", 0) + counts["requests"]
    sectors = counts["sectors_read"] + counts["sectors_written"]
    return {
        "issue": counts["machine"] / (4 * gpu.cycles),
        "load/store": accesses / gpu.cycles,
        "L2": SECTOR * sectors / gpu.l2_gb_s,
    }


def resident(counts: dict[str, Any], gpu: Device) -> int:
    """Return how many programs a multiprocessor holds, by registers, shared memory and warps."""
    warps = counts["warps"]
    registers = -(-counts["registers"] // 8) * 8 * 32 * warps
    shared = counts["shared"] + 1024  # bytes that CUDA reserves for each program
    by = [32, gpu.warps // warps, 65536 // max(1, registers), gpu.shared_kib * 1024 // shared]
    return min(by)
