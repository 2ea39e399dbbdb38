"""Time the paper's toy: 100 iterations on one checkerboard latent, by MPGR's loss and by PRNO's.

The paper (arXiv 2509.07027) gives 0.26 s and 14.1 s, on its machine. Only the optimisation is
timed; `gaussreg-fast demo` shows the resulting latents.
"""

from __future__ import annotations

import time
from typing import Any

import torch

from gaussreg_fast.experiments.checkerboard import study as checkerboard

NAME = "toy"
ITERATIONS = 100
PAPER = {"MPGR": 0.26, "PRNO": 14.1}


def seconds(method: checkerboard.Method, device: str) -> float:
    """Time one run, in seconds."""
    x = checkerboard.start(1, 0).to(device).requires_grad_()
    assert method.optimizer
    optimizer = method.optimizer([x])
    begin = time.perf_counter()
    for iteration in range(ITERATIONS):
        optimizer.zero_grad()
        method.apply(x, **dict(method.options), seed=iteration).backward()
        optimizer.step()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def measure(device: str, quick: bool) -> dict[str, Any]:
    """Measure a row: the seconds of every run, MPGR's and PRNO's in turns."""
    guards = {m.name: m for m in checkerboard.methods() if m.name in PAPER}
    seconds(guards["MPGR"], device)  # keeps first-call costs out of the samples
    samples: dict[str, list[float]] = {name: [] for name in PAPER}
    for turn in range(1 if quick else 3):
        for name, method in guards.items():
            for _ in range(3 if name == "MPGR" else int(turn < 2)):
                samples[name].append(seconds(method, device))
    return {
        "case": NAME,
        "status": "ok",
        "iterations": ITERATIONS,
        "shape": list(checkerboard.SHAPE),
        "seconds_of_runs": samples,
        "paper_seconds": PAPER,
    }
