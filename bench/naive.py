"""The Gaussianity loss as one writes it by hand in PyTorch: what users have today."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def naive(x: Tensor, index: Tensor | None = None, per_sample: bool = False) -> Tensor:
    """As the formulas read, gradient by autograd, permutation by torch.randperm."""
    x = x.flatten(1).float()
    if index is None and per_sample:
        index = torch.rand(x.shape, device=x.device).argsort(1)
    elif index is None:
        index = torch.randperm(x.shape[1], device=x.device)
    permuted = x[:, index] if index.dim() == 1 else x.gather(1, index)
    moments = x.mean(1).abs() + (x.square().mean(1).sqrt() - 1).abs()
    spectrum = torch.fft.rfft(permuted, norm="ortho")
    first = torch.complex(spectrum[:, :1].real, spectrum[:, -1:].real) / math.sqrt(2)
    blocks = torch.cat([first, spectrum[:, 1:-1]], 1).abs().unflatten(1, (-1, 16)).mean(2)
    power = (blocks - math.sqrt(math.pi) / 2).abs().mean(1)
    return (moments + 25 * power).mean()
