"""What the examples measure on images of digits, none of it trained for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gaussreg_fast.latent.digits import REWARDS
from gaussreg_fast.latent.digits.data import SIZE

CLASSIFIERS = ("digits-class-a", "digits-class-b")
EVEN = -0.6931471805599453  # log of a half


@torch.no_grad()
def agreement(grey: Tensor, prompts: Sequence[str]) -> Tensor:
    """(B,) share of the held-out classifiers that give the prompt's digit more than a half."""
    colour = grey.expand(-1, 3, -1, -1)
    votes = [REWARDS[name]()(colour, prompts) > EVEN for name in CLASSIFIERS]
    return torch.stack(votes).double().mean(0)


def nearest(grey: Tensor, references: Tensor) -> Tensor:
    """(B,) distance, root mean square over pixels, to the nearest of the references."""
    return torch.cdist(grey.flatten(1), references.flatten(1)).amin(1) / SIZE


def spread(grey: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean distance, root mean square, of two images; of those drawn by `weights` (B,) if given."""
    flat = grey.flatten(1)
    distances = torch.cdist(flat, flat) / SIZE
    w = torch.ones(len(grey)) if weights is None else weights.float()
    pairs = (w[:, None] * w).fill_diagonal_(0)
    return (pairs * distances).sum() / pairs.sum()
