"""The input and output of the loop: samples, the problem, and a record of every iterate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gaussreg_fast import _ambient
from gaussreg_fast.latent.guards import Guard

if TYPE_CHECKING:
    from gaussreg_fast.latent.models import LatentModel
    from gaussreg_fast.latent.rewards import RewardSum

RUNNING, STOPPED, FAILED = 0, 1, 2
STATUS = ("running", "stopped", "failed")


@dataclass(frozen=True)
class Sample:
    """One noise to optimise: a prompt, and the seed from which its noise is drawn."""

    index: int
    prompt: str
    seed: int


@dataclass(frozen=True)
class Problem:
    """The objective and how it is optimised; the same for every batch of a run.

    Attributes:
        model: noise to image, see `models.LatentModel`.
        rewards: their weighted sum is maximised; with None the guard alone moves the noise.
        guard: keeps the noise Gaussian.
        optimizer: makes a torch optimiser for the latents. Elementwise ones (SGD, Adam, AdamW)
            keep the samples of a batch independent of each other.
        iterations: number of steps; there is one iterate more.
        held_out: rewards that are evaluated but not maximised.
        clip: largest l2 norm of a sample's gradient; None sets no limit.
        select: how the best iterate is chosen, see `Selection`.
        p_value: smallest p-value that passes as Gaussian for `select="gaussianity"`.
        patience: evaluations without a better iterate after which a sample stops; None: no limit.
        evaluate_every: iterations between evaluations of held-out rewards and p-values.
        seed: seed of the guard's random permutations.

    Raises:
        InputError: the guard cannot take the model's latents.
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

    def __post_init__(self) -> None:
        shape, device = self.model.latent_shape, self.model.device
        with _ambient.recordable():
            self.guard.check(torch.empty(0, *shape, dtype=torch.float32, device=device))


@dataclass(frozen=True)
class Record:
    """One iterate of a batch, before its step is taken.

    Attributes:
        iteration: 0 is the starting noise.
        samples: the B' samples that are still running.
        values: column -> (B',) float64 on the CPU; NaN where it was not evaluated.
        status: (B',) int64, each sample's index into `STATUS`.
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
    """Draw N(0, 1) noise, (B, *shape) float32 on the CPU, from each sample's seed alone."""
    draws = [
        torch.randn(
            *shape,
            generator=torch.Generator("cpu").manual_seed(sample.seed),
            dtype=torch.float32,
            device="cpu",
        )
        for sample in samples
    ]
    return torch.stack(draws)


def sampler_seed(seed: int) -> int:
    """Return the seed of the noise that a sampler of several steps adds by itself.

    It differs from the starting noise's seed, because the same seed would draw the same numbers.
    """
    return (seed ^ 0x9E3779B97F4A7C15) % 2**63
