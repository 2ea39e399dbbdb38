"""Path KL of samplers with noise, and its terms from what a sampler has at hand."""

from __future__ import annotations

from numbers import Real

import torch
from torch import Tensor

from gaussreg_fast import checks, ops, reference
from gaussreg_fast.functional._common import check_backend

NO_NOISE = ": a step without noise has no finite path KL"
LAST_STEP = (
    ": a step to alpha_cumprod = 1 adds no noise and has no finite path KL; leave the last step "
    "out (or, for diffusers' DDIMScheduler, set_alpha_to_one=False)"
)
NO_SIGNAL = (
    ": epsilon does not determine x_0 where x_t has no signal; models of a terminal "
    "signal-to-noise ratio of zero predict v or the sample"
)


def path_kl(dmu: Tensor, sigma: Tensor, *, backend: str = "auto") -> Tensor:
    """The path KL of each trajectory: `sum_t ||dmu_t||^2 / (2 sigma_t^2)`.

    Two samplers that add the same noise, sigma_t, to different means, mu_t and mu_t + dmu_t, have
    as KL divergence between their paths the expectation of this under the sampler that the
    trajectories come from (Girsanov; Tang and Zhou, arXiv 2403.06279): KL(q || p) for trajectories
    of the fine-tuned one, q, and KL(p || q) for those of the pretrained one, p. By the data
    processing inequality it bounds that of the images. `ddim_step_kl_terms`, `ddpm_step_kl_terms`
    and `flow_step_kl_terms` give the terms; `PathKL` adds them up one step at a time.

    Forward reads dmu once, backward reads it once more and writes the gradient, and nothing of
    dmu's size is kept beside dmu. Differentiable by dmu and sigma, twice too (the second time by
    plain torch). For value and gradient in one pass: `path_kl_value_and_grad`.

    Args:
        dmu: `(T, B, *shape)`, differences of the means of T steps of B trajectories.
        sigma: `(T,)` or `(T, B)`, deviations of the noise, above 0, on dmu's device. On the CPU
            that is checked; on a GPU, which would have to be waited for, 0 gives inf (NaN where
            dmu is 0 too) and a negative number NaN.
        backend: "auto", "triton", "native" or "torch"; see `backends`.

    Returns:
        `(B,)` in nats, float32 (float64 for float64 dmu); zeros for T = 0. NaN in dmu makes its
        trajectory's NaN, an infinite number inf.

    Raises:
        TypeError: dmu or sigma is not a dense floating-point tensor.
        ValueError: wrong shapes or devices, or a step without noise.
        RuntimeError: the backend cannot run here.
    """
    return ops.path_kl(dmu, _checked(dmu, sigma, backend), False, backend)[0]


def path_kl_value_and_grad(
    dmu: Tensor, sigma: Tensor, *, backend: str = "auto"
) -> tuple[Tensor, Tensor]:
    """`path_kl`, and the gradient by dmu of its sum over the batch, in one pass over dmu.

    For loops that hold their own gradient: no autograd, dmu is read once and the gradient written
    once. Arguments and errors are those of `path_kl`.

    Returns:
        `(B,)` as `path_kl`, and the gradient `dmu_t / sigma_t^2` in dmu's shape and dtype.
    """
    sigma = _checked(dmu, sigma, backend)
    kl, _, grad = ops.path_kl(dmu.detach(), sigma.detach(), True, backend)
    return kl, grad


def _checked(dmu: Tensor, sigma: Tensor, backend: str) -> Tensor:
    """Checks the arguments; sigma as (T, 1) or (T, B)."""
    checks.path_kl(dmu, sigma)
    check_backend(backend, dmu)
    return sigma if sigma.dim() == 2 else sigma.unsqueeze(1)


