"""Measures of images of digits that no experiment trains for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from gaussreg_fast.digits import PROMPTS, REWARDS
from gaussreg_fast.digits.measures import nearest, spread
from gaussreg_fast.experiments.statistics import interval

CLASSIFIERS = ("digits-class-a", "digits-class-b")
EVEN = -0.6931471805599453  # log(0.5)
DRAWS = 500  # bootstrap resamples: some 12 lie beyond each end of a 95 % interval


@torch.no_grad()
def agreement(grey: Tensor, prompts: Sequence[str]) -> Tensor:
    """Return the share of held-out classifiers that give the prompt's digit over 50 %, (B,)."""
    colour = grey.expand(-1, 3, -1, -1)
    votes = [REWARDS[name]()(colour, prompts) > EVEN for name in CLASSIFIERS]
    return torch.stack(votes).double().mean(0)


@torch.no_grad()
def nearer_to_prompt(grey: Tensor, prompts: Sequence[str], others: Tensor) -> Tensor:
    """Return whether the prompt's nearest real digit is nearer than all `others`, (B,) bool."""
    colour = grey.expand(-1, 3, -1, -1)
    return -REWARDS["digits-nearest"]()(colour, prompts) < nearest(grey, others)


def spreads(grey: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the `spread` within each prompt, (10,), of images in the order of prompts."""
    parts = grey.chunk(len(PROMPTS))
    if weights is None:
        return torch.stack([spread(part) for part in parts])
    chunks = weights.chunk(len(PROMPTS))
    return torch.stack([spread(part, w) for part, w in zip(parts, chunks, strict=True)])


def every_prompt(each: int) -> list[str]:
    """Return the ten prompts, each repeated `each` times."""
    return [prompt for prompt in PROMPTS for _ in range(each)]


def resamples(samples: int) -> Tensor:
    """Draw bootstrap counts, (DRAWS, samples), resampled within each prompt."""
    each = samples // len(PROMPTS)
    counts = np.random.default_rng(0).multinomial(
        each, np.full(each, 1 / each), size=(DRAWS, len(PROMPTS))
    )
    return torch.from_numpy(counts.reshape(DRAWS, samples)).double()


def estimate(value: float, draws: Sequence[float] | np.ndarray) -> dict[str, float]:
    """Return a value with its 95 % interval from bootstrap draws of it."""
    low, high = interval(np.asarray(draws))
    return {"value": value, "low": low, "high": high}


def mean_estimate(values: Tensor) -> dict[str, float]:
    """Return the mean of (B,) values, in the order of prompts, with its 95 % interval."""
    values = values.double()
    draws = resamples(len(values)) @ values / len(values)
    return estimate(values.mean().item(), draws.numpy())
