"""Bytes and operations a second, of each stage and of whole calls, for the roofline.

Counts are the least that a stage needs: every number of its input and output once, from whatever
level of memory; 5 N log2 N operations for a transform of N complex points; per bin some 20 for
untangling it and its length, and as many back. Integer work (the permutation) counts as none.
"""

from __future__ import annotations

from collections.abc import Callable
from math import log2
from typing import Any

import torch

from bench.subjects.cases import Case
from gaussreg_fast.backends import native

STAGE_SIZES = (4096, 16384, 65536, 262144)
PER_BIN = 20  # operations, one way
CYCLE = "a cycle per number"

# Stage of the CPU pipeline -> (bytes, operations) of one sample of D numbers.
CPU_STAGES: dict[str, Callable[[int], tuple[float, float]]] = {
    "permutation table": lambda d: (4 * d, 0),
    "gather, moments, first passes": lambda d: (12 * d, 3 * d + _transform(d, _first(d))),
    "other passes forward": lambda d: (8 * d, _transform(d, d // 2 / _first(d))),
    "directions": lambda d: (10 * d, PER_BIN * d / 2),
    "block means": lambda d: (2 * d, d / 2),
    "adjoint of directions": lambda d: (8 * d, PER_BIN * d / 2),
    "other passes back": lambda d: (8 * d, _transform(d, d // 2 / _first(d))),
    "last passes, scatter": lambda d: (16 * d, 4 * d + _transform(d, _first(d))),
    "whole sample after the table": lambda d: loss_and_gradient(d),
    "bare gather": lambda d: (12 * d, 0),
    "bare scatter": lambda d: (12 * d, 0),
    "bare copy": lambda d: (8 * d, 0),
}


def _first(dimension: int) -> int:
    """Return the points transformed while a sample is read: 16, and 8 times 16 from D = 4096 on."""
    return 16 if dimension < 4096 else 128


def _transform(dimension: int, points: float) -> float:
    """Return the operations to transform D / 2 complex numbers, `points` at a time."""
    return 5 * dimension / 2 * log2(points)


def loss_and_gradient(dimension: int, itemsize: int = 4) -> tuple[float, float]:
    """Return bytes and operations of one sample: x and its gradient; transforms, bins, moments."""
    transforms = 2 * _transform(dimension, dimension / 2)
    return 2 * itemsize * dimension, transforms + (PER_BIN + 7) * dimension


def rates(us: float, needs: tuple[float, float]) -> dict[str, float]:
    moved, operations = needs
    return {"us": us, "gb_per_s": moved / us / 1e3, "gflop_per_s": operations / us / 1e3}


def cpu_times(dimension: int) -> dict[str, float]:
    """Return microseconds of the native kernel's stages on one sample, warm, best of many runs.

    `CYCLE` is the time of as many cycles of the processor as there are numbers.
    """
    x, grad = torch.randn(dimension), torch.empty(dimension)
    repeats = max(20, 4_000_000 // dimension)
    timed = native.module().time_stages(dimension, x.data_ptr(), grad.data_ptr(), repeats)
    return {name: seconds * 1e6 for name, seconds in timed}


def cpu_stages(dimension: int) -> dict[str, dict[str, float]]:
    """Return time and rates of each stage of the native kernel, on one thread."""
    us = cpu_times(dimension)
    return {name: rates(us[name], needs(dimension)) for name, needs in CPU_STAGES.items()}


def gpu_kernels(call: Callable[[], Any]) -> dict[str, dict[str, float]]:
    """Return each kernel of one call: device time by the profiler, rates by launch metadata."""
    from torch.profiler import ProfilerActivity, profile

    from bench.compiled.launches import recorded

    for _ in range(3):
        call()
    torch.cuda.synchronize()
    with recorded(run=True) as found:
        call()
    repeats = 10
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as trace:
        for _ in range(repeats):
            call()
        torch.cuda.synchronize()
    table = {}
    for event in trace.key_averages():
        us = getattr(event, "self_device_time_total", 0) / repeats
        if us <= 0 or str(event.device_type) != "DeviceType.CUDA":
            continue
        mine = [launch for launch in found.launches if launch.kernel == event.key]
        row = {"us": us, "launches": event.count / repeats}
        if mine:
            moved, operations = (sum(getattr(m, k) for m in mine) for k in ("bytes", "operations"))
            row |= rates(us, (moved, operations))
        table[event.key] = row
    return table


def stages(case: Case, call: Callable[[], Any], device: str) -> dict[str, dict[str, float]]:
    """Return the stages of one call on this device; none if the CPU has no pipeline for D."""
    if device == "cuda":
        return gpu_kernels(call)
    module, _ = native.load()
    fits = module is not None and module.has_plan(case.dimension)
    return cpu_stages(case.dimension) if fits else {}


def measure(device: str, sizes: tuple[int, ...] = STAGE_SIZES) -> dict[str, Any]:
    """Measure a row: the stages at several D; on a GPU with a batch that fills it."""
    from bench.subjects.peers import inputs, ours

    found = {}
    for size in sizes:
        case = Case(f"d{size}", 1 if device == "cpu" else 2**26 // size)
        call = ours(case, inputs(case, device, 1))["value_and_grad"]
        found[str(size)] = stages(case, lambda call=call: call(0), device)
    return {"case": "stages", "status": "ok", "stages": found}
