"""Measure the CPU kernels by instruction set, on one thread and two, and stage by stage.

    python -m bench study cpu [--out bench/results/cpu.json]

Calls compute value and gradient, orders 1 and 2, in float32 on one thread unless stated otherwise,
and draw a permutation each. The competitors take turns; the best sample of each counts. A case
whose values differ fails before it is timed. Every instruction set of the processor is measured, in
a process of its own.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

import gaussreg_fast
from bench.harness import child
from bench.harness.errors import BadInput
from bench.report import roofline
from bench.studies.best import best_times
from bench.subjects import correctness, peers
from bench.subjects.cases import Case, parse

SECONDS = 1.5
INSTRUCTION_SETS = ("avx512", "avx2", "portable")
CASES = ["d4096-1", "sd-1", "sd-16", "sd-64", "sdxl-8", "flux-1", "flux-4"]
THREAD_CASES = ["sd-64", "sdxl-8", "flux-1"]
CALLS = {
    "naive": "naive",
    "gaussianity_loss": "loss_backward",
    "gaussianity_value_and_grad": "value_and_grad",
    "rfft_irfft": "fft",
}


def compare(case: Case, seconds: float) -> dict[str, float]:
    """Return the microseconds of our calls and of the peers'."""
    correctness.check(case, "cpu", rounds=1)
    xs = peers.inputs(case, "cpu", 1)
    calls = peers.ours(case, xs) | peers.others(case, xs, "cpu")
    named = {key: partial(calls[name], 0) for key, name in CALLS.items()}
    return best_times(named, seconds)


def threads(case: Case, seconds: float) -> dict[str, float]:
    """Return the microseconds of a call on one thread and on two, which take turns."""
    (x,) = peers.inputs(case, "cpu", 1)

    def call(count: int) -> Callable[[], Any]:
        def run() -> None:
            torch.set_num_threads(count)
            gaussreg_fast.gaussianity_value_and_grad(x.detach())

        return run

    times = best_times({"one": call(1), "two": call(2)}, seconds)
    torch.set_num_threads(1)
    return times


def measure(seconds: float) -> dict[str, Any]:
    """Measure everything with the instruction set of this process."""
    torch.set_num_threads(1)
    torch.manual_seed(0)

    def row(name: str, measured: Callable[[Case, float], dict[str, float]]) -> dict[str, Any]:
        case = parse(name)
        us = measured(case, seconds)
        return {"batch": case.batch, "dimension": case.dimension, "microseconds": us}

    return {
        "cases": [row(name, compare) for name in CASES],
        "threads": [row(name, threads) for name in THREAD_CASES],
        "stages": [{"dimension": d, "microseconds": stages(d)} for d in roofline.STAGE_SIZES],
    }


def stages(dimension: int) -> dict[str, float]:
    return {name: stage["us"] for name, stage in roofline.cpu_stages(dimension).items()}


def measure_with(instruction_set: str, seconds: float) -> dict[str, Any] | None:
    """Do the same in a process of its own; return None if the processor lacks the instructions."""
    words = ["study", "cpu", "--seconds", str(seconds)]
    try:
        return child.ask(words, {**os.environ, "GAUSSREG_FAST_ISA": instruction_set})
    except BadInput as error:
        if "cannot run on this processor" in str(error):
            return None
        raise


def show(instruction_set: str, result: dict[str, Any]) -> None:
    print(f"{instruction_set}, one thread, speed-ups over naive PyTorch:")
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


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--answer", type=Path, help=argparse.SUPPRESS)  # in a process of its own


def run(options: argparse.Namespace) -> dict[str, Any] | None:
    if options.answer:
        child.answer(options.answer, partial(measure, options.seconds))
        return None
    results = {}
    for name in INSTRUCTION_SETS:
        result = measure_with(name, options.seconds)
        if result is None:
            print(f"{name}: this processor does not have it")
            continue
        results[name] = result
        show(name, result)
    return {"benchmark": "value and gradient on the CPU, float32", "instruction_sets": results}
