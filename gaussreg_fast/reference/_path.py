"""Path KL of samplers with noise, and the steps that it adds up.

Source: Tang, Zhou, arXiv 2403.06279 (Girsanov's cost); steps of DDIM (arXiv 2010.02502), DDPM
(arXiv 2006.11239) and the SDE of flow matching (arXiv 2505.05470).
"""

from __future__ import annotations

import torch
from torch import Tensor


def path_kl(dmu: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """sum_t ||dmu_t||^2 / (2 sigma_t^2) of dmu (T, B, D), sigma (T, B) or (T, 1).

    Returns (B,), and its terms (T, B). A negative sigma makes NaN.
    """
    z = dmu * inverse(sigma).unsqueeze(-1)  # first of all, for sigma^2 may leave float32's range
    costs = 0.5 * z.square().sum(-1)
    return costs.sum(0), costs


def path_kl_pullback(dmu: Tensor, sigma: Tensor, upstream: Tensor) -> Tensor:
    """The gradient by dmu, (T, B, D), for upstream gradients (B,)."""
    factor = inverse(sigma)
    return dmu * factor.unsqueeze(-1) * (factor * upstream).unsqueeze(-1)


def path_kl_by_sigma(costs: Tensor, sigma: Tensor, upstream: Tensor) -> Tensor:
    """The gradient by sigma, in its shape, from the terms (T, B)."""
    grad = -2 * costs * inverse(sigma) * upstream
    return grad if sigma.shape == costs.shape else grad.sum(1, keepdim=True)


def inverse(sigma: Tensor) -> Tensor:
    """1 / sigma; NaN for what is no deviation."""
    return torch.where(sigma >= 0, 1 / sigma, torch.nan)


def ddim_terms(a: Tensor, a_prev: Tensor, eta: float) -> tuple[Tensor, Tensor]:
    """What a step's mean is in eps, and its deviation. a, a_prev: abar of this step, the next."""
    variance = eta**2 * (1 - a_prev) / (1 - a) * (a_prev - a) / a_prev
    mean = (1 - a_prev - variance).clamp_min(0).sqrt() - (a_prev * (1 - a) / a).sqrt()
    return mean, variance.sqrt()


def ddpm_terms(a: Tensor, a_prev: Tensor, variance: str) -> tuple[Tensor, Tensor]:
    """The same of an ancestral step, the first without its sign."""
    alpha, beta = a / a_prev, (a_prev - a) / a_prev
    small = beta * (1 - a_prev) / (1 - a)
    mean = beta / (alpha.sqrt() * (1 - a).sqrt())
    return mean, (small if variance == "fixed_small" else beta).sqrt()


def flow_terms(t: Tensor, dt: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """The same of an Euler-Maruyama step of the flow's SDE, in the velocity, without its sign."""
    return dt * (1 + scale**2 * (1 - t) / (2 * t)), scale * dt.sqrt()


def epsilon_factor(a: Tensor, prediction: str) -> Tensor:
    """What turns a difference of a model's outputs into one of eps."""
    if prediction == "v_prediction":
        return a.sqrt()
    if prediction == "sample":
        return -(a / (1 - a)).sqrt()
    return torch.ones_like(a)
