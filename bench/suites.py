"""What the pytest-benchmark suites share: one benchmark for every call of every case."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import pytest
import torch

from bench import cases, measure, peers, timing
from bench.cases import Case
from bench.machine import device

COMPILE_SECONDS = 60.0


def every_call(suite: str) -> list[Any]:
    """pytest parameters (case, call) of a suite on this device."""
    return [
        pytest.param(case, call, id=f"{case.name}-{call}")
        for case in cases.listed(device())
        if case.suite == suite
        for call in peers.names(case, device(), cases.compiled(device(), False, case))
    ]


@cache
def _verified(case: Case) -> dict[str, float]:
    """Raises where a result of the case is wrong; once per case."""
    return measure.checked(case, device(), "auto")


def _call(case: Case, name: str) -> Callable[[int], Any]:
    xs = peers.inputs(case, device(), 1)
    if name not in peers.COMPILED:
        return (peers.ours(case, xs) | peers.others(case, xs, device()))[name]
    found, reasons = peers.compiled(case, xs, COMPILE_SECONDS)
    measure.check_compiled({}, case, xs, found)
    return found[name] if name in found else pytest.skip(reasons[name])


def run(benchmark: Any, case: Case, name: str) -> None:
    """Checks, then times by the host's clock; on a GPU with a synchronize, so what a user waits."""
    torch.manual_seed(0)
    _verified(case)
    call = _call(case, name)
    benchmark.group = case.name
    benchmark.extra_info["extra_memory_bytes"] = timing.clock(device()).extra_memory(call)
    if device() == "cuda":
        benchmark(lambda: (call(0), torch.cuda.synchronize()))
    else:
        benchmark(partial(call, 0))
