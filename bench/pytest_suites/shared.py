"""The parts that the pytest-benchmark suites share: one benchmark for every call of every case."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import pytest
import torch

from bench.harness import timing
from bench.harness.machine import device
from bench.report import measure
from bench.subjects import cases, peers
from bench.subjects.cases import Case

COMPILE_SECONDS = 60.0


def every_call(topic: str) -> list[Any]:
    """Return the pytest parameters (case, call) of a topic on this device."""
    return [
        pytest.param(case, call, id=f"{case.name}-{call}")
        for case in cases.of_report(device())
        if case.topic == topic
        for call in peers.names(case, device(), cases.compiled(device(), False, case))
    ]


@cache
def _verify(case: Case) -> dict[str, float]:
    """Check a case's results, once per case; raise Wrong if one is wrong."""
    return measure.checked(case, device(), "auto")


def _call(case: Case, name: str, buffers: int) -> Callable[[int], Any]:
    xs = peers.inputs(case, device(), buffers)
    if name not in peers.COMPILED:
        return (peers.ours(case, xs) | peers.others(case, xs, device()))[name]
    found, reasons = peers.compiled(case, xs, COMPILE_SECONDS)
    measure.check_compiled({}, case, xs, found)
    return found[name] if name in found else pytest.skip(reasons[name])


def run(benchmark: Any, case: Case, name: str) -> None:
    """Check a call, then time it by the host's clock, on a GPU with a synchronize.

    pytest-benchmark repeats the call by itself: on a CPU it is hot, and `cold_us` also holds the
    times of cold calls. On a GPU `device_us` holds the device's own time, on rotating inputs.
    """
    torch.manual_seed(0)
    _verify(case)
    clock = timing.clocks(device())[0]
    buffers = 1 if case.batch == 1 else clock.buffers(case.nbytes)
    call = _call(case, name, buffers)
    benchmark.group = case.name
    benchmark.extra_info["extra_memory_bytes"] = clock.extra_memory(call)
    samples = clock.timed({name: call}, buffers).samples.get(name)
    benchmark.extra_info[f"{clock.name}_us"] = samples
    if device() == "cuda":
        benchmark(lambda: (call(0), torch.cuda.synchronize()))
    else:
        benchmark(partial(call, 0))
