"""Measure whether MPGR's loss sees a checkerboard, and what removes it, for docs/results/demo.

    python -m bench study noise_injection [--out bench/results/noise_injection.json]

Three measurements on 4 x 64 x 64 latents: the loss of checkerboard latents against that of true
noise; the effect of 100 iterations on true noise, by learning rate; the same loss without
permutation.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

import gaussreg_fast
from gaussreg_fast._files import json_text
from gaussreg_fast.experiments.checkerboard import study as checkerboard

BATCHES = 20
ITERATIONS = 100


def noise(samples: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(samples, *checkerboard.SHAPE, generator=generator)


def losses(latents: Callable[[int, int], Tensor]) -> dict[str, float]:
    values = [
        gaussreg_fast.gaussianity_loss(latents(16, 100 + k), seed=k).item() for k in range(BATCHES)
    ]
    return {"mean": statistics.mean(values), "std_of_batches": statistics.stdev(values)}


def optimise(x0: Tensor, lr: float, **options: Any) -> dict[str, float]:
    method = checkerboard.Method(
        "MPGR",
        gaussreg_fast.gaussianity_loss,
        "",
        partial(torch.optim.SGD, lr=lr, momentum=0.9, nesterov=True),
        random=True,
        options=tuple(options.items()),
    )
    outcome = checkerboard.run(method, x0, ITERATIONS, 0, lambda: None)
    return {
        "cosine_to_start": outcome.cosine,
        "pattern_left": outcome.pattern,
        "lag1": outcome.lag1,
        "p_value": outcome.p_value,
    }


def run(_: argparse.Namespace) -> dict[str, Any]:
    result = {
        "loss_of_checkerboards": losses(checkerboard.start),
        "loss_of_noise": losses(noise),
        "from_noise_by_learning_rate": {str(lr): optimise(noise(4, 9), lr) for lr in (1, 5, 20)},
        "unpermuted_learning_rate_5": optimise(checkerboard.start(4, 0), 5, permutation="none"),
    }
    print(json_text(result))
    return result
