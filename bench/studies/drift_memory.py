"""Measure the memory of the drift of 1e9 parameters beyond parameters, base and gradients.

    python -m bench study drift_memory [--out bench/results/drift_memory.json]

Peaks are those of resident memory, see `bench.harness.memory.resident`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

import gaussreg_fast as gf
from bench.harness import machine, memory
from bench.harness.errors import BadInput

NUMBERS, TENSORS = 10**9, 40
SPARE = 2 << 30  # bytes left for the rest of the machine


def measure(numbers: int = NUMBERS) -> dict[str, Any]:
    """Measure the bytes of each task; parameters, base and gradients are bfloat16.

    Raises:
        BadInput: there is too little memory, or its peak cannot be measured here.
    """
    size = numbers // TENSORS * TENSORS * torch.bfloat16.itemsize
    needed, there = 3 * size + SPARE, machine.free_memory("cpu")
    if there < needed:
        raise BadInput(
            f"drift_memory needs {needed / 2**30:.1f} GiB of free memory, got {there / 2**30:.1f}"
        )
    params, base = (
        [torch.full((numbers // TENSORS,), at, dtype=torch.bfloat16) for _ in range(TENSORS)]
        for at in (0.5, 0.25)
    )
    for p in params:
        p.requires_grad_()
    measured = {}
    for task, (call, new) in calls(params, base).items():
        for p in params:
            p.grad = torch.zeros_like(p) if task == "added to .grad" else None
        peak = memory.resident(call)
        if peak is None:
            raise BadInput(
                "drift_memory needs Linux, where the peak of resident memory can be reset"
            )
        measured[task] = {"peak": peak, "new gradients": size if new else 0}
    return {
        "numbers": numbers,
        "tensors": TENSORS,
        "dtype": "bfloat16",
        "threads": torch.get_num_threads(),
        "bytes of parameters": size,
        "bytes": measured,
    }


def calls(params: list[Tensor], base: list[Tensor]) -> dict[str, tuple[Callable[[int], Any], bool]]:
    """Return each task's call, and whether it makes gradients, which it then returns."""

    def take_gradients() -> list[Tensor | None]:
        grads = [p.grad for p in params]
        for p in params:
            p.grad = None
        return grads

    def backward(_: int) -> Any:
        gf.parameter_drift(params, base).backward()
        return take_gradients()

    return {
        "value": (lambda _: gf.parameter_drift(params, base), False),
        "loss, backward": (backward, True),
        "value and gradient": (lambda _: gf.parameter_drift_value_and_grad(params, base), True),
        "added to .grad": (lambda _: gf.accumulate_parameter_drift(params, base), False),
        "decay": (lambda _: gf.parameter_drift_decay_(params, base, rate=1e-3), False),
    }


def lines(case: dict[str, Any]) -> Iterator[str]:
    size = case["bytes of parameters"] / 1e6
    yield f"{case['numbers']} parameters in {case['tensors']} tensors, {size:.0f} MB"
    for task, numbers in case["bytes"].items():
        new = numbers["new gradients"]
        beyond = (numbers["peak"] - new) / 1e6
        yield f"  {task:20} {beyond:7.2f} MB beyond {'its gradients' if new else 'its inputs'}"


def run(_: argparse.Namespace) -> dict[str, Any]:
    case = measure()
    print("\n".join(lines(case)), flush=True)
    return {"benchmark": "memory of parameter drift on the CPU", **case}
