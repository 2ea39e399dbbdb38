"""The half of the regression check that needs no clock and no GPU.

Registers, spills, shared memory and instructions of every kernel, and launches, bytes and
allocations of every case, against committed values. They are exact: any difference is named.
"""

from __future__ import annotations

import importlib.util
import os
import re

from bench.harness.errors import BadInput


def regressions(only: str, jobs: int = 2) -> list[str]:
    """A line for each number that differs, of the cases whose name contains `only`."""
    if not importlib.util.find_spec("triton"):
        raise BadInput("--kernels: there is no triton here")
    os.environ.pop("TRITON_INTERPRET", None)  # it would leave nothing to compile
    import triton

    from bench.compiled import kernel_resources, launches

    release = triton.__version__
    recorded = kernel_resources.read(kernel_resources.RECORD)
    if release not in recorded:
        known = ", ".join(recorded) or "none"
        raise BadInput(f"--kernels: triton {release} is not recorded ({known} are)")
    chosen = kernel_resources.chosen(list(kernel_resources.ARCHS), re.escape(only))
    calls = launches.named(only)
    if not chosen and not calls:
        raise BadInput(f"--kernels {only!r}: no kernel and no case has this in its name")
    rows = launches.compare(only)
    now = kernel_resources.all_measured(chosen, jobs)
    rows += kernel_resources.differences(recorded[release], now, re.escape(only))
    limits = kernel_resources.failures(chosen, now)
    print(f"triton {release}: {len(chosen)} kernels, {len(calls)} calls launched")
    return [f"{a} {name}: {what} {old} -> {new}" for a, name, what, old, new in rows] + limits
