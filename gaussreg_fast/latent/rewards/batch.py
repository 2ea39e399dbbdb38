"""What every reward does alike: checking its batch, freezing its model, dtypes of its result."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

MODULE = TypeVar("MODULE", bound=nn.Module)


class Reward(Protocol):
    """A differentiable score of images under prompts, higher is better.

    Called with images (B, 3, H, W) in [0, 1] and B prompts, it returns (B,) on the images'
    device: float32, or float64 for float64 images. Reward i depends on image i and prompt i
    alone: a NaN in one image stays in that image's reward.
    """

    name: str

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """(B, 3, H, W) and B prompts -> (B,)."""
        ...


def check_batch(images: Tensor, prompts: Sequence[str]) -> None:
    """Raises ValueError unless images are floating (B, 3, H, W) with B prompts."""
    if not isinstance(images, Tensor) or images.dim() != 4 or images.shape[1] != 3:
        got = str(tuple(images.shape)) if isinstance(images, Tensor) else type(images).__name__
        raise ValueError(f"images: expected a tensor of shape (B, 3, H, W), got {got}")
    if not images.is_floating_point():
        raise ValueError(f"images: expected floating point in [0, 1], got {images.dtype}")
    if isinstance(prompts, str) or len(prompts) != images.shape[0]:
        got = "one string" if isinstance(prompts, str) else f"{len(prompts)}"
        raise ValueError(f"prompts: expected {images.shape[0]}, one per image, got {got}")


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """float64 stays, everything narrower becomes float32."""
    return torch.promote_types(torch.float32, dtype)


def freeze(module: MODULE, device: torch.device | str, dtype: torch.dtype) -> MODULE:
    """The module on the device in the dtype, in eval mode, its weights without gradient."""
    return module.to(device=device, dtype=dtype).eval().requires_grad_(False)


def result(scores: Tensor, images: Tensor) -> Tensor:
    """Scores (B,) as a reward returns them: the images' device, float32 or wider."""
    return scores.to(device=images.device, dtype=at_least_float32(images.dtype))
