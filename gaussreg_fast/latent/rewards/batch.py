"""The steps that all rewards share: check the batch, freeze the model, convert the result."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

MODULE = TypeVar("MODULE", bound=nn.Module)


class Reward(Protocol):
    """A differentiable score of images under prompts; higher is better.

    Called with images (B, 3, H, W) in [0, 1] and B prompts, it returns (B,) on the images'
    device: float32, or float64 for float64 images. Reward i depends on image i and prompt i
    alone: a NaN in one image stays in that image's reward.
    """

    name: str

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Score images (B, 3, H, W) under B prompts: (B,)."""
        ...


def check_batch(images: Tensor, prompts: Sequence[str]) -> None:
    """Raise ValueError unless images are floating (B, 3, H, W) with B prompts."""
    if not isinstance(images, Tensor) or images.dim() != 4 or images.shape[1] != 3:
        got = str(tuple(images.shape)) if isinstance(images, Tensor) else type(images).__name__
        raise ValueError(f"images must be a tensor of shape (B, 3, H, W), got {got}")
    if not images.is_floating_point():
        raise ValueError(f"images must be floating-point in [0, 1], got {images.dtype}")
    if isinstance(prompts, str) or len(prompts) != images.shape[0]:
        got = "one string" if isinstance(prompts, str) else f"{len(prompts)}"
        raise ValueError(f"prompts must be {images.shape[0]}, one per image, got {got}")


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """Return float32 for a narrower dtype, float64 for itself."""
    return torch.promote_types(torch.float32, dtype)


def freeze(module: MODULE, device: torch.device | str, dtype: torch.dtype) -> MODULE:
    """Move a module to a device and dtype, in eval mode, its weights without gradient."""
    return module.to(device=device, dtype=dtype).eval().requires_grad_(False)


def result(scores: Tensor, images: Tensor) -> Tensor:
    """Convert scores (B,) to the images' device, and to float32 or wider."""
    return scores.to(device=images.device, dtype=at_least_float32(images.dtype))
