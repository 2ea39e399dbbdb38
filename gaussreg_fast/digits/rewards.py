"""Differentiable rewards for the digits, and held-out measures that no reward buys.

Targets: ink, slant and thickness, which want what the prompt does not, and the probability of the
prompt's digit. Held out: its probability by two other classifiers, of other architectures and each
trained on another half of the digits, and the distance to the nearest real digit.
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
        name: as in `REWARDS`.
        score: (B, 3, 16, 16) images and B prompts to (B,).
    """

    name: str
    score: Score

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Sample i's reward, of image i and prompt i alone.

        Args:
            images: (B, 3, H, W) in [0, 1]; another size than 16 x 16 is resized, bilinear and
                antialiased. Computed in float32, in float64 if they are.
            prompts: B of them.

        Returns:
            (B,) float32, or float64 for float64 images.

        Raises:
            InputError: images of another shape or of integers, another number of prompts, or a
                prompt that does not name one digit where the reward needs it.
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
    """Mean brightness, in [0, 1]; real digits have about 0.3. Most at a blank white image."""
    return images.mean(dim=(1, 2, 3))


def slant(images: Tensor, prompts: Sequence[str]) -> Tensor:
    """How far the ink leans to the right, in [-1, 1]; upright is 0, a line at 45 degrees 1.

    Twice the mixed second moment of the ink over the sum of the others: the sine of twice the lean
    of the principal axis, times how elongated the ink is. Most at a diagonal stroke, whatever the
    digit. An image without ink has 0.
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
    """Mean width of the strokes in pixels, 0 to about 8.5; real digits have about 3.4.

    Twice the ink over the length of its outline, the sum of the brightness's gradient, smooth at
    zero; paper is around the image. Does not depend on the contrast much. Most at one big blob.
    """
    grey = F.pad(images.mean(dim=1), (1, 1, 1, 1))
    # Differences on the corners between pixels, by Roberts' cross turned by 45 degrees.
    down, across = grey.diff(dim=1), grey.diff(dim=2)
    down = (down[:, :, 1:] + down[:, :, :-1]) / 2
    across = (across[:, 1:] + across[:, :-1]) / 2
    steepness = (down.square() + across.square() + 1e-4).sqrt() - 1e-2
    return 2 * grey.sum(dim=(1, 2)) / (steepness.sum(dim=(1, 2)) + 1e-2)


def _digits_of(prompts: Sequence[str], device: torch.device) -> Tensor:
    return torch.tensor([digit_of(prompt) for prompt in prompts], device=device)


@functools.lru_cache(maxsize=16)
def _classifier(name: str, device: torch.device, dtype: torch.dtype) -> nn.Module:
    return load_classifier(name, WEIGHTS / "classifiers.safetensors", device, dtype)


def class_probability(name: str, images: Tensor, prompts: Sequence[str]) -> Tensor:
    """Log-probability of the prompt's digit by the classifier `name`, -inf to 0.

    Real digits that it has not seen have about -0.03. It wants what the prompt says, until what it
    takes for the digit is none: a classifier can be fooled, hence the held-out ones.
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
    """Minus the distance to the nearest real digit of the prompt's class, -1 to 0.

    The root mean square over pixels and colours; for a real digit and the nearest other one about
    -0.11. Wants what the prompt says, and no more ink or slant than real digits have.
    """
    references = _references(images.device, images.dtype)
    distances = [
        # The gradient of a root is infinite at zero: where an image is a real digit.
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
