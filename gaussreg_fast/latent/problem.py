"""What the loop is given, and what it tells: samples, the problem, a record of every iterate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gaussreg_fast.latent.guards import Guard

if TYPE_CHECKING:
    from gaussreg_fast.latent.models import LatentModel
    from gaussreg_fast.latent.rewards import RewardSum

RUNNING, STOPPED, FAILED = 0, 1, 2
STATUS = ("running", "stopped", "failed")


@dataclass(frozen=True)
class Sample:
    """One noise to optimise: a prompt, and the seed its noise is drawn from."""

    index: int
    prompt: str
    seed: int


@dataclass(frozen=True)
class Problem:
    """What is optimised, and how; the same for every batch of a run.

    Attributes:
        model: noise to image, see `models.LatentModel`.
        rewards: their weighted sum is maximised; None: the guard alone moves the noise.
        guard: what keeps the noise Gaussian.
        optimizer: makes a torch optimiser for the latents. Elementwise ones (SGD, Adam, AdamW)
            keep the samples of a batch independent of each other.
        iterations: steps; the iterates are one more.
        held_out: rewards that are only looked at.
        clip: largest l2 norm of a sample's gradient, None for no limit.
        select: see `Selection`.
        p_value: the level of "still Gaussian" for `select="gaussianity"`.
        patience: a sample stops after so many evaluations without a better iterate; None: never.
        evaluate_every: iterations between evaluations of held-out rewards and p-values.
        seed: of the guard's random permutations.
    """

    model: LatentModel
    rewards: RewardSum | None
    guard: Guard
    optimizer: Callable[[list[Tensor]], torch.optim.Optimizer]
    iterations: int
    held_out: RewardSum | None = None
    clip: float | None = None
    select: str = "gaussianity"
    p_value: float = 0.01
    patience: int | None = None
    evaluate_every: int = 1
    seed: int = 0


@dataclass(frozen=True)
class Record:
    """One iterate of a batch, before its step is taken.

    Attributes:
        iteration: 0 is the starting noise.
        samples: those still running, B' of them.
        values: column -> (B',) float64 on the CPU; NaN where it was not evaluated.
        status: what became of each, an index into `STATUS`, (B',).
        latents: (B', *latent), float32.
        images: (B', 3, H, W) in [0, 1].
    """

    iteration: int
    samples: tuple[Sample, ...]
    values: dict[str, Tensor]
    status: Tensor
    latents: Tensor
    images: Tensor


def starting_noise(samples: Sequence[Sample], shape: Sequence[int]) -> Tensor:
    """N(0, 1), (B, *shape) float32 on the CPU: a sample's noise depends on its seed alone."""
    draws = [
        torch.randn(*shape, generator=torch.Generator("cpu").manual_seed(sample.seed))
        for sample in samples
    ]
    return torch.stack(draws)


def sampler_seed(seed: int) -> int:
    """The seed of the noise that a sampler of several steps adds by itself.

    Another than the starting noise's: from the same seed it would draw the same numbers.
    """
    return (seed ^ 0x9E3779B97F4A7C15) % 2**63
