"""scikit-learn's 8 x 8 digits, resized to 16 x 16, their split, and their random deformations.

Data: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning
Repository, 1998, doi:10.24432/C50P49 (CC BY 4.0); scikit-learn ships its test part, 1797 digits.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gaussreg_fast.errors import InputError

SIZE = 16
LEVELS = 16  # grey levels above black in scikit-learn's digits


@dataclass(frozen=True)
class Digits:
    """Handwritten digits with scikit-learn's pixel values.

    Attributes:
        pixels: (N, 8, 8) uint8, 0 (paper) to 16 (ink).
        labels: (N,) int64, 0 to 9.
    """

    pixels: Tensor
    labels: Tensor

    def images(self) -> Tensor:
        """Resize to (N, 1, 16, 16) float32 in [0, 1], antialiased bicubic."""
        small = self.pixels[:, None].float() / LEVELS
        large = F.interpolate(small, size=(SIZE, SIZE), mode="bicubic", antialias=True)
        return large.clamp(0, 1)

    def take(self, index: Tensor) -> Digits:
        """Return the digits at `index`, (n,) int64."""
        return Digits(self.pixels[index], self.labels[index])

    def save(self, path: Path) -> None:
        """Write the digits to a safetensors file."""
        from safetensors.torch import save_file

        labels = self.labels.to(torch.uint8)
        save_file({"pixels": self.pixels.contiguous(), "labels": labels}, path)

    @classmethod
    def load(cls, path: Path) -> Digits:
        """Read a file that `save` wrote."""
        from safetensors.torch import load_file

        content = load_file(path)
        return cls(content["pixels"], content["labels"].long())


@dataclass(frozen=True)
class Split:
    """Indices, (n,) int64 each, of the digits for each use.

    `first` and `second` are the halves of `train`, one for each held-out classifier; `mixed`, for
    the target classifier, is half of each. No training sees `test`.
    """

    train: Tensor
    first: Tensor
    second: Tensor
    mixed: Tensor
    test: Tensor


def sklearn_digits() -> Digits:
    """Load all 1797 digits from scikit-learn, which ships them.

    Raises:
        InputError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise InputError(
            "training the digits needs scikit-learn: pip install 'gaussreg_fast[train]'"
        ) from error
    bunch = load_digits()
    pixels = torch.from_numpy(bunch.images).to(torch.uint8)
    return Digits(pixels, torch.from_numpy(bunch.target).long())


def split(labels: Tensor, seed: int, test_share: float = 0.2) -> Split:
    """Split the digits at random, with the same share of every class in each part."""
    generator = torch.Generator().manual_seed(seed)
    parts: dict[str, list[Tensor]] = {name: [] for name in ("test", "first", "second", "mixed")}
    for label in labels.unique().tolist():
        index = (labels == label).nonzero()[:, 0]
        index = index[torch.randperm(len(index), generator=generator, device="cpu")]
        tests = round(test_share * len(index))
        first, second = index[tests:].chunk(2)
        parts["test"].append(index[:tests])
        parts["first"].append(first)
        parts["second"].append(second)
        parts["mixed"] += [first[::2], second[::2]]
    whole = {name: torch.cat(indices) for name, indices in parts.items()}
    return Split(train=torch.cat([whole["first"], whole["second"]]), **whole)


def deform(images: Tensor, generator: torch.Generator, strength: float = 1.0) -> Tensor:
    """Rotate, shear, scale and shift images at random, with paper around them.

    Args:
        images: (B, 1, H, W) float, paper at 0.
        generator: on the CPU, so that every device gets the same deformations.
        strength: 1 rotates by up to 10 degrees, shears by 0.15, scales by 10 %, shifts by 1/16.
    """

    def uniform(limit: float) -> Tensor:
        draws = torch.rand(len(images), generator=generator, dtype=torch.float32, device="cpu")
        return ((2 * draws - 1) * limit * strength).to(images)

    angle, shear = uniform(0.175), uniform(0.15)
    wide, high = 1 + uniform(0.1), 1 + uniform(0.1)
    cos, sin = angle.cos(), angle.sin()
    rows = [
        torch.stack([cos * wide, (shear * cos - sin) * high, uniform(0.125)], dim=1),
        torch.stack([sin * wide, (shear * sin + cos) * high, uniform(0.125)], dim=1),
    ]
    grid = F.affine_grid(torch.stack(rows, dim=1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="zeros", align_corners=False)


def blemish(images: Tensor, generator: torch.Generator) -> Tensor:
    """Change the contrast (by 0.6 to 1.2) and add noise (up to 0.1), at random, within [0, 1].

    `images` are (B, 1, H, W).
    """
    shape = (len(images), 1, 1, 1)
    new: dict[str, Any] = {"generator": generator, "dtype": torch.float32, "device": "cpu"}
    contrast = 0.6 + 0.6 * torch.rand(shape, **new)
    level = 0.1 * torch.rand(shape, **new)
    noise = torch.randn(images.shape, **new)
    return (images * contrast.to(images) + (level * noise).to(images)).clamp(0, 1)
