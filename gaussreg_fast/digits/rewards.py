"""Differentiable rewards for the digits, and measures to hold out.

Targets: ink, slant and thickness, which conflict with the prompt, and the probability of the
prompt's digit. To hold out: its probability by two other classifiers, of other architectures and
each trained on another half of the digits, and the distance to the nearest real digit.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gaussreg_fast.digits import WEIGHTS
from gaussreg_fast.digits.classifiers import load_classifier, log_probabilities
from gaussreg_fast.digits.data import SIZE, Digits
from gaussreg_fast.digits.words import digit_of
from gaussreg_fast.errors import InputError

Score = Callable[[Tensor, Sequence[str]], Tensor]


@dataclass
class DigitReward:
    """A reward of images and prompts; higher is better.

    Attributes:
        name: key in `REWARDS`.
        score: (B, 3, 16, 16) images and B prompts to (B,).
    """

    name: str
    score: Score

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Score images; reward i depends on image i and prompt i alone.

        Args:
            images: (B, 3, H, W) floating in [0, 1]; another size than 16 x 16 is resized, bilinear
                and antialiased. Computed in float32, or in float64 for float64 images.
            prompts: B prompts.

        Returns:
            (B,) float32, or float64 for float64 images.

        Raises:
            InputError: the images have another shape or are integers, there is another number of
                prompts, or the reward needs a prompt with one digit and got another.
        """
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise InputError(
                f"images must be floating-point (B, 3, H, W), got {images.dtype} "
                f"{tuple(images.shape)}"
            )
        if isinstance(prompts, str) or len(prompts) != len(images):
            got = "one string" if isinstance(prompts, str) else str(len(prompts))
            raise InputError(f"prompts must be {len(images)}, one for each image, got {got}")
        if images.dtype != torch.float64:
            images = images.float()
        if images.shape[2:] != (SIZE, SIZE):
            images = F.interpolate(images, (SIZE, SIZE), mode="bilinear", antialias=True)
        return self.score(images, prompts)


def ink(images: Tensor, prompts: Sequence[str]) -> Tensor:
    """Return the mean brightness, in [0, 1]: about 0.3 for real digits, 1 for a white image."""
    return images.mean(dim=(1, 2, 3))


def slant(images: Tensor, prompts: Sequence[str]) -> Tensor:
    """Return how far the ink leans to the right, in [-1, 1]; upright is 0, 45 degrees is 1.

    It is twice the mixed second moment of the ink over the sum of the pure ones: the sine of twice
    the lean of the principal axis, times the elongation of the ink. A diagonal stroke maximises it,
    whatever the digit. An image without ink has 0.
    """
    grey = images.mean(dim=1)
    grey = grey / (grey.sum(dim=(1, 2), keepdim=True) + 1e-6)
    right = torch.arange(SIZE, dtype=grey.dtype, device=grey.device)
    up = right.flip(0)[:, None]

    def mean(values: Tensor) -> Tensor:
        return (grey * values).sum(dim=(1, 2), keepdim=True)

    x, y = right - mean(right), up - mean(up)
    return (2 * mean(x * y) / (mean(x * x) + mean(y * y) + 1e-6))[:, 0, 0]


def thickness(images: Tensor, prompts: Sequence[str]) -> Tensor:
    """Return the mean width of the strokes in pixels, 0 to about 8.5; real digits have about 3.4.

    It is twice the ink over the length of its outline, which is the sum of the brightness's
    gradient, smoothed at zero, with paper around the image. It hardly depends on the contrast. One
    big blob maximises it.
    """
    grey = F.pad(images.mean(dim=1), (1, 1, 1, 1))
    # Differences at the corners between pixels: Roberts' cross, turned by 45 degrees.
    down, across = grey.diff(dim=1), grey.diff(dim=2)
    down = (down[:, :, 1:] + down[:, :, :-1]) / 2
    across = (across[:, 1:] + across[:, :-1]) / 2
    steepness = (down.square() + across.square() + 1e-4).sqrt() - 1e-2
    return 2 * grey.sum(dim=(1, 2)) / (steepness.sum(dim=(1, 2)) + 1e-2)


def _digits_of(prompts: Sequence[str], device: torch.device) -> Tensor:
    return torch.tensor([digit_of(prompt) for prompt in prompts], dtype=torch.int64, device=device)


@functools.lru_cache(maxsize=16)
def _classifier(name: str, device: torch.device, dtype: torch.dtype) -> nn.Module:
    return load_classifier(name, WEIGHTS / "classifiers.safetensors", device, dtype)


def class_probability(name: str, images: Tensor, prompts: Sequence[str]) -> Tensor:
    """Return the log-probability of the prompt's digit by the classifier `name`, -inf to 0.

    Unseen real digits have about -0.03. The reward agrees with the prompt, but an optimised image
    can fool its classifier, which is why others are held out.
    """
    digits = _digits_of(prompts, images.device)
    classifier = _classifier(name, images.device, images.dtype)
    scores = log_probabilities(classifier, images.mean(dim=1, keepdim=True))
    return scores.gather(1, digits[:, None])[:, 0]


@functools.lru_cache(maxsize=8)
def _references(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, ...]:
    real = Digits.load(WEIGHTS / "digits.safetensors")
    images = real.images().to(device=device, dtype=dtype).flatten(1)
    return tuple(images[real.labels.to(device) == digit] for digit in range(10))


def nearest(images: Tensor, prompts: Sequence[str]) -> Tensor:
    """Return minus the distance to the nearest real digit of the prompt's class, -1 to 0.

    The distance is the root mean square over pixels and colours, about 0.11 between a real digit
    and the nearest other one. The reward agrees with the prompt, and with the ink and slant of real
    digits.
    """
    references = _references(images.device, images.dtype)
    distances = [
        # 1e-12 keeps the root's gradient finite where an image equals a real digit.
        (image.flatten(1) - references[digit_of(prompt)][:, None])
        .square()
        .mean(dim=(1, 2))
        .amin()
        .add(1e-12)
        .sqrt()
        for image, prompt in zip(images, prompts, strict=True)
    ]
    return -torch.stack(distances)


SCORES: dict[str, Score] = {
    "digits-ink": ink,
    "digits-slant": slant,
    "digits-thickness": thickness,
    "digits-class": functools.partial(class_probability, "target"),
    "digits-class-a": functools.partial(class_probability, "a"),
    "digits-class-b": functools.partial(class_probability, "b"),
    "digits-nearest": nearest,
}
