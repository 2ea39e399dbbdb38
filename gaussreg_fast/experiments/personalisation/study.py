"""Personalisation on a few images, with and without parameter drift (P&P, arXiv 2505.19519).

The embedded digits model is taught a sign it has never seen, mirrored sevens, from four images and
a prompt of their own. During the training three measures show how well it learns the sign and how
much it still knows of the ten digits: the distance to mirrored sevens that it was not shown, the
votes of two classifiers, and the distance to the pretrained model's images from the same noises.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from gaussreg_fast import DriftDecay, ParameterDrift, parameter_drift
from gaussreg_fast.digits import PROMPTS, WEIGHTS
from gaussreg_fast.digits.data import Digits
from gaussreg_fast.experiments.digits_model import DigitsModel
from gaussreg_fast.experiments.measures import (
    agreement,
    every_prompt,
    nearer_to_prompt,
    nearest,
    spreads,
)

SEVEN = 7


@dataclass(frozen=True)
class Design:
    """The experiment.

    Attributes:
        prompt: prompt of the new sign; "sks" means nothing to the model.
        images: number of images of the new sign that the model is shown.
        measured: steps of AdamW after which to measure; the last ends the training. They are dense
            at the beginning, because stopping early is the guard that costs nothing.
        batch: noised copies of the images in a step.
        per_prompt: images drawn for each of the ten prompts at a measurement; the new prompt gets
            twice as many.
        ddim_steps: steps of the sampler, without guidance.
    """

    prompt: str = "a handwritten sks seven"
    images: int = 4
    measured: tuple[int, ...] = (10, 20, 40, 80, 160, 240)
    batch: int = 16
    per_prompt: int = 16
    ddim_steps: int = 8
    seed: int = 0


@dataclass(frozen=True)
class Arm:
    """A way to keep the model near its base: nothing, a penalty in the loss, or decoupled decay.

    Attributes:
        how: "penalty" is `ParameterDrift` with `reduction="tensor_mean"`, the scale of P&P's
            published weights; "decay" is `DriftDecay` with "sum", which pulls all parameters alike.
        weight: weight of the penalty or decay.
        lr: learning rate of AdamW. A smaller one is also a guard, because it forgets less.
    """

    how: Literal["nothing", "penalty", "decay"] = "nothing"
    weight: float = 0.0
    lr: float = 1e-4

    @property
    def name(self) -> str:
        """Name of the arm in the table."""
        return f"{self.how} {self.weight:g}" if self.weight else f"{self.how}, lr {self.lr:g}"


ARMS = (
    Arm(lr=5e-4),
    Arm(lr=1e-4),
    Arm(lr=5e-5),
    Arm("penalty", 200),
    Arm("decay", 50),
)


@dataclass
class Course:
    """The measures of an arm before and during the training.

    Attributes:
        steps: (K,) steps of training before each measurement.
        distance: (K,) mean distance from the new sign's images to the nearest one not shown.
        known: (K, 10 n) per image of the ten prompts, in their order: the share of the classifiers
            that find the prompt's digit in it; 0 if it is nearer to the new sign.
        spread: (K,) mean distance of two images of a digit.
        moved: (K,) distance of the digits' images from the pretrained model's, root mean square.
        drift: (K,) `parameter_drift` from the base, of weight 1 and "sum".
        pictures: (12, 16, 16), one of each digit and two of the new sign, at the end.
        seconds: duration of the training and its measurements.
    """

    arm: Arm
    steps: list[int] = field(default_factory=list)
    distance: list[float] = field(default_factory=list)
    known: list[Tensor] = field(default_factory=list)
    spread: list[float] = field(default_factory=list)
    moved: list[float] = field(default_factory=list)
    drift: list[float] = field(default_factory=list)
    pictures: Tensor = field(
        default_factory=lambda: torch.empty(0, dtype=torch.float32, device="cpu")
    )
    seconds: float = 0.0


class Personalisation:
    """The experiment's data and model; `run` trains one arm from the same start.

    Attributes:
        shown, held_out: mirrored sevens, (n, 1, 16, 16), that the model sees and does not see.
        before: the pretrained model's images from the prompts and noises of every measurement.
    """

    def __init__(self, design: Design) -> None:
        self.design = design
        self.model = DigitsModel()
        digits = Digits.load(WEIGHTS / "digits.safetensors")
        mirrored = digits.images()[digits.labels == SEVEN].flip(-1)
        generator = torch.Generator().manual_seed(design.seed)
        order = torch.randperm(len(mirrored), generator=generator, device="cpu")
        self.shown, self.held_out = mirrored[order].tensor_split([design.images])
        self._latents = self.model.encode(self.shown)
        concept = self.model.embed([design.prompt])
        self._concept = concept.expand(design.batch, -1, -1)
        n = design.per_prompt
        digits_of = self.model.embed(PROMPTS).repeat_interleave(n, 0)
        self._drawn = torch.cat([digits_of, concept.expand(2 * n, -1, -1)])
        self.before = self._draw(self.model.pretrained)

    @property
    def best_distance(self) -> float:
        """Mean distance of the shown images to the nearest one not shown."""
        return nearest(self.shown, self.held_out).mean().item()

    def run(self, arm: Arm, advance: Callable[[], None]) -> Course:
        """Fine-tune a copy of the UNet; `advance` is called after every step."""
        began = time.perf_counter()
        design, unet, base = self.design, self.model.copy(), self.model.pretrained
        optimizer = torch.optim.AdamW(unet.parameters(), lr=arm.lr, weight_decay=0)
        penalty = None
        if arm.how == "penalty":
            penalty = ParameterDrift(unet, weight=arm.weight, reduction="tensor_mean")
        elif arm.how == "decay":
            DriftDecay(optimizer, unet, base, weight=arm.weight)
        generator = torch.Generator().manual_seed(design.seed)
        course = Course(arm)
        self._measure(unet, 0, course)
        for step in range(1, design.measured[-1] + 1):
            optimizer.zero_grad()
            self._loss(unet, generator).backward()
            if penalty is not None:
                penalty.accumulate(unet)
            nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
            optimizer.step()
            if step in design.measured:
                self._measure(unet, step, course)
            advance()
        course.seconds = time.perf_counter() - began
        return course

    def _loss(self, unet: UNet2DConditionModel, generator: torch.Generator) -> Tensor:
        batch = self.design.batch
        chosen = torch.arange(batch, dtype=torch.int64, device="cpu") % len(self.shown)
        mean, deviation = (part[chosen] for part in self._latents)
        clean = mean + deviation * torch.randn(
            mean.shape, generator=generator, dtype=torch.float32, device="cpu"
        )
        return self.model.denoising_loss(unet, clean, self._concept, generator).mean()

    def _draw(self, unet: nn.Module) -> Tensor:
        """Draw images of the ten prompts and the new one, always from the same noises."""
        latents, _ = self.model.sample(
            unet, self._drawn, steps=self.design.ddim_steps, eta=0.0, seed=self.design.seed + 1
        )
        return self.model.decode(latents)

    def _measure(self, unet: UNet2DConditionModel, step: int, course: Course) -> None:
        images = self._draw(unet)
        count = len(PROMPTS) * self.design.per_prompt
        digits, concept = images[:count], images[count:]
        prompts = every_prompt(self.design.per_prompt)
        own = nearer_to_prompt(digits, prompts, self.held_out)
        course.steps.append(step)
        course.distance.append(nearest(concept, self.held_out).mean().item())
        course.known.append(agreement(digits, prompts) * own)
        course.spread.append(spreads(digits).mean().item())
        moved = (digits - self.before[:count]).square().mean((1, 2, 3)).sqrt()
        course.moved.append(moved.mean().item())
        course.drift.append(parameter_drift(unet, self.model.pretrained).item())
        course.pictures = self.pick(images)

    def pick(self, images: Tensor) -> Tensor:
        """Return the first image of each digit and the first two of the new sign, (12, 16, 16)."""
        return images[:: self.design.per_prompt, 0]
