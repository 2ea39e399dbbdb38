"""Measure the CPU kernels by instruction set, on one thread and two, and stage by stage.

    python -m bench study cpu [--out bench/results/cpu.json]

Calls compute value and gradient, orders 1 and 2, in float32 on one thread unless stated otherwise,
and draw a permutation each. The competitors take turns, cold and hot, and the best sample of each
counts (`bench.harness.cpu_clocks`). A case whose values differ fails before it is timed. Every
instruction set of the processor is measured, in a process of its own.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

import gaussreg_fast
from bench.harness import child, machine
from bench.harness.best import Times, best_times, multiples
from bench.report import roofline
from bench.subjects import correctness, peers
from bench.subjects.cases import Case, parse

SECONDS = 1.5
INSTRUCTION_SETS = ("avx512", "avx2", "portable")
CASES = [
    *("d4096-1", "sd-1", "sd-16", "sd-64", "sana-1", "sdxl-8", "flux-1", "flux-4"),
    *("sd-1-bfloat16", "sd-16-bfloat16", "sd-16-float16"),
    *("d25600-1", "d25600-4", "sd768-1", "sd768-4"),  # no powers of two
]
THREAD_CASES = ["sd-64", "sdxl-8", "flux-1"]
CALLS = {
    "naive": "naive",
    "gaussianity_loss": "loss_backward",
    "gaussianity_value_and_grad": "value_and_grad",
    "rfft_irfft": "fft",
}


def compare(case: Case, seconds: float) -> Times:
    """Return the microseconds of our calls and of the peers'."""
    correctness.check(case, "cpu", rounds=1)
    xs = peers.inputs(case, "cpu", 1)
    calls = peers.ours(case, xs) | peers.others(case, xs, "cpu")
    named = {key: partial(calls[name], 0) for key, name in CALLS.items()}
    return best_times(named, seconds)


def one_latent(case: Case, seconds: float) -> Times:
    """Return the microseconds of the ways to call a loss of one latent, without competitors."""
    (x,) = peers.inputs(case, "cpu", 1)
    z = x.detach()
    call = gaussreg_fast.gaussianity_value_and_grad
    calls = {
        "gaussianity_value_and_grad": partial(call, z),
        "with a given seed": partial(call, z, seed=3),
        "without a permutation": partial(call, z, permutation="none"),
        "PreparedLoss": partial(gaussreg_fast.PreparedLoss(z), z),
        "gaussianity_loss + backward": peers.with_backward(gaussreg_fast.gaussianity_loss, x),
        "kl_loss": partial(gaussreg_fast.kl_loss, z),
    }
    return best_times(calls, seconds)


def threads(case: Case, seconds: float) -> Times:
    """Return the microseconds of a call on one thread and on two, which take turns.

    What comes before a cold call runs on as many threads, as it does in a user's loop.
    """
    (x,) = peers.inputs(case, "cpu", 1)
    counts = {"one": 1, "two": 2}
    call = partial(gaussreg_fast.gaussianity_value_and_grad, x.detach())
    before = {name: partial(torch.set_num_threads, count) for name, count in counts.items()}
    times = best_times(dict.fromkeys(counts, call), seconds, before)
    torch.set_num_threads(1)
    return times


def measure(seconds: float) -> dict[str, Any]:
    """Measure everything with the instruction set of this process."""
    torch.set_num_threads(1)
    torch.manual_seed(0)

    def row(name: str, measured: Callable[[Case, float], Times]) -> dict[str, Any]:
        case = parse(name)
        about = {"case": name, "batch": case.batch, "dimension": case.dimension}
        dtype = str(case.dtype).removeprefix("torch.")
        return {**about, "dtype": dtype, "microseconds": measured(case, seconds)}

    return {
        "processor": machine.describe(machine.facts("cpu")),
        "cases": [row(name, compare) for name in CASES],
        "one_latent": [row("sd-1", one_latent)],
        "threads": [row(name, threads) for name in THREAD_CASES],
        "stages": [{"dimension": d, "microseconds": stages(d)} for d in roofline.STAGE_SIZES],
    }


def stages(dimension: int) -> dict[str, float]:
    return {name: stage["us"] for name, stage in roofline.cpu_stages(dimension).items()}


def show(result: dict[str, Any]) -> None:
    print(f"{result['processor']}:")
    for rows, of in (("cases", "gaussianity_value_and_grad"), ("threads", "two")):
        for case in result[rows]:
            for line in multiples(case["microseconds"], of):
                print(f"  {case['case']}, {line}")
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
    words = ["study", "cpu", "--seconds", str(options.seconds)]
    for name, result in child.by_instruction_set(words, INSTRUCTION_SETS):
        results[name] = result
        show(result)
    return {"benchmark": "value and gradient on the CPU", "instruction_sets": results}