def ddim_step_kl_terms(
    difference: Tensor,
    *,
    alpha_cumprod: float | Tensor,
    alpha_cumprod_prev: float | Tensor,
    eta: float,
    prediction_type: str = "epsilon",
) -> tuple[Tensor, Tensor]:
    """dmu and sigma of DDIM steps with noise, for `path_kl` (arXiv 2010.02502, eq. 12 and 16).

    With a and a' for alpha_cumprod and alpha_cumprod_prev:
    `sigma = eta sqrt((1 - a') / (1 - a)) sqrt(1 - a / a')`,
    `dmu = (sqrt(1 - a' - sigma^2) - sqrt(a' (1 - a) / a)) d_eps`, the difference of the means of
    diffusers' `DDIMScheduler.step` without `clip_sample` or `thresholding`.

    Args:
        difference: `(B, *shape)` of one step or `(T, B, *shape)` of many: the fine-tuned model's
            output minus the pretrained one's, at the same x_t (and after guidance, if there is).
        alpha_cumprod: a number, or a tensor whose shape begins difference's: (), (B,), (T,)
            or (T, B); abar at the step's timestep, `scheduler.alphas_cumprod[t]`.
        alpha_cumprod_prev: the same at the timestep that the step leads to;
            0 < alpha_cumprod < alpha_cumprod_prev < 1. alpha_cumprod may be 0 (schedules of
            zero terminal signal-to-noise ratio) where the model does not predict epsilon.
        eta: 0 < eta <= 1. Without noise, eta = 0, different means have no common path and
            the KL is infinite.
        prediction_type: of the model: "epsilon", "v_prediction" or "sample".

    Returns:
        dmu in difference's shape, float32 (float64 for float64), differentiable; sigma in the shape
        of the schedule's values, on difference's device.

    Raises:
        TypeError: not floating-point tensors or numbers.
        ValueError: values out of range, eta = 0 and the step to alpha_cumprod = 1 among them;
            shapes that do not fit.
    """
    checks.floating("difference", difference)
    if isinstance(eta, Real) and not isinstance(eta, bool) and eta == 0:
        raise ValueError(
            "eta must be above 0 and at most 1, got 0: DDIM without noise is deterministic, and "
            "the KL between the paths of two such samplers that differ is infinite"
        )
    eta = checks.within("eta", eta, 0, 1)
    a, a_prev = _alphas(alpha_cumprod, alpha_cumprod_prev, prediction_type)
    return _terms(difference, *reference.ddim_terms(a, a_prev, eta, prediction_type))


def ddpm_step_kl_terms(
    difference: Tensor,
    *,
    alpha_cumprod: float | Tensor,
    alpha_cumprod_prev: float | Tensor,
    prediction_type: str = "epsilon",
    variance_type: str = "fixed_small",
) -> tuple[Tensor, Tensor]:
    """dmu and sigma of DDPM's ancestral steps, for `path_kl` (arXiv 2006.11239, eq. 6, 7, 11).

    With a and a' for alpha_cumprod and alpha_cumprod_prev, alpha = a / a', beta = 1 - alpha:
    `dmu = beta / (sqrt(alpha) sqrt(1 - a)) d_eps`, `sigma^2 = beta (1 - a') / (1 - a)`: the steps
    of diffusers' `DDPMScheduler` without `clip_sample` or `thresholding`, also over a subset of the
    timesteps. dmu has the sign of d_eps; the mean moves the other way, which no cost sees.

    Args:
        difference: as of `ddim_step_kl_terms`.
        alpha_cumprod: as of `ddim_step_kl_terms`.
        alpha_cumprod_prev: as of `ddim_step_kl_terms`. The step to timestep "-1" adds no noise.
        prediction_type: of the model: "epsilon", "v_prediction" or "sample".
        variance_type: "fixed_small", as above, or "fixed_large", sigma^2 = beta.

    Returns:
        dmu and sigma as of `ddim_step_kl_terms`, and its errors.
    """
    checks.floating("difference", difference)
    checks.one_of("variance_type", variance_type, checks.VARIANCES)
    a, a_prev = _alphas(alpha_cumprod, alpha_cumprod_prev, prediction_type)
    terms = reference.ddpm_terms(a, a_prev, variance_type, prediction_type)
    return _terms(difference, *terms)


