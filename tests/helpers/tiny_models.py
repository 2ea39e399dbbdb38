"""The tiny pipelines, loaded as models once per session, and what their tests share."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny_pipelines
import torch
from torch import Tensor

from gaussreg_fast.errors import InputError
from gaussreg_fast.latent.models import load_model

PROMPTS = ["a cat", "a red dog on the hill", "handwritten zero"]
SEEDS = [5, 1234567, 0]
# Steps and guidance.
PUBLISHED = {"sd": (1, 0.0), "sdxl": (1, 0.0), "flux": (1, 0.0), "sana-sprint": (2, 4.5)}
FAMILIES = [*PUBLISHED, "sana", "lcm"]

_ROOT = tempfile.TemporaryDirectory(prefix="tiny-pipelines-")


@functools.cache
def folder(family: str) -> Path:
    return tiny_pipelines.build(family, _ROOT.name)


@functools.cache
def loaded(family: str, **options: Any) -> Any:
    side = tiny_pipelines.SIZES[family]
    options = {"device": "cpu", "height": side, "width": side, **options}
    return load_model(str(folder(family)), **options)


def starting_latents(
    model: Any, batch: int = 3, seed: int = 0, dtype: torch.dtype = torch.float32
) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, *model.latent_shape, generator=generator, dtype=dtype)


def score(images: Tensor) -> Tensor:
    """A linear functional of each image, with a different weight for every pixel."""
    generator = torch.Generator().manual_seed(99)
    weights = torch.randn(images.shape[1:], generator=generator, dtype=torch.float64)
    return (images * weights.to(images.dtype)).sum((1, 2, 3))


def image_and_gradient(
    model: Any,
    latents: Tensor,
    prompts: Sequence[str] = PROMPTS,
    seeds: Sequence[int] = SEEDS,
) -> tuple[Tensor, Tensor]:
    x = latents.clone().requires_grad_()
    images = model.generate(x, model.encode(prompts), seeds=seeds)
    (gradient,) = torch.autograd.grad(score(images).sum(), x)
    return images.detach(), gradient


def relative(got: Tensor, want: Tensor) -> float:
    return float((got.double() - want.double()).norm() / want.double().norm())


def refusal(call: Any, *args: Any, **kwargs: Any) -> str:
    """The one line that an InputError says."""
    with pytest.raises(InputError) as caught:
        call(*args, **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    return message
