"""The CPU kernels against naive PyTorch and torch's FFT, stage by stage, and on two threads.

    python bench/cpu.py [--out bench/results/cpu.json]

Value and gradient, orders 1 and 2, a permutation drawn in each call, float32, one thread unless
said. The competitors take turns; the best round of each counts. A case whose values differ fails
before it is timed. Every instruction set that the processor has is measured, each in a process of
its own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import common
import torch
from common import best_times, with_backward
from naive import naive

import gaussreg_fast
from gaussreg_fast import native

INSTRUCTION_SETS = ("avx512", "avx2", "portable")
CASES = ((1, 4096), (1, 16384), (16, 16384), (64, 16384), (8, 65536), (1, 262144), (4, 262144))
THREAD_CASES = ((64, 16384), (8, 65536), (1, 262144))
STAGE_SIZES = (4096, 16384, 65536, 262144)


def compare(batch: int, dimension: int, rounds: int) -> dict[str, float]:
    """Microseconds a call of us and of the others."""
    x = torch.randn(batch, dimension, requires_grad=True)
    z = x.detach()
    index = gaussreg_fast.permutation(0, dimension)
    torch.testing.assert_close(naive(x, index), gaussreg_fast.gaussianity_loss(x, seed=0))
    (want,) = torch.autograd.grad(naive(x, index), x)
    torch.testing.assert_close(gaussreg_fast.gaussianity_value_and_grad(z, seed=0)[1], want)
    calls: dict[str, Callable[[], Any]] = {
        "naive": with_backward(naive, x),
        "gaussianity_loss": with_backward(gaussreg_fast.gaussianity_loss, x),
        "gaussianity_value_and_grad": lambda: gaussreg_fast.gaussianity_value_and_grad(z),
        "rfft_irfft": lambda: torch.fft.irfft(torch.fft.rfft(z), n=dimension),
    }
    return best_times(calls, rounds, max(2, 400_000 // (batch * dimension)))


def threads(batch: int, dimension: int, rounds: int) -> dict[str, float]:
    """Microseconds a call on one thread and on two, taking turns."""
    x = torch.randn(batch, dimension)

    def call(count: int) -> Callable[[], Any]:
        def run() -> None:
            torch.set_num_threads(count)
            gaussreg_fast.gaussianity_value_and_grad(x)

        return run

    repeats = max(2, 400_000 // (batch * dimension))
    times = best_times({"one": call(1), "two": call(2)}, rounds, repeats)
    torch.set_num_threads(1)
    return times


def stages(dimension: int) -> dict[str, float]:
    """Microseconds of each stage of the fused kernel on one sample."""
    x, grad = torch.randn(dimension), torch.empty(dimension)
    repeats = max(20, 4_000_000 // dimension)
    timed = native.module().time_stages(dimension, x.data_ptr(), grad.data_ptr(), repeats)
    return {name: seconds * 1e6 for name, seconds in timed}


def measure(rounds: int) -> dict[str, Any]:
    """Everything, with the instruction set of this process."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    cases = [{"batch": b, "dimension": d, "microseconds": compare(b, d, rounds)} for b, d in CASES]
    shared = [
        {"batch": b, "dimension": d, "microseconds": threads(b, d, rounds)} for b, d in THREAD_CASES
    ]
    parts = [{"dimension": d, "microseconds": stages(d)} for d in STAGE_SIZES]
    return {"cases": cases, "threads": shared, "stages": parts}


def measure_with(instruction_set: str, rounds: int) -> dict[str, Any] | None:
    """The same in a process of its own; None where the processor lacks the instructions."""
    command = [sys.executable, __file__, "--worker", "--rounds", str(rounds)]
    environment = {**os.environ, "GAUSSREG_FAST_ISA": instruction_set}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if run.returncode == 0:
        return json.loads(run.stdout)
    if "cannot run on this processor" in run.stderr:
        return None
    sys.exit(run.stderr)


def show(instruction_set: str, result: dict[str, Any]) -> None:
    print(f"{instruction_set}, one thread, times faster than naive PyTorch:")
    for case in result["cases"]:
        times = case["microseconds"]
        ratios = ", ".join(f"{name} {times['naive'] / t:.1f}" for name, t in times.items())
        print(f"  ({case['batch']}, {case['dimension']}) naive {times['naive']:.0f} us: {ratios}")
    for case in result["threads"]:
        times = case["microseconds"]
        ratio = times["one"] / times["two"]
        print(f"  ({case['batch']}, {case['dimension']}) two threads: {ratio:.2f} times one")
    for part in result["stages"]:
        listed = ", ".join(f"{name} {t:.1f}" for name, t in part["microseconds"].items())
        print(f"  D = {part['dimension']}, us a sample: {listed}")


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(measure(options.rounds)))
        return
    results = {}
    for name in INSTRUCTION_SETS:
        result = measure_with(name, options.rounds)
        if result is None:
            print(f"{name}: not on this processor")
            continue
        results[name] = result
        show(name, result)
    common.save(
        options.out,
        benchmark="value and gradient on the CPU, float32",
        instruction_sets=results,
    )


if __name__ == "__main__":
    main()
