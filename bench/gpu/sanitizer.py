"""Find memory errors and races in the kernels with CUDA's sanitizers, at small sizes."""

from __future__ import annotations

import subprocess
import sys
from functools import partial

from bench.gpu import programs
from bench.gpu.stage import LeftOut, Part, Row
from bench.subjects import every_kernel

# The allocator's pools are off for memcheck, because they would hide accesses out of bounds.
ENVIRONMENT = {"memcheck": {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}, "racecheck": {}}
DIMENSIONS = {"memcheck": (64, 1024, 16384, 65536, 100, 32768), "racecheck": (64, 1024, 100, 16384)}
SECONDS = 25.0


def parts(small: bool) -> list[Part]:
    found = []
    for tool, environment in ENVIRONMENT.items():
        dimensions = (64,) if small else DIMENSIONS[tool]
        words = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "3"]
        kernels = {f"{tool} D={d}": partial(every_kernel.every_call, d) for d in dimensions}
        run = partial(_run, [] if small else words, environment, dimensions, small)
        found.append(Part(tool, run, 15.0 if small else SECONDS, kernels))
    return found


def _run(
    prefix: list[str],
    environment: dict[str, str],
    dimensions: tuple[int, ...],
    small: bool,
    allowed: float,
) -> Row:
    """Run a sanitizer; in a rehearsal the simulator, which finds the same kinds of errors."""
    words = [*prefix, sys.executable, "-m", "bench", "sanitize"]
    words += [str(d) for d in dimensions] + (["--rehearse"] if small else [])
    try:
        printed = programs.output(words, allowed - 1, **environment)
    except subprocess.TimeoutExpired as error:  # left out, because slowness is no error of kernels
        ran = [line for line in error.output.splitlines() if line.startswith("D = ")]
        raise LeftOut(f"stopped after {allowed:.0f} s; {'; '.join(ran) or 'nothing ran'}") from None
    return {"printed": printed.splitlines()[-20:]}
