"""Compare the white-noise projection on the CPU with the fused loss and with torch.

    python -m bench study projection [--out bench/results/projection.json]

One thread, float32, blocks of 16 bins. The competitors take turns, cold and hot; the best sample of
each counts, and the report gives ratios within the run. A case whose results differ from float64
fails before it is timed. torch.compile compiles the whole torch backend.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch

import gaussreg_fast
from bench.harness.best import best_times, multiples
from bench.harness.errors import Wrong
from gaussreg_fast import reference

SECONDS = 3.0
CASES = ((1, 4096), (1, 16384), (16, 16384), (8, 65536), (1, 262144), (4, 36864))


def compiled(x: torch.Tensor) -> Any:
    torch._dynamo.reset()
    call = torch.compile(reference.project_white_noise, fullgraph=True, dynamic=False)
    call(x)
    return call


def measure(batch: int, dimension: int, seconds: float) -> dict[str, Any]:
    x = torch.randn(batch, dimension, generator=torch.Generator().manual_seed(0))
    want = gaussreg_fast.project_white_noise(x.double(), backend="torch")
    whole = compiled(x)
    calls = {
        "loss": lambda: gaussreg_fast.gaussianity_value_and_grad(x),
        "native": lambda: gaussreg_fast.project_white_noise(x, backend="native"),
        "torch": lambda: gaussreg_fast.project_white_noise(x, backend="torch"),
        "compile": lambda: whole(x),
        "rfft_irfft": lambda: torch.fft.irfft(torch.fft.rfft(x), n=dimension),
    }
    for name in ("native", "torch", "compile"):
        error = ((calls[name]() - want).norm() / want.norm()).item()
        if not error < 1e-5:
            raise Wrong(f"{name}, {batch} x {dimension}: relative error {error:.2g}")
    times = best_times(calls, seconds)
    return {"batch": batch, "dimension": dimension, "microseconds": times}


def run(options: argparse.Namespace) -> dict[str, Any]:
    torch.set_num_threads(1)
    rows = []
    for batch, dimension in CASES:
        rows.append(measure(batch, dimension, options.seconds))
        for line in multiples(rows[-1]["microseconds"], of="native"):
            print(f"({batch}, {dimension}) {line}", flush=True)
    return {
        "benchmark": "white-noise projection on the CPU, one thread, float32",
        "cases": rows,
    }