def flow_step_kl_terms(
    difference: Tensor,
    *,
    t: float | Tensor,
    dt: float | Tensor,
    noise_scale: float | Tensor,
) -> tuple[Tensor, Tensor]:
    """dmu and sigma of Euler-Maruyama steps of a flow-matching model's SDE, for `path_kl`.

    x_t = (1 - t) x_0 + t noise, so t = 1 is noise and v = noise - x_0. The SDE with the flow's
    marginals (Flow-GRPO, arXiv 2505.05470, eq. 9) has the mean
    `x_t - dt (v + s^2 / (2 t) (x_t + (1 - t) v))` and the deviation `s sqrt(dt)`, with s =
    `noise_scale` at t. So `dmu = dt (1 + s^2 (1 - t) / (2 t)) dv` (up to the sign, which no cost
    sees), and the cost is `dt / 2 (1 / s + s (1 - t) / (2 t))^2 ||dv||^2`.

    Args:
        difference: as of `ddim_step_kl_terms`, of predicted velocities.
        t: 0 < t <= 1: the time at which the velocity was taken (diffusers'
            `scheduler.sigmas[i]`), a number or a tensor as of `ddim_step_kl_terms`.
        dt: 0 < dt <= t: the length of the step, `scheduler.sigmas[i] - scheduler.sigmas[i + 1]`.
        noise_scale: above 0 and finite. Flow-GRPO's is `level sqrt(t / (1 - t))`; at t = 1, where
            that is infinite, its code divides by the next step's 1 - t.

    Returns:
        dmu and sigma as of `ddim_step_kl_terms`; sigma in the broadcast shape of t, dt and
        noise_scale, differentiable by noise_scale.

    Raises:
        TypeError: not floating-point tensors or numbers.
        ValueError: values out of range, or shapes that do not fit.
    """
    checks.floating("difference", difference)
    checks.schedule("t", t, 0, 1)
    checks.schedule("dt", dt, 0, 1)
    checks.schedule("noise_scale", noise_scale, 0, float("inf"), NO_NOISE)
    values = _numbers(t, dt, noise_scale)
    checks.schedule("t - dt", values[0] - values[1], -1e-6, 1)
    mean, sigma = reference.flow_terms(*values)
    return _terms(difference, mean, sigma)


def _numbers(*values: float | Tensor) -> list[Tensor]:
    """Schedule values as float64 tensors: differences of those near 1 lose digits otherwise."""
    device = next((v.device for v in values if isinstance(v, Tensor)), "cpu")
    return [
        v.to(device, torch.float64)
        if isinstance(v, Tensor)
        else torch.tensor(float(v), dtype=torch.float64, device=device)
        for v in values
    ]


def _alphas(alpha: float | Tensor, previous: float | Tensor, prediction: str) -> list[Tensor]:
    """0 < a < a' < 1; 0 <= a if the model predicts what an x_t without signal has."""
    checks.one_of("prediction_type", prediction, checks.PREDICTIONS)
    silent = prediction == "epsilon"
    checks.schedule("alpha_cumprod", alpha, 0, 1, NO_SIGNAL if silent else "", closed=not silent)
    checks.schedule("alpha_cumprod_prev", previous, 0, 1)
    a, a_prev = _numbers(alpha, previous)
    checks.schedule("1 - alpha_cumprod_prev", 1 - a_prev, 0, 1, LAST_STEP)
    checks.schedule("alpha_cumprod_prev - alpha_cumprod", a_prev - a, 0, 1, NO_NOISE)
    return [a, a_prev]


def _terms(difference: Tensor, mean: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """`mean` times the difference, and sigma, in its computing type and on its device."""
    mean, sigma = torch.broadcast_tensors(mean, sigma)
    if mean.shape != difference.shape[: mean.dim()]:
        raise ValueError(
            f"difference must have a shape that begins with the schedule's, "
            f"{tuple(mean.shape)}, got {tuple(difference.shape)}"
        )
    # Of half precision, a rounded factor would be a bias of up to 1% in every cost.
    dtype = torch.float64 if difference.dtype == torch.float64 else torch.float32
    mean, sigma = (v.to(difference.device, dtype) for v in (mean, sigma))
    rest = [1] * (difference.dim() - mean.dim())
    return difference.to(dtype) * mean.reshape(*mean.shape, *rest), sigma
