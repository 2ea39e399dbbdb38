"""The Gaussianity loss in PyTorch: as users write it, and as fast as PyTorch allows."""

from __future__ import annotations

import math

import torch
from torch import Tensor

TARGET = math.sqrt(math.pi) / 2
BLOCK = 16
WEIGHT = 25.0


def naive(x: Tensor, index: Tensor | None = None, per_sample: bool = False) -> Tensor:
    """Compute the loss as the formulas read; autograd gives the gradient.

    Args:
        x: (B, ...).
        index: (D,) or (B, D) permutation; None draws one by torch.randperm.
        per_sample: draw a permutation for each sample.
    """
    x = x.flatten(1).float()
    if index is None and per_sample:
        index = torch.rand(x.shape, device=x.device).argsort(1)
    elif index is None:
        index = torch.randperm(x.shape[1], device=x.device)
    permuted = x[:, index] if index.dim() == 1 else x.gather(1, index)
    moments = x.mean(1).abs() + (x.square().mean(1).sqrt() - 1).abs()
    spectrum = torch.fft.rfft(permuted, norm="ortho")
    first = torch.complex(spectrum[:, :1].real, spectrum[:, -1:].real) / math.sqrt(2)
    blocks = torch.cat([first, spectrum[:, 1:-1]], 1).abs().unflatten(1, (-1, BLOCK)).mean(2)
    power = (blocks - TARGET).abs().mean(1)
    return (moments + WEIGHT * power).mean()


def by_hand(
    x: Tensor, index: Tensor | None = None, per_sample: bool = False
) -> tuple[Tensor, Tensor]:
    """Compute the loss and its gradient in closed form, in x's dtype: no autograd, few passes.

    Complex numbers are split into parts, so that torch.compile can fuse all between the two
    transforms; the gradient is gathered through the inverse permutation, not scattered.
    """
    dtype, x = x.dtype, x.flatten(1).float()
    size = x.shape[1]
    if index is None and per_sample:
        index = torch.rand(x.shape, device=x.device).argsort(1)
    elif index is None:
        index = torch.randperm(size, device=x.device)
    spectrum = torch.fft.rfft(_gather(x, index), norm="ortho")
    re, im = torch.view_as_real(spectrum).unbind(2)
    # The first and the last bin are real. Together they make one complex bin, as the loss defines.
    im = torch.cat([re[:, -1:] / math.sqrt(2), im[:, 1:-1]], 1)
    re = torch.cat([re[:, :1] / math.sqrt(2), re[:, 1:-1]], 1)
    length = (re * re + im * im).sqrt()
    gap = length.unflatten(1, (-1, BLOCK)).mean(2) - TARGET
    weight = gap.sign()[:, :, None] * (WEIGHT / size)
    weight = (weight / length.unflatten(1, (-1, BLOCK))).flatten(1)
    weight = torch.where(length > 0, weight, 0)
    re, im = weight * re, weight * im
    ends = math.sqrt(2)
    re = torch.cat([re[:, :1] * ends, re[:, 1:], im[:, :1] * ends], 1)
    im = torch.nn.functional.pad(im[:, 1:], (1, 1))
    spectral = torch.fft.irfft(torch.complex(re, im), n=size, norm="ortho")
    mean, root = x.mean(1, keepdim=True), x.square().mean(1, keepdim=True).sqrt()
    direct = mean.sign() / size + ((root - 1).sign() / (root * size)) * x
    grad = (_gather(spectral, _inverse(index)) + direct) / len(x)
    loss = mean.abs() + (root - 1).abs() + WEIGHT * gap.abs().mean(1, keepdim=True)
    return loss.mean(), grad.to(dtype)


def _gather(x: Tensor, index: Tensor) -> Tensor:
    return x.index_select(1, index) if index.dim() == 1 else x.gather(1, index)


def _inverse(index: Tensor) -> Tensor:
    places = torch.arange(index.shape[-1], device=index.device).expand_as(index)
    return torch.empty_like(index).scatter_(-1, index, places)
