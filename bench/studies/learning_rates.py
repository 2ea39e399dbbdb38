"""Choose the learning rates of the checkerboard experiment: every guard at every rate.

    python -m bench study learning_rates [--out bench/results/learning_rates.json]

A guard gets the rate that leaves the least of the pattern, in absolute value, with the variance
within 5 % of 1. The seed differs from the experiment's.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from gaussreg_fast.experiments.checkerboard import study as checkerboard

SEED = 101
SAMPLES = 2
ITERATIONS = 100
RATES = {
    "Adam": (torch.optim.Adam, {}, (0.01, 0.03, 0.1, 0.2, 0.3)),
    "AdamW": (torch.optim.AdamW, {"weight_decay": 0.0}, (0.01, 0.03, 0.1, 0.2, 0.3)),
    "SGD": (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}, (3.0, 5.0, 10.0, 20.0, 40.0)),
}
OPTIMIZERS = {"PRNO": ("AdamW",), "MPGR": ("Adam", "SGD")}


def trial(method: checkerboard.Method, make: Callable[..., Any], lr: float) -> dict[str, float]:
    tried = replace(method, optimizer=partial(make, lr=lr))
    x0 = checkerboard.start(SAMPLES, SEED)
    outcome = checkerboard.run(tried, x0, ITERATIONS, SEED, lambda: None)
    return {
        "p_value": outcome.p_value,
        "lag1": outcome.lag1,
        "m2": outcome.moments[1],
        "pattern_left": outcome.pattern,
        "cosine_to_start": outcome.cosine,
    }


def best(trials: dict[str, dict[str, float]]) -> str:
    sane = {name: t for name, t in trials.items() if abs(t["m2"] - 1) < 0.05}
    return min(sane, key=lambda name: abs(sane[name]["pattern_left"]))


def run(_: argparse.Namespace) -> dict[str, Any]:
    guards: dict[str, Any] = {}
    for method in checkerboard.methods():
        if method.optimizer is None:
            continue
        trials = {}
        for optimizer in OPTIMIZERS.get(method.name, ("Adam",)):
            make, options, rates = RATES[optimizer]
            for lr in rates:
                trials[f"{optimizer} {lr:g}"] = trial(method, partial(make, **options), lr)
        guards[method.name] = {"best": best(trials), "trials": trials}
        print(f"{method.name}: {best(trials)}")
        for name, t in trials.items():
            print(f"  {name:10}", "  ".join(f"{key} {value:.3g}" for key, value in t.items()))
    return {"seed": SEED, "samples": SAMPLES, "guards": guards}
