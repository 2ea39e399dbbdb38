"""Measure the one-step pipeline: whether digits are right, and how diverse they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gaussreg_fast.digits.classifiers import load_classifier, log_probabilities
from gaussreg_fast.digits.data import SIZE, Digits
from gaussreg_fast.digits.words import PROMPTS


@torch.no_grad()
def draw(pipeline: Path, per_prompt: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw one-step images from fresh noise with diffusers' own pipeline.

    Returns:
        (10 n, 3, 16, 16) float32 in [0, 1], digit after digit, and their (10 n,) labels.
    """
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(pipeline)
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(seed)
    images = [
        pipe(
            prompt,
            num_images_per_prompt=per_prompt,
            num_inference_steps=1,
            guidance_scale=0.0,
            generator=generator,
            output_type="pt",
        ).images
        for prompt in PROMPTS
    ]
    labels = torch.arange(10, dtype=torch.int64, device="cpu").repeat_interleave(per_prompt)
    return torch.cat(images).float().cpu(), labels


def nearest(grey: Tensor, references: Tensor) -> Tensor:
    """Return (B,) distances, root mean square over pixels, to the nearest reference."""
    return torch.cdist(grey.flatten(1), references.flatten(1)).amin(1) / SIZE


def spread(grey: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the mean distance, root mean square over pixels, of two different images.

    `weights` (B,) are the images' weights in the mean. An image is never paired with itself, so
    that drawing it twice does not lower the spread.
    """
    flat = grey.flatten(1)
    distances = torch.cdist(flat, flat) / SIZE
    w = (
        torch.ones(len(grey), dtype=torch.float32, device=grey.device)
        if weights is None
        else weights.float()
    )
    pairs = (w[:, None] * w).fill_diagonal_(0)
    return (pairs * distances).sum() / pairs.sum()


def diversity(grey: Tensor, labels: Tensor) -> list[float]:
    """Return the `spread` of the images of each digit."""
    return [spread(grey[labels == digit]).item() for digit in range(10)]


def nearest_distance(grey: Tensor, labels: Tensor, real: Tensor, real_labels: Tensor) -> float:
    """Return the mean distance, root mean square, to the nearest real image of the same digit."""
    distances = [nearest(grey[labels == d], real[real_labels == d]) for d in range(10)]
    return torch.cat(distances).mean().item()


def measure(weights: Path, test: Tensor, per_prompt: int, seed: int) -> dict[str, Any]:
    """Return all measures of the models in the folder `weights`.

    Args:
        test: (n,) indices of the digits that no training has seen.
    """
    images, labels = draw(weights / "pipeline", per_prompt, seed)
    grey = images.mean(dim=1, keepdim=True)
    digits = Digits.load(weights / "digits.safetensors")
    real, real_labels = digits.images(), digits.labels
    known = torch.ones(len(real_labels), dtype=torch.bool, device="cpu")
    known[test] = False
    result: dict[str, Any] = {"images": len(images)}
    for name in ("a", "b", "target"):
        classifier = load_classifier(name, weights / "classifiers.safetensors")
        right = log_probabilities(classifier, grey).argmax(dim=1) == labels
        result[f"prompt_accuracy_{name}"] = right.cpu().double().mean().item()
    ours, theirs = diversity(grey, labels), diversity(real, real_labels)
    result["diversity"] = ours
    result["diversity_of_real_digits"] = theirs
    result["diversity_ratio"] = sum(ours) / sum(theirs)
    result["diversity_ratio_least"] = min(a / b for a, b in zip(ours, theirs, strict=True))
    references = (real[known], real_labels[known])
    result["nearest_distance"] = nearest_distance(grey, labels, *references)
    result["nearest_distance_of_test_digits"] = nearest_distance(
        real[test], real_labels[test], *references
    )
    return result
