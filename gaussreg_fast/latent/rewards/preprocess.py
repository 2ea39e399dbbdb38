"""Preprocess image tensors for a checkpoint, differentiably: resize, crop or pad, normalise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor

from gaussreg_fast.errors import InputError
from gaussreg_fast.latent.rewards.batch import at_least_float32

# From OpenAI's clip/clip.py; LAION's CLIP, HPS and ImageReward use the same values.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

_RESAMPLE = {2: "bilinear", 3: "bicubic"}  # PIL's numbers


@dataclass(frozen=True)
class Preprocessing:
    """Maps (B, 3, H, W) in [0, 1] to normalised (B, 3, h, w), float32, or float64 from float64.

    `fit="shortest"` equals transformers' CLIP image processor on a PIL image of 8 bits, except for
    the rounding to 8 bits: an antialiased resize of the shorter side to `size`, saturating to
    [0, 1] after each of its two passes, and a centred crop. Where the cubic filter overshoots, the
    saturation stops the gradient, which is right, because the processor's output is constant
    there. `fit="exact"` resizes to `crop` whatever the aspect. `fit="longest"` resizes the longer
    side to `size` and pads to a square with black; nothing saturates.
    """

    size: int
    crop: tuple[int, int]
    mean: tuple[float, ...] = CLIP_MEAN
    std: tuple[float, ...] = CLIP_STD
    fit: Literal["shortest", "longest", "exact"] = "shortest"
    mode: str = "bicubic"

    @classmethod
    def square(cls, size: int, fit: Literal["shortest", "longest"] = "shortest") -> Preprocessing:
        """Return CLIP's own preprocessing to size x size pixels."""
        return cls(size, (size, size), fit=fit)

    def __call__(self, images: Tensor) -> Tensor:
        """Convert images (B, 3, H, W) in [0, 1] to the model's pixel values (B, 3, h, w)."""
        x = images.to(at_least_float32(images.dtype))
        x = self._pad(self._resize(x)) if self.fit == "longest" else self._crop(self._resize(x))
        return (x - x.new_tensor(self.mean)[:, None, None]) / x.new_tensor(self.std)[:, None, None]

    def _resize(self, x: Tensor) -> Tensor:
        target = self._target(x.shape[-2], x.shape[-1])
        if target == tuple(x.shape[-2:]):
            return x
        for size in ((x.shape[-2], target[1]), target):  # rows first, then columns, like PIL
            x = F.interpolate(x, size=size, mode=self.mode, align_corners=False, antialias=True)
            x = x if self.fit == "longest" else x.clamp(0, 1)
        return x

    def _target(self, height: int, width: int) -> tuple[int, int]:
        if self.fit == "exact":
            return self.crop
        if self.fit == "longest":
            scale = self.size / max(height, width)
            return max(1, round(height * scale)), max(1, round(width * scale))
        short, long = min(height, width), max(height, width)
        longer = int(self.size * long / short)
        return (self.size, longer) if height <= width else (longer, self.size)

    def _crop(self, x: Tensor) -> Tensor:
        height, width = self.crop
        top, left = (x.shape[-2] - height) // 2, (x.shape[-1] - width) // 2
        return x[..., top : top + height, left : left + width]

    def _pad(self, x: Tensor) -> Tensor:
        down, right = self.size - x.shape[-2], self.size - x.shape[-1]
        return F.pad(x, (right // 2, right - right // 2, down // 2, down - down // 2))


def from_config(config: dict[str, Any], image_size: int, where: str) -> Preprocessing:
    """Return the preprocessing that a `preprocessor_config.json` describes.

    Args:
        config: the file's content; {} gives CLIP's own preprocessing at the model's size.
        image_size: side of the square that the model takes, in pixels.
        where: the file, for errors.

    Raises:
        InputError: the resampling is neither bilinear nor bicubic, the size does not cover the
            crop, or the crop is not the model's size.
    """
    fit, size = _size(config.get("size", image_size), where)
    crop = (
        _pair(config.get("crop_size", image_size)) if config.get("do_center_crop", True) else size
    )
    mode = _RESAMPLE.get(config.get("resample", 3))
    if mode is None:
        raise InputError(f"{where}: resample must be one of {_RESAMPLE}, got {config['resample']}")
    if crop != (image_size, image_size) or crop[0] > size[0] or crop[1] > size[1]:
        raise InputError(
            f"{where}: size and crop must give {image_size} x {image_size} pixels, got a resize "
            f"to {size} and a crop to {crop}"
        )
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if config.get("do_normalize", True):
        mean = tuple(config.get("image_mean", CLIP_MEAN))
        std = tuple(config.get("image_std", CLIP_STD))
    return Preprocessing(size[0], crop, mean, std, fit, mode)


def _size(size: Any, where: str) -> tuple[Literal["shortest", "exact"], tuple[int, int]]:
    if isinstance(size, int):
        return "shortest", (size, size)
    if "shortest_edge" in size:
        return "shortest", (size["shortest_edge"], size["shortest_edge"])
    if "height" in size and "width" in size:
        return "exact", _pair(size)
    raise InputError(
        f"{where}: size must be a number, a shortest_edge, or height and width, got {size}"
    )


def _pair(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size["height"], size["width"])


__all__ = ["CLIP_MEAN", "CLIP_STD", "Preprocessing", "from_config"]
