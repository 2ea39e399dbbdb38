"""Path KL of samplers with noise, and its terms for the steps of common samplers."""

from __future__ import annotations

from numbers import Real

import torch
from torch import Tensor

from gaussreg_fast import _path_checks, _precision, checks, ops, reference
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
    """Return the path KL of each trajectory: `sum_t ||dmu_t||^2 / (2 sigma_t^2)`.

    Take two samplers that add the same noise, of deviation sigma_t, to different means, mu_t and
    mu_t + dmu_t. The KL divergence between their paths is the expectation of this sum over
    trajectories (Girsanov; Tang and Zhou, arXiv 2403.06279): KL(q || p) for trajectories of the
    fine-tuned sampler q, KL(p || q) for those of the pretrained sampler p. By the data processing
    inequality it is an upper bound of the KL divergence between the images. `ddim_step_kl_terms`,
    `ddpm_step_kl_terms` and `flow_step_kl_terms` compute dmu and sigma; `PathKL` adds the sum up
    one step at a time.

    Forward reads dmu once; backward reads it once more and writes the gradient. Beside dmu, nothing
    of its size is kept. The result is differentiable by dmu and sigma, also twice (the second time
    in plain torch). `path_kl_value_and_grad` computes value and gradient in one pass.

    Args:
        dmu: `(T, B, *shape)`, differences of the means of T steps of B trajectories.
        sigma: `(T,)` or `(T, B)`, standard deviations of the noise, above 0, on dmu's device. Only
            on the CPU this is checked, because a check on a GPU would wait for it: there 0 gives
            inf (NaN if dmu is 0 too), and a negative number gives NaN.
        backend: "auto", "triton", "native" or "torch"; see `backends`.

    Returns:
        `(B,)` in nats, float32 (float64 for float64 dmu); zeros for T = 0. NaN in dmu makes the
        result of its trajectory NaN, an infinite number makes it inf.

    Raises:
        TypeError: dmu or sigma is not a dense floating-point tensor.
        ValueError: shapes or devices do not match, or a step has no noise.
        RuntimeError: the backend cannot run here.
    """
    return ops.path_kl(dmu, _check(dmu, sigma, backend), False, backend)[0]


def path_kl_value_and_grad(
    dmu: Tensor, sigma: Tensor, *, backend: str = "auto"
) -> tuple[Tensor, Tensor]:
    """Return `path_kl`, and the gradient by dmu of its sum over the batch, in one pass over dmu.

    It is meant for loops that handle gradients themselves, without autograd: dmu is read once and
    the gradient written once. Arguments and errors are those of `path_kl`.

    Returns:
        The path KL `(B,)`, and the gradient `dmu_t / sigma_t^2` in dmu's shape and dtype.
    """
    sigma = _check(dmu, sigma, backend)
    kl, _, grad = ops.path_kl(dmu.detach(), sigma.detach(), True, backend)
    return kl, grad


def _check(dmu: Tensor, sigma: Tensor, backend: str) -> Tensor:
    """Check the arguments, and return sigma as (T, 1) or (T, B)."""
    _path_checks.path_kl(dmu, sigma)
    check_backend(backend, dmu, "dmu")
    return sigma if sigma.dim() == 2 else sigma.unsqueeze(1)


