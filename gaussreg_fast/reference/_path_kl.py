"""Path KL of samplers with noise, and its terms for the steps of common samplers.

Source: Tang, Zhou, arXiv 2403.06279 (Girsanov's cost); steps of DDIM (arXiv 2010.02502), DDPM
(arXiv 2006.11239) and the SDE of flow matching (arXiv 2505.05470).
"""

from __future__ import annotations

import torch
from torch import Tensor


def path_kl(dmu: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """Return sum_t ||dmu_t||^2 / (2 sigma_t^2), (B,), and its terms, (T, B).

    dmu is (T, B, D), sigma (T, B) or (T, 1). A negative sigma makes NaN.
    """
    z = dmu * inverse(sigma).unsqueeze(-1)  # before squaring: sigma^2 may leave float32's range
    costs = 0.5 * z.square().sum(-1)
    return costs.sum(0), costs


def path_kl_pullback(dmu: Tensor, sigma: Tensor, upstream: Tensor) -> Tensor:
    """Return the gradient by dmu, (T, B, D), for upstream gradients (B,)."""
    factor = inverse(sigma)
    return dmu * factor.unsqueeze(-1) * (factor * upstream).unsqueeze(-1)


def path_kl_by_sigma(costs: Tensor, sigma: Tensor, upstream: Tensor) -> Tensor:
    """Return the gradient by sigma, in its shape, from the terms (T, B)."""
    grad = -2 * costs * inverse(sigma) * upstream
    return grad if sigma.shape == costs.shape else grad.sum(1, keepdim=True)


def inverse(sigma: Tensor) -> Tensor:
    """Return 1 / sigma; NaN for a negative sigma, which is no standard deviation."""
    return torch.where(sigma >= 0, 1 / sigma, torch.nan)


def ddim_terms(a: Tensor, a_prev: Tensor, eta: float, prediction: str) -> tuple[Tensor, Tensor]:
    """Return the factor of the model's output in a step's mean, and the step's deviation.

    a and a_prev are abar of this step and of the next. The factor is computed as that of x_0 times
    `clean_factor`, because that of x_0 is finite at abar = 0.
    """
    variance = eta**2 * (1 - a_prev) / (1 - a) * (a_prev - a) / a_prev
    left = (1 - a_prev - variance).clamp_min(0)
    mean = a_prev.sqrt() - (left * a / (1 - a)).sqrt()
    return mean * clean_factor(a, prediction), variance.sqrt()


def ddpm_terms(a: Tensor, a_prev: Tensor, variance: str, prediction: str) -> tuple[Tensor, Tensor]:
    """Return the same of an ancestral step; the factor has the sign of eps, not of the mean."""
    beta = (a_prev - a) / a_prev
    small = beta * (1 - a_prev) / (1 - a)
    mean = -a_prev.sqrt() * beta / (1 - a)
    deviation = (small if variance == "fixed_small" else beta).sqrt()
    return mean * clean_factor(a, prediction), deviation


def flow_terms(t: Tensor, dt: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Return the same of an Euler-Maruyama step of the flow's SDE: the velocity's factor's size."""
    return dt * (1 + scale**2 * (1 - t) / (2 * t)), scale * dt.sqrt()


def clean_factor(a: Tensor, prediction: str) -> Tensor:
    """Return the factor that turns a difference of a model's outputs into one of its x_0."""
    if prediction == "v_prediction":
        return -(1 - a).sqrt()
    if prediction == "sample":
        return torch.ones_like(a)
    return -((1 - a) / a).sqrt()
