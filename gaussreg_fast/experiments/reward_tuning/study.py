"""Fine-tuning on a reward under three divergences (Tang and Zhou, arXiv 2403.06279).

The model q that maximises the reward minus alpha times D_f(q || p) is the pretrained p tilted by
weights of the reward, exp(rt / alpha) with the surrogate reward rt. The experiment draws samples of
p, weights them, and trains the embedded digits model on them by their weights: this reaches the
optimum of stochastic control by regression. Every divergence gets the alpha at which its weights
earn the same reward, so that divergences differ only in how much they keep of p's diversity, its
agreement with the prompts, and its paths.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gaussreg_fast import surrogate_reward
from gaussreg_fast.digits import PROMPTS, REWARDS
from gaussreg_fast.digits.stages import fit
from gaussreg_fast.experiments.digits_model import DigitsModel
from gaussreg_fast.experiments.measures import agreement, every_prompt

KINDS = ("kl", "gamma", "forward_kl")
BISECTIONS = 50  # more than enough for float64, from a bracket of six decades


@dataclass(frozen=True)
class Design:
    """The experiment.

    Attributes:
        reward: key in `gaussreg_fast.digits.REWARDS`.
        gains: gains in mean reward that the weights are to earn, in standard deviations of p's
            rewards within a prompt.
        gamma: parameter of the divergence "gamma".
        pool: samples of p for each prompt, to be weighted and trained on.
        drawn: samples for each prompt by which a trained model is measured.
        ddim_steps: steps of the sampler, with eta = 1.
        steps: training steps, on `batch` samples each.
        lr: largest learning rate of the training.
    """

    reward: str = "digits-slant"
    gains: tuple[float, ...] = (0.75, 1.25)
    gamma: float = 0.5
    pool: int = 128
    drawn: int = 40
    ddim_steps: int = 12
    steps: int = 80
    lr: float = 3e-4
    batch: int = 64
    seed: int = 0


@dataclass(frozen=True)
class Arm:
    """A divergence and the gain that it is to earn; without one, the control: unweighted samples.

    The control shows how much training on a model's own samples changes it without any reward.
    """

    kind: str | None = None
    gain: float = 0.0

    @property
    def name(self) -> str:
        """Name of the arm in the table."""
        return f"{self.kind}, {self.gain:g}" if self.kind else "control"


def arms(design: Design) -> list[Arm]:
    """Return the control, and every divergence at every gain."""
    return [Arm(), *(Arm(kind, gain) for gain in design.gains for kind in KINDS)]


@dataclass(frozen=True)
class Tilt:
    """The weights of p's samples.

    Attributes:
        alpha: the temperature; NaN for the control.
        weights: (N,) float64, of mean 1 within each prompt.
    """

    alpha: float
    weights: Tensor


@dataclass(frozen=True)
class Sampled:
    """Samples in the order of prompts.

    Attributes:
        images: (N, 1, 16, 16) in [0, 1].
        reward: (N,).
        agreement: (N,) share of the held-out classifiers that agree with the prompt.
        path_kl: (N,) path KL from p in nats; 0 for samples of p.
    """

    images: Tensor
    reward: Tensor
    agreement: Tensor
    path_kl: Tensor


class RewardTuning:
    """The experiment: p's samples, their tilts, and models trained on them.

    Attributes:
        pool: samples of p to be weighted.
        before: other samples of p, from the noises with which trained models are measured.
    """

    def __init__(self, design: Design) -> None:
        self.design = design
        self.model = DigitsModel()
        self._hidden = self.model.embed(PROMPTS)
        self._latents, self.pool = self._sample(self.model.pretrained, design.pool, design.seed)
        self.before = self.draw(self.model.pretrained)
        self._group = torch.arange(len(PROMPTS), dtype=torch.int64, device="cpu").repeat_interleave(
            design.pool
        )

    @property
    def scale(self) -> float:
        """Standard deviation of p's rewards within a prompt, averaged over prompts."""
        return self.pool.reward.view(len(PROMPTS), -1).std(1).mean().item()

    def tilt(self, arm: Arm) -> Tilt:
        """Find the alpha at which the weights of p's samples earn the arm's gain."""
        if arm.kind is None:
            return Tilt(math.nan, torch.ones_like(self.pool.reward, dtype=torch.float64))
        wanted = self.pool.reward.mean().item() + arm.gain * self.scale
        low, high = math.log(1e-3 * self.scale), math.log(1e3 * self.scale)
        for _ in range(BISECTIONS):  # a smaller alpha earns more
            middle = (low + high) / 2
            weights = self._weights(arm.kind, math.exp(middle))
            earned = (weights * self.pool.reward).mean().item()
            low, high = (middle, high) if earned > wanted else (low, middle)
        return Tilt(math.exp(middle), weights)

    def _weights(self, kind: str, alpha: float) -> Tensor:
        surrogate = surrogate_reward(
            self.pool.reward.double(),
            kind,
            alpha=alpha,
            gamma=self.design.gamma,
            group=self._group,
        )
        return (surrogate / alpha).exp()

    def train(self, tilt: Tilt, advance: Callable[[], None]) -> nn.Module:
        """Train p's UNet on the samples by their weights; `advance` is called every step."""
        design, unet = self.design, self.model.copy()
        generator = torch.Generator().manual_seed(design.seed)
        hidden = self._hidden[self._group]

        def loss() -> Tensor:
            drawn = torch.multinomial(tilt.weights, design.batch, True, generator=generator)
            parts = self._latents[drawn], hidden[drawn]
            return self.model.denoising_loss(unet, *parts, generator).mean()

        fit(unet.parameters(), loss, design.steps, design.lr, lambda _: advance())
        return unet.eval().requires_grad_(False)

    def draw(self, unet: nn.Module) -> Sampled:
        """Draw samples of a model, always from the same noises, which are not the pool's."""
        return self._sample(unet, self.design.drawn, self.design.seed + 1)[1]

    def _sample(self, unet: nn.Module, each: int, seed: int) -> tuple[Tensor, Sampled]:
        hidden = self._hidden.repeat_interleave(each, 0)
        pretrained = self.model.pretrained
        base = None if unet is pretrained else pretrained
        steps = self.design.ddim_steps
        latents, kl = self.model.sample(unet, hidden, steps=steps, eta=1.0, seed=seed, base=base)
        images = self.model.decode(latents)
        prompts = every_prompt(each)
        reward = REWARDS[self.design.reward]()(images.expand(-1, 3, -1, -1), prompts)
        if kl is None:
            kl = torch.zeros(len(images), dtype=torch.float32, device="cpu")
        return latents, Sampled(images, reward, agreement(images, prompts), kl)