def ddim_step_kl_terms(
    difference: Tensor,
    *,
    alpha_cumprod: float | Tensor,
    alpha_cumprod_prev: float | Tensor,
    eta: float,
    prediction_type: str = "epsilon",
) -> tuple[Tensor, Tensor]:
    """Return dmu and sigma of DDIM steps with noise (arXiv 2010.02502, eq. 12 and 16).

    They are the arguments of `path_kl`. With a = alpha_cumprod and a' = alpha_cumprod_prev:
    `sigma = eta sqrt((1 - a') / (1 - a)) sqrt(1 - a / a')`,
    `dmu = (sqrt(1 - a' - sigma^2) - sqrt(a' (1 - a) / a)) d_eps`, the difference of the means of
    diffusers' `DDIMScheduler.step` without `clip_sample` or `thresholding`.

    Args:
        difference: `(B, *shape)` of one step or `(T, B, *shape)` of many: the fine-tuned model's
            output minus the pretrained one's, at the same x_t (after guidance, if there is any).
        alpha_cumprod: abar at the step's timestep, `scheduler.alphas_cumprod[t]`: a number, or a
            tensor whose shape is the beginning of difference's: (), (B,), (T,) or (T, B).
        alpha_cumprod_prev: the same at the timestep that the step leads to;
            0 < alpha_cumprod < alpha_cumprod_prev < 1. alpha_cumprod may be 0 (schedules of
            zero terminal signal-to-noise ratio) if the model does not predict epsilon.
        eta: 0 < eta <= 1. Without noise, eta = 0, different means have no common path and
            the KL is infinite.
        prediction_type: prediction of the model: "epsilon", "v_prediction" or "sample".

    Returns:
        dmu in difference's shape, float32 (float64 for float64), differentiable; sigma in the shape
        of the schedule's values, on difference's device.

    Raises:
        TypeError: an argument is neither a number nor a floating-point tensor.
        ValueError: a value is out of range (eta = 0 and the step to alpha_cumprod = 1 are), or
            shapes do not match.
    """
    checks.floating("difference", difference)
    if isinstance(eta, Real) and not isinstance(eta, bool) and eta == 0:
        raise ValueError(
            "eta must be above 0 and at most 1, got 0: DDIM without noise is deterministic, and "
            "the KL between the paths of two such samplers that differ is infinite"
        )
    eta = checks.within("eta", eta, 0, 1)
    a, a_prev = _alphas(difference, alpha_cumprod, alpha_cumprod_prev, prediction_type)
    return _terms(difference, *reference.ddim_terms(a, a_prev, eta, prediction_type))


def ddpm_step_kl_terms(
    difference: Tensor,
    *,
    alpha_cumprod: float | Tensor,
    alpha_cumprod_prev: float | Tensor,
    prediction_type: str = "epsilon",
    variance_type: str = "fixed_small",
) -> tuple[Tensor, Tensor]:
    """Return dmu and sigma of DDPM's ancestral steps (arXiv 2006.11239, eq. 6, 7 and 11).

    They are the arguments of `path_kl`. With a = alpha_cumprod and a' = alpha_cumprod_prev,
    alpha = a / a', beta = 1 - alpha: `dmu = beta / (sqrt(alpha) sqrt(1 - a)) d_eps`,
    `sigma^2 = beta (1 - a') / (1 - a)`: the steps of diffusers' `DDPMScheduler` without
    `clip_sample` or `thresholding`, also over a subset of the timesteps. dmu has the sign of
    d_eps, and the mean the opposite one; the cost, a square, does not depend on it.

    Args:
        difference: see `ddim_step_kl_terms`.
        alpha_cumprod: see `ddim_step_kl_terms`.
        alpha_cumprod_prev: see `ddim_step_kl_terms`. The step to timestep "-1" adds no noise.
        prediction_type: prediction of the model: "epsilon", "v_prediction" or "sample".
        variance_type: "fixed_small" for the sigma above, or "fixed_large" for sigma^2 = beta.

    Returns:
        dmu and sigma: see `ddim_step_kl_terms`, also for the errors.
    """
    checks.floating("difference", difference)
    checks.one_of("variance_type", variance_type, checks.VARIANCES)
    a, a_prev = _alphas(difference, alpha_cumprod, alpha_cumprod_prev, prediction_type)
    terms = reference.ddpm_terms(a, a_prev, variance_type, prediction_type)
    return _terms(difference, *terms)


