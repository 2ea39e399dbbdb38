"""Permuted statistics, the loss computed from them, and their gradients by hand."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gaussreg_fast.reference._moments import moment_terms, moments, moments_pullback
from gaussreg_fast.reference._permutation import gather, scatter
from gaussreg_fast.reference._spectrum import (
    RAYLEIGH_MEAN,
    block_means,
    block_sizes,
    compact_adjoint,
    compact_spectrum,
    without_dust,
)


def permuted_statistics(
    x: Tensor, index: Tensor | None, orders: Sequence[int], block_size: int, statistic: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Return moments (B, K), block amplitudes (B, P) and the compact spectrum (B, D // 2).

    A `block_size` of 0 leaves the spectrum out: P = 0.
    """
    if block_size == 0:
        empty = x.new_empty((x.shape[0], 0))
        return moments(x, orders), empty, torch.complex(empty, empty)
    y = compact_spectrum(gather(x, index))
    if statistic == "amplitude":
        y = without_dust(y)
        a = y.abs()
    else:
        a = y.real**2 + y.imag**2
    return moments(x, orders), block_means(a, block_size), y


def permuted_statistics_pullback(
    x: Tensor,
    y: Tensor,
    index: Tensor | None,
    orders: Sequence[int],
    block_size: int,
    statistic: str,
    grad_m: Tensor,
    grad_a: Tensor,
) -> Tensor:
    """Return the gradient by x (B, D) for upstream gradients (B, K) and (B, P)."""
    grad = moments_pullback(x, orders, grad_m) if orders else None
    if block_size:
        bins = y.shape[-1]
        w = grad_a / block_sizes(bins, block_size, grad_a)
        w = w[..., None].expand(*w.shape, block_size).flatten(-2)[..., :bins]
        direction = torch.sgn(y) if statistic == "amplitude" else 2 * y
        spectral = scatter(compact_adjoint(w * direction, x.shape[-1]), index)
        grad = spectral if grad is None else grad + spectral
    return torch.zeros_like(x) if grad is None else grad


def loss_and_gradient(
    x: Tensor,
    index: Tensor | None,
    *,
    orders: Sequence[int] = (1, 2),
    form: str = "root",
    power_weight: float = 25.0,
    block_size: int = 16,
    target: float = RAYLEIGH_MEAN,
    statistic: str = "amplitude",
    with_gradient: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """Return L = sum_n L_n + power_weight * mean_p |A_p - target|, (B,), and dL/dx, (B, D).

    All public losses of one sample are cases of this one: a power_weight of 0 leaves the spectrum
    out, an empty `orders` leaves the moments out.
    """
    block_size = block_size if power_weight else 0
    m, a, y = permuted_statistics(x, index, orders, block_size, statistic)
    loss, grad_m = moment_terms(m, orders, form, x.shape[-1])
    grad_a = a
    if block_size:
        loss = loss + power_weight * (a - target).abs().mean(-1)
        grad_a = (a - target).sign() * (power_weight / a.shape[-1])
    loss = loss + 0 * x.sum(-1)  # NaN for a sample that holds inf, whatever the options
    if not with_gradient:
        return loss, None
    return loss, permuted_statistics_pullback(
        x, y, index, orders, block_size, statistic, grad_m, grad_a
    )


def full_power_spectrum_loss(
    x: Tensor, index: Tensor | None, block_size: int = 16, target: float = 0.875
) -> Tensor:
    """Return the power-spectrum loss (B,) of MPGR's text: blocks over all D mirrored bins and DC.

    It is kept for comparison with the paper; the package's own loss uses the compact spectrum.
    """
    a = torch.fft.fft(gather(x, index), norm="ortho").abs()
    return (block_means(a, block_size) - target).abs().mean(-1)
