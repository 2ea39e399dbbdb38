"""Moments, and the losses that are functions of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

EPS = 1e-12  # lower bound of a variance, and of a moment's magnitude in the slope of its root


def target_moment(n: int) -> int:
    """Return E[z^n] for z ~ N(0, 1): 0 for odd n, (n - 1)!! for even n."""
    return 0 if n % 2 else math.prod(range(1, n, 2))


def moments(x: Tensor, orders: Sequence[int]) -> Tensor:
    """Return m_n = mean_i x_i^n for each order, (B, K)."""
    powers, out = x, {}
    for n in range(1, max(orders, default=0) + 1):
        powers = x if n == 1 else powers * x
        if n in orders:
            out[n] = powers.mean(-1)
    return torch.stack([out[n] for n in orders], -1) if out else x.new_empty((*x.shape[:-1], 0))


def moments_pullback(x: Tensor, orders: Sequence[int], grad_m: Tensor) -> Tensor:
    """Return sum_n grad_m[:, n] * n x^(n-1) / D, by Horner's rule."""
    coefficient = {n: grad_m[..., k, None] * (n / x.shape[-1]) for k, n in enumerate(orders)}
    grad: Tensor | None = None
    for n in range(max(orders), 0, -1):
        if grad is not None:
            grad = grad * x
        if n in coefficient:
            grad = coefficient[n] if grad is None else grad + coefficient[n]
    assert grad is not None
    return grad.expand_as(x)


def moment_terms(
    m: Tensor, orders: Sequence[int], form: str, dimension: int
) -> tuple[Tensor, Tensor]:
    """Return the loss (B,) of the moments m (B, K), and its gradient by m (B, K).

    `form` is "root", "absolute" or "squared" (MPGR's loss of each order, summed), or one of the
    older regularisers, which are functions of the same moments: "kl" (orders 1, 2),
    "kurtosis" (2, 4), "norm" (2).
    """
    if form == "kl":
        m1, m2 = m.unbind(-1)
        raw = m2 - m1 * m1
        v = raw.clamp_min(EPS)
        excess = (m2 - 1) - m1 * m1  # v - 1 and log1p keep the digits that count near v = 1
        log_v = torch.where(excess > -0.5, excess.log1p(), v.log())
        loss = 0.5 * (torch.where(raw > EPS, excess, v - 1) - log_v + m1 * m1)
        slope = torch.where(raw > EPS, excess / v, raw * 0)
        return loss, torch.stack([m1 - m1 * slope, 0.5 * slope], -1)
    if form == "kurtosis":
        m2, m4 = m[..., 0].clamp_min(EPS), m[..., 1]
        gap = m4 / m2**2 - 3
        return gap**2, torch.stack([-4 * gap * m4 / m2**3, 2 * gap / m2**2], -1)
    if form == "norm":
        m2 = m[..., 0].clamp_min(EPS)
        loss = 0.5 * dimension * m2 - 0.5 * (dimension - 1) * (dimension * m2).log()
        return loss, 0.5 * (dimension - (dimension - 1) / m2)[..., None]
    terms = [order_term(mn, n, form) for mn, n in zip(m.unbind(-1), orders, strict=True)]
    if not terms:
        return m.sum(-1), m
    losses, grads = zip(*terms, strict=True)
    return torch.stack(losses, -1).sum(-1), torch.stack(grads, -1)


def order_term(m: Tensor, n: int, form: str) -> tuple[Tensor, Tensor]:
    """Return the loss (B,) of the moment of order n, and its derivative by m."""
    mu = float(target_moment(n))
    if form == "absolute" or (form == "root" and n == 1):  # the same for n = 1
        return (m - mu).abs(), (m - mu).sign()
    if form == "squared":
        return (m - mu) ** 2, 2 * (m - mu)
    gap = m.abs() ** (1 / n) - mu ** (1 / n)
    return gap.abs(), gap.sign() * m.sign() * m.abs().clamp_min(EPS) ** (1 / n - 1) / n
