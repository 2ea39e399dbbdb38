"""The half of the regression check that needs no clock and no GPU.

It compares registers, spills, shared memory and instructions of every kernel, and launches, bytes
and allocations of every case, with committed values. They are exact, so that any difference counts.
"""

from __future__ import annotations

import importlib.util
import os
import re

from bench.harness.errors import BadInput


def regressions(only: str, jobs: int = 2) -> list[str]:
    """Return a line for each number that differs, of the cases whose name contains `only`."""
    if not importlib.util.find_spec("triton"):
        raise BadInput("--kernels needs triton, which is not installed")
    os.environ.pop("TRITON_INTERPRET", None)  # the interpreter would leave nothing to compile
    import triton

    from bench.compiled import kernel_resources, launches

    release = triton.__version__
    recorded = kernel_resources.read(kernel_resources.RECORD)
    if release not in recorded:
        known = ", ".join(recorded) or "none"
        raise BadInput(f"--kernels needs a recorded release of triton ({known}), got {release}")
    chosen = kernel_resources.chosen(list(kernel_resources.ARCHS), re.escape(only))
    calls = launches.calls_named(only)
    if not chosen and not calls:
        raise BadInput(f"--kernels: no kernel and no case has a name that contains {only!r}")
    rows = launches.compare(only)
    now = kernel_resources.all_measured(chosen, jobs)
    rows += kernel_resources.differences(recorded[release], now, re.escape(only))
    limits = kernel_resources.failures(chosen, now)
    print(f"triton {release}: {len(chosen)} kernels, {len(calls)} calls launched")
    return [f"{a} {name}: {what} {old} -> {new}" for a, name, what, old, new in rows] + limits
