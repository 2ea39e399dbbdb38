"""The compact spectrum (GPER), its adjoint, and blocks of it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

RAYLEIGH_MEAN = math.sqrt(math.pi) / 2  # E|y| for y ~ CN(0, 1)
RAYLEIGH_VAR = 1 - math.pi / 4  # Var|y|
FLOOR = 1e-18  # smaller amplitudes count as 0 in float32, which hardly holds their squares


def compact_spectrum(xp: Tensor) -> Tensor:
    """Return D // 2 complex numbers y of D reals, all CN(0, 1) if x is white noise (GPER).

    For even D the real DC and Nyquist bins share y_0; for odd D the DC bin is left out.
    """
    dimension = xp.shape[-1]
    spectrum = torch.fft.rfft(xp, norm="ortho")
    if dimension % 2:
        return spectrum[..., 1:]
    first = torch.complex(spectrum[..., :1].real, spectrum[..., -1:].real) / math.sqrt(2)
    return torch.cat([first, spectrum[..., 1:-1]], -1)


def without_dust(y: Tensor) -> Tensor:
    """Return y with 0 for amplitudes below `FLOOR`; in float64 return y itself."""
    return y if y.dtype == torch.complex128 else y.masked_fill(y.abs() < FLOOR, 0)


def compact_adjoint(v: Tensor, dimension: int) -> Tensor:
    """Return F^T v, the gradient by x of sum_k Re(conj(v_k) y_k), for the compact spectrum y = F x.

    For even D it is half the inverse map of v.
    """
    # irfft counts each inner bin twice (with its mirror), DC and Nyquist once.
    if dimension % 2:
        half = torch.nn.functional.pad(v / 2, (1, 0))
    else:
        ends = v[..., :1] / math.sqrt(2)
        half = torch.cat([ends.real, v[..., 1:] / 2, ends.imag], -1)
    return torch.fft.irfft(half, n=dimension, norm="ortho")


def block_sizes(bins: int, block_size: int, like: Tensor) -> Tensor:
    """Return the sizes (P,) of blocks: block_size, except for a shorter last block."""
    blocks = -(-bins // block_size)
    sizes = like.new_full((blocks,), float(block_size))
    if bins % block_size:
        sizes[-1] = float(bins % block_size)
    return sizes


def block_means(a: Tensor, block_size: int) -> Tensor:
    """Return means over blocks of neighbouring bins: (B, bins) -> (B, P). The last may be short."""
    bins = a.shape[-1]
    padded = torch.nn.functional.pad(a, (0, -bins % block_size))
    sums = padded.unflatten(-1, (-1, block_size)).sum(-1)
    return sums / block_sizes(bins, block_size, a)


def block_target(target: str, statistic: str) -> float:
    """Return the target of a block mean: sqrt(pi)/2, MPGR's 0.875, or 1 for the power."""
    if statistic == "power":
        return 1.0
    return 0.875 if target == "mpgr" else RAYLEIGH_MEAN
