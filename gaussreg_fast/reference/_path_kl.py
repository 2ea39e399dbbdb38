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


def ddim_terms(a: Tensor, a_prev: Tensor, eta: float, prediction: str) -> tuple[Tensor, Tensor]:
    """What a step's mean is in the model's output, and its deviation.

    a, a_prev: abar of this step and the next. By way of x_0, whose factor is finite at abar = 0.
    """
    variance = eta**2 * (1 - a_prev) / (1 - a) * (a_prev - a) / a_prev
    left = (1 - a_prev - variance).clamp_min(0)
    mean = a_prev.sqrt() - (left * a / (1 - a)).sqrt()
    return mean * clean_factor(a, prediction), variance.sqrt()


def ddpm_terms(a: Tensor, a_prev: Tensor, variance: str, prediction: str) -> tuple[Tensor, Tensor]:
    """The same of an ancestral step, the first with eps's sign, not the mean's."""
    beta = (a_prev - a) / a_prev
    small = beta * (1 - a_prev) / (1 - a)
    mean = -a_prev.sqrt() * beta / (1 - a)
    deviation = (small if variance == "fixed_small" else beta).sqrt()
    return mean * clean_factor(a, prediction), deviation


def flow_terms(t: Tensor, dt: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """The same of an Euler-Maruyama step of the flow's SDE, in the velocity, without its sign."""
    return dt * (1 + scale**2 * (1 - t) / (2 * t)), scale * dt.sqrt()


def clean_factor(a: Tensor, prediction: str) -> Tensor:
    """What turns a difference of a model's outputs into one of its x_0."""
    if prediction == "v_prediction":
        return -(1 - a).sqrt()
    if prediction == "sample":
        return torch.ones_like(a)
    return -((1 - a) / a).sqrt()
