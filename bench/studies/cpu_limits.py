"""Compare the stages of the CPU pipeline with what the processor can do.

    python -m bench study cpu_limits [--out bench/results/cpu_limits.json]

For each stage of one sample, on warm data and one thread: cycles, instructions and bytes per
number. Times and the length of a cycle come from the clock, in one run. Instructions are counted by
executing them one by one (single_step.py), which takes some minutes. Bytes are the least that a
stage moves (roofline.py).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bench.harness import child, single_step
from bench.harness.errors import BadInput
from bench.harness.text import table
from bench.report import roofline
from gaussreg_fast.backends import native

INSTRUCTION_SETS = ("avx512", "avx2")
SIZE = 16384


def measure(size: int) -> dict[str, Any]:
    """Measure the stages with the instruction set of this process."""
    torch.set_num_threads(1)
    us = roofline.cpu_times(size)
    counted = count(size, us)
    cycle = us[roofline.CYCLE] / size
    stages = {}
    for name, needs in roofline.CPU_STAGES.items():
        moved, operations = needs(size)
        stages[name] = {
            "cycles": us[name] / size / cycle,
            **{f"{kind}_instructions": n / size for kind, n in counted[name].items()},
            "bytes": moved / size,
            "operations": operations / size,
        }
    return {"gigahertz": 1e-3 / cycle, "stages": stages}


def count(size: int, names: Iterable[str]) -> dict[str, single_step.Counts]:
    """Return the instructions of each stage, executed once."""
    # The same numbers in each run: a function such as pow() branches on them.
    x, grad = torch.randn(size, generator=torch.Generator().manual_seed(0)), torch.empty(size)

    def stages() -> None:
        native.module().time_stages(size, x.data_ptr(), grad.data_ptr(), 1)

    stages()  # the plan of this size is made once
    parts = single_step.between_clocks(stages)
    names = list(names)
    if len(parts) != 2 * len(names):  # a look at the clock before and after each stage
        raise BadInput(
            f"counting instructions needs a clock that is read {2 * len(names)} times, got "
            f"{len(parts)}"
        )
    return dict(zip(names, parts[1::2], strict=True))


def page(result: dict[str, Any]) -> str:
    """Return what each stage takes of the processor, a table for each instruction set."""
    text = []
    for name, found in result["instruction_sets"].items():
        rows = [
            [
                stage,
                f"{n['cycles']:.2f}",
                f"{n['vector_instructions']:.2f} + {n['scalar_instructions']:.2f}",
                f"{(n['vector_instructions'] + n['scalar_instructions']) / n['cycles']:.1f}",
                f"{n['bytes']:.0f}",
                f"{n['bytes'] / n['cycles']:.1f}",
                f"{n['operations'] / n['cycles']:.1f}",
            ]
            for stage, n in found["stages"].items()
        ]
        head = ["stage", "cycles", "instructions, vector + scalar", "a cycle", "bytes", "a cycle",
                "operations a cycle"]  # fmt: skip
        text.append(
            f"{name}, D = {result['dimension']}, {found['gigahertz']:.1f} GHz, per number:\n\n"
            + table(head, rows)
        )
    return "\n".join(text)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--answer", type=Path, help=argparse.SUPPRESS)  # in a process of its own


def run(options: argparse.Namespace) -> dict[str, Any] | None:
    if options.answer:
        child.answer(options.answer, partial(measure, SIZE))
        return None
    results = dict(child.by_instruction_set(["study", "cpu_limits"], INSTRUCTION_SETS))
    found = {"benchmark": "the limits of the CPU kernels", "dimension": SIZE,
             "instruction_sets": results}  # fmt: skip
    print(page(found))
    return found
