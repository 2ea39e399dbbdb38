"""The main table: ours against the peers, in one run."""

from __future__ import annotations

from functools import partial
from typing import Any

from bench.gpu.stage import Part, Row
from bench.harness import machine, timing
from bench.report import measure
from bench.subjects import prepare
from bench.subjects.cases import Case, parse_all

# The most telling come first. Cases with peers under torch.compile take longest.
COMPILED = parse_all("sd-4096 d4096-4096 sana-2048 sdxl-1024 flux-256 sd-1 flux-1")
OTHERS = parse_all(
    "d16384-1-growth sd-4096-bfloat16 sd-4096-per_sample d4096-1-growth d1024-4096 sd-256 sd768-64 "
    "sd-1-guards d1024-1-growth d65536-1-growth d262144-1-growth sd-64-guards"
)
SMALL_COMPILED, SMALL_OTHERS = parse_all("d64-4"), parse_all("d64-1 d256-1-growth d64-1-guards")
SECONDS = {True: 14.0, False: 4.0}  # expected for a case with compiled peers, and without
SAMPLING = 3.0  # seconds for a case's samples
REST = 10.0  # seconds of a case that are kept from its compilation


def parts(small: bool) -> list[Part]:
    found = []
    compiled, others = (SMALL_COMPILED, SMALL_OTHERS) if small else (COMPILED, OTHERS)
    for case in (*compiled, *others):
        compiling = case in compiled
        run = partial(_row, case, compiling, 0.2 if small else SAMPLING)
        found.append(Part(case.name, run, SECONDS[compiling], {case.name: partial(_kernels, case)}))
    return found


def jobs(small: bool) -> list[list[str]]:
    """Return the commands that compile the peers ahead."""
    return [["prepare", c.name, "--compile"] for c in (SMALL_COMPILED if small else COMPILED)]


def _kernels(case: Case) -> None:
    """Launch a case's kernels on a small batch."""
    prepare.ours(prepare.small(case))


def _row(case: Case, compiling: bool, seconds: float, allowed: float) -> Row:
    row: dict[str, Any] = measure.run_case(
        case, timing.GpuClock, seconds=seconds,
        compile_seconds=max(1.0, (allowed - REST - seconds) / 3) if compiling else 0.0,
    )  # fmt: skip
    return row | {"clock_after": machine.clocks("cuda")}