def flow_step_kl_terms(
    difference: Tensor,
    *,
    t: float | Tensor,
    dt: float | Tensor,
    noise_scale: float | Tensor,
) -> tuple[Tensor, Tensor]:
    """Return dmu and sigma of Euler-Maruyama steps of a flow-matching model's SDE.

    They are the arguments of `path_kl`. x_t = (1 - t) x_0 + t noise, so t = 1 is noise and
    v = noise - x_0. The SDE with the flow's marginals (Flow-GRPO, arXiv 2505.05470, eq. 9) has the
    mean `x_t - dt (v + s^2 / (2 t) (x_t + (1 - t) v))` and the deviation `s sqrt(dt)`, with s =
    `noise_scale` at t. So `dmu = dt (1 + s^2 (1 - t) / (2 t)) dv` (up to the sign, on which the
    cost does not depend), and the cost is `dt / 2 (1 / s + s (1 - t) / (2 t))^2 ||dv||^2`.

    Args:
        difference: see `ddim_step_kl_terms`; here the difference of predicted velocities.
        t: 0 < t <= 1: the time of the velocity (diffusers' `scheduler.sigmas[i]`), a number or a
            tensor like `alpha_cumprod` of `ddim_step_kl_terms`.
        dt: 0 < dt <= t: the length of the step, `scheduler.sigmas[i] - scheduler.sigmas[i + 1]`.
        noise_scale: above 0 and finite. Flow-GRPO's is `level sqrt(t / (1 - t))`; at t = 1, where
            that is infinite, its code divides by the next step's 1 - t.

    Returns:
        dmu and sigma, see `ddim_step_kl_terms`; sigma in the broadcast shape of t, dt and
        noise_scale, differentiable by noise_scale.

    Raises:
        TypeError: an argument is neither a number nor a floating-point tensor.
        ValueError: a value is out of range, or shapes do not match.
    """
    checks.floating("difference", difference)
    _path_checks.schedule("t", t, 0, 1)
    _path_checks.schedule("dt", dt, 0, 1)
    _path_checks.schedule("noise_scale", noise_scale, 0, float("inf"), NO_NOISE)
    values = _numbers(difference, t=t, dt=dt, noise_scale=noise_scale)
    _path_checks.schedule("t - dt", values[0] - values[1], -1e-6, 1)
    mean, sigma = reference.flow_terms(*values)
    return _terms(difference, mean, sigma)


def _numbers(difference: Tensor, **schedule: float | Tensor) -> list[Tensor]:
    """Check the shapes of a schedule's values, and return the values as float64 tensors.

    Differences near 1 would lose digits in float32. Values from a device without float64 are
    computed on the CPU.
    """
    _path_checks.shapes(difference, schedule)
    values = schedule.values()
    cpu = torch.device("cpu")
    device = next((v.device for v in values if isinstance(v, Tensor)), cpu)
    if _precision.exact_dtype(device) != torch.float64:
        device = cpu
    dtype = _precision.exact_dtype(device)
    return [
        v.to(device).to(dtype)
        if isinstance(v, Tensor)
        else torch.tensor(float(v), dtype=dtype, device=device)
        for v in values
    ]


def _alphas(
    difference: Tensor, alpha: float | Tensor, previous: float | Tensor, prediction: str
) -> list[Tensor]:
    """Check 0 < a < a' < 1 and return both; a may be 0 unless the model predicts epsilon."""
    checks.one_of("prediction_type", prediction, checks.PREDICTIONS)
    zero_allowed = prediction != "epsilon"
    why = "" if zero_allowed else NO_SIGNAL
    _path_checks.schedule("alpha_cumprod", alpha, 0, 1, why, closed=zero_allowed)
    _path_checks.schedule("alpha_cumprod_prev", previous, 0, 1)
    a, a_prev = _numbers(difference, alpha_cumprod=alpha, alpha_cumprod_prev=previous)
    _path_checks.schedule("1 - alpha_cumprod_prev", 1 - a_prev, 0, 1, LAST_STEP)
    _path_checks.schedule("alpha_cumprod_prev - alpha_cumprod", a_prev - a, 0, 1, NO_NOISE)
    return [a, a_prev]


def _terms(difference: Tensor, mean: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """Return `mean` times the difference, and sigma, in the type to compute in, on its device."""
    mean, sigma = torch.broadcast_tensors(mean, sigma)
    # Not in half precision: rounding the factor would bias every cost by up to 1%.
    dtype = checks.result_dtype(difference)
    mean, sigma = (v.to(dtype).to(difference.device) for v in (mean, sigma))
    rest = [1] * (difference.dim() - mean.dim())
    return difference.to(dtype) * mean.reshape([*mean.shape, *rest]), sigma
