"""What the examples measure on images of digits, none of it trained for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from gaussreg_fast.digits import PROMPTS, REWARDS
from gaussreg_fast.digits.measures import nearest, spread
from gaussreg_fast.experiments.statistics import interval

CLASSIFIERS = ("digits-class-a", "digits-class-b")
EVEN = -0.6931471805599453  # log of a half
DRAWS = 500


@torch.no_grad()
def agreement(grey: Tensor, prompts: Sequence[str]) -> Tensor:
    """(B,) share of the held-out classifiers that give the prompt's digit more than a half."""
    colour = grey.expand(-1, 3, -1, -1)
    votes = [REWARDS[name]()(colour, prompts) > EVEN for name in CLASSIFIERS]
    return torch.stack(votes).double().mean(0)


@torch.no_grad()
def nearer_to_prompt(grey: Tensor, prompts: Sequence[str], others: Tensor) -> Tensor:
    """(B,) whether the nearest real digit of the prompt is nearer than all of the others."""
    colour = grey.expand(-1, 3, -1, -1)
    return -REWARDS["digits-nearest"]()(colour, prompts) < nearest(grey, others)


def spreads(grey: Tensor, weights: Tensor | None = None) -> Tensor:
    """(10,) `spread` within every prompt, of images that lie prompt by prompt."""
    parts = grey.chunk(len(PROMPTS))
    if weights is None:
        return torch.stack([spread(part) for part in parts])
    chunks = weights.chunk(len(PROMPTS))
    return torch.stack([spread(part, w) for part, w in zip(parts, chunks, strict=True)])


def every_prompt(each: int) -> list[str]:
    """The ten prompts, each so many times, prompt by prompt."""
    return [prompt for prompt in PROMPTS for _ in range(each)]


def resamples(samples: int) -> Tensor:
    """Bootstrap: (DRAWS, samples) how often each is drawn, as many from every prompt as it has."""
    each = samples // len(PROMPTS)
    counts = np.random.default_rng(0).multinomial(
        each, np.full(each, 1 / each), size=(DRAWS, len(PROMPTS))
    )
    return torch.from_numpy(counts.reshape(DRAWS, samples)).double()


def estimate(value: float, draws: Sequence[float] | np.ndarray) -> dict[str, float]:
    """A value with its 95 % interval, of what resamples have in its place."""
    low, high = interval(np.asarray(draws))
    return {"value": value, "low": low, "high": high}


def mean_estimate(values: Tensor) -> dict[str, float]:
    """The mean of (B,) values, prompt by prompt, with its interval."""
    values = values.double()
    draws = resamples(len(values)) @ values / len(values)
    return estimate(values.mean().item(), draws.numpy())
