"""Losses of other papers: the O(D^2) autocovariance loss, and PRNO's."""

from __future__ import annotations

import math

import torch
from torch import Tensor

LAGS_AT_ONCE = 128  # bounds the memory of a product to 128 D numbers per sample


def circular_windows(xp: Tensor, first: int, last: int) -> Tensor:
    """Return a view of xp rolled by every lag in first..last-1, (B, last - first, D)."""
    doubled = torch.cat([xp, xp[..., : last - 1]], -1)
    return doubled.unfold(-1, xp.shape[-1], 1)[:, first:last]


def autocovariance(xp: Tensor) -> Tensor:
    """Return C(t) = mean_j xp_j xp_{j + t mod D} for t = 0..D // 2, (B, D // 2 + 1).

    The other lags have the same values: C(D - t) = C(t).
    """
    half = xp.shape[-1] // 2 + 1
    parts = [
        (circular_windows(xp, t, min(t + LAGS_AT_ONCE, half)) @ xp[..., None])[..., 0]
        for t in range(0, half, LAGS_AT_ONCE)
    ]
    return torch.cat(parts, -1) / xp.shape[-1]


def lag_weights(dimension: int, like: Tensor) -> Tensor:
    """Return the weight of each lag 0..D // 2 in mean_{t > 0} |C(t)|."""
    weights = like.new_full((dimension // 2 + 1,), 2.0)
    weights[0] = 0.0
    if dimension % 2 == 0:
        weights[-1] = 1.0
    return weights / (dimension - 1)


def covariance_terms(c: Tensor, dimension: int) -> tuple[Tensor, Tensor]:
    """Return |C(0) - 1| + mean_{t > 0} |C(t)|, (B,), and its gradient by c."""
    weights = lag_weights(dimension, c)
    gap = c[..., :1] - 1
    loss = gap.abs()[..., 0] + (weights * c.abs()).sum(-1)
    grad = weights * c.sign()
    return loss, torch.cat([gap.sign(), grad[..., 1:]], -1)


def autocovariance_pullback(xp: Tensor, grad_c: Tensor) -> Tensor:
    """Return sum_t grad_c[t] (xp_{j+t} + xp_{j-t}) / D, (B, D)."""
    half = grad_c.shape[-1]
    mirrored = xp.flip(-1)
    forward = backward = torch.zeros_like(xp)
    for t in range(0, half, LAGS_AT_ONCE):
        last = min(t + LAGS_AT_ONCE, half)
        g = grad_c[:, None, t:last]
        forward = forward + (g @ circular_windows(xp, t, last))[:, 0]
        backward = backward + (g @ circular_windows(mirrored, t, last))[:, 0]
    return (forward + backward.flip(-1)) / xp.shape[-1]


def prno_log_probability(v: Tensor) -> Tensor:
    """Return the sum (...) of PRNO's two log-probability bounds for rows v (..., m, k)."""
    m, k = v.shape[-2:]
    m1_squared = v.mean(-2).square().sum(-1)
    gram = v.mT @ v / m
    # The eigenvalue solver fails for the whole batch if one sample holds NaN: give it 0 there.
    finite = gram.isfinite().all(-1).all(-1)
    eigenvalues = torch.linalg.eigvalsh(torch.where(finite[..., None, None], gram, 0))
    # The largest |eigenvalue| of gram - I. If I were subtracted before, or before the choice of the
    # eigenvalue, it would take the digits that tell those of a small gram apart.
    largest = torch.maximum(1 - eigenvalues[..., 0], eigenvalues[..., -1] - 1)
    m2 = torch.where(finite, largest, torch.nan)
    log_p1 = -m * m1_squared / (2 * k)
    excess = ((1 + m2).sqrt() - 1 - math.sqrt(k / m)).clamp_min(0)
    log_p2 = -m * excess**2 / 2
    return log_p1.clamp_max(-math.log(2)) + log_p2.clamp_max(-math.log(2))


def prno_loss(x: Tensor, shuffles: Tensor | None, factor: int) -> Tensor:
    """Return minus the log-probability of x, (B,), minus its mean over shuffles (S, D) of x."""
    plain = prno_log_probability(x.unflatten(-1, (-1, factor)))
    if shuffles is None:
        return -plain
    shuffled = prno_log_probability(x[:, shuffles].unflatten(-1, (-1, factor)))
    return -(plain + shuffled.mean(-1))
