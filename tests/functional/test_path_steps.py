"""Path KL against closed forms of Gaussian chains, and its steps against diffusers' schedulers."""

import functools
import math
import re

import draws
import numpy as np
import pytest
import torch
from against_reference import DTYPES

import gaussreg_fast as gf
from bench import ROOT

double_noise = functools.partial(draws.noise, dtype=torch.float64)


# ---------------------------------------------------------------- closed forms


def joint_kl(chain, base):
    """KL of two Gaussian chains x' = a x + m + sigma z from one start: of (x_1, .. x_T) at once."""

    def law(a, m, sigma, steps, start):
        mean, cov = np.zeros(steps), np.zeros((steps, steps))
        for i in range(steps):
            mean[i] = a * (mean[i - 1] if i else start) + m
            for j in range(i):
                cov[i, j] = cov[j, i] = a ** (i - j) * cov[j, j]
            cov[i, i] = a**2 * (cov[i - 1, i - 1] if i else 0) + sigma**2
        return mean, cov

    (m1, s1), (m0, s0) = law(*chain), law(*base)
    inverse = np.linalg.inv(s0)
    gap = m1 - m0
    logs = np.linalg.slogdet(s0)[1] - np.linalg.slogdet(s1)[1]
    return 0.5 * (np.trace(inverse @ s1) + gap @ inverse @ gap - len(gap) + logs), m1, s1


@pytest.mark.parametrize("slopes", [(0.9, 0.9), (0.7, 0.95), (1.1, 0.5)])
def test_gaussian_chains(slopes):
    """The cost is quadratic in the path, so its expectation is the mean over 2 T points."""
    a, a0, m, m0, sigma, steps, start = *slopes, 0.3, -0.2, 0.4, 6, 1.5
    want, mean, cov = joint_kl((a, m, sigma, steps, start), (a0, m0, sigma, steps, start))
    root = np.linalg.cholesky(cov) * math.sqrt(steps)
    paths = np.concatenate([mean[:, None] + root, mean[:, None] - root], 1)  # (T, 2 T)
    before = np.concatenate([np.full((1, 2 * steps), start), paths[:-1]])
    dmu = torch.from_numpy((a - a0) * before + (m - m0))
    value = gf.path_kl(dmu, torch.full((steps,), sigma, dtype=torch.float64))
    assert value.mean().item() == pytest.approx(want, rel=1e-12)


def test_ornstein_uhlenbeck():
    """dx = -k x dt + g dW against the same with k0, from x_0 = 1: the integral in closed form."""
    k, k0, g, horizon, steps = 1.3, 0.4, 0.7, 2.0, 4000
    stationary = g**2 / (2 * k)
    second = (1 - stationary) * (1 - math.exp(-2 * k * horizon)) / (2 * k) + stationary * horizon
    want = 0.5 * (k - k0) ** 2 / g**2 * second
    dt = horizon / steps
    t = dt * (torch.arange(steps, dtype=torch.float64) + 0.5)
    root = ((1 - stationary) * torch.exp(-2 * k * t) + stationary).sqrt()  # sqrt(E x_t^2)
    dmu = ((k - k0) * dt * root)[:, None]
    value = gf.path_kl(dmu, torch.full((steps,), g * math.sqrt(dt), dtype=torch.float64))
    assert value.item() == pytest.approx(want, rel=1e-6)


# ---------------------------------------------------------------- steps of diffusers


def schedulers():
    return pytest.importorskip("diffusers")


def means(step, outputs):
    """Results of a scheduler's step for two models, with the same noise."""
    results = []
    for output in outputs:
        generator = torch.Generator().manual_seed(1)
        results.append(step(output, generator).prev_sample)
    return results


PREDICTIONS = ["epsilon", "v_prediction", "sample"]


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("eta", [0.1, 0.7, 1.0])
def test_ddim_steps_are_those_of_diffusers(eta, prediction):
    scheduler = schedulers().DDIMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False,
        set_alpha_to_one=False, steps_offset=1, prediction_type=prediction,
    )  # fmt: skip
    alphas = scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    scheduler.final_alpha_cumprod = alphas[0]
    scheduler.set_timesteps(50)
    x, one, two = (double_noise(2, 3, 4, 4, seed=seed) for seed in range(3))
    for t in scheduler.timesteps[[0, 20, 49]].tolist():
        previous = t - 20
        a, a_prev = alphas[t], alphas[previous] if previous >= 0 else alphas[0]
        dmu, sigma = gf.ddim_step_kl_terms(
            two - one, alpha_cumprod=a, alpha_cumprod_prev=a_prev, eta=eta,
            prediction_type=prediction,
        )  # fmt: skip
        mean, other = means(
            lambda out, gen, t=t: scheduler.step(out, t, x, eta=eta, generator=gen), (one, two)
        )
        torch.testing.assert_close(dmu, other - mean, rtol=1e-9, atol=1e-12)
        variance = scheduler._get_variance(t, previous)
        torch.testing.assert_close(sigma, eta * variance.sqrt(), rtol=1e-9, atol=0)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
@pytest.mark.parametrize("steps", [1000, 40])
def test_ddpm_steps_are_those_of_diffusers(steps, variance, prediction):
    scheduler = schedulers().DDPMScheduler(
        clip_sample=False, variance_type=variance, prediction_type=prediction
    )
    alphas = scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    scheduler.set_timesteps(steps)
    x, one, two = (double_noise(2, 3, 4, 4, seed=seed) for seed in range(3))
    for t in scheduler.timesteps[[0, steps // 2, -2]].tolist():
        previous = t - 1000 // steps
        dmu, sigma = gf.ddpm_step_kl_terms(
            two - one, alpha_cumprod=alphas[t], alpha_cumprod_prev=alphas[previous],
            variance_type=variance, prediction_type=prediction,
        )  # fmt: skip
        mean, other = means(
            lambda out, gen, t=t: scheduler.step(out, t, x, generator=gen), (one, two)
        )
        torch.testing.assert_close(dmu, mean - other, rtol=1e-9, atol=1e-12)  # the other way
        torch.testing.assert_close(sigma, scheduler._get_variance(t).sqrt(), rtol=1e-9, atol=0)


@pytest.mark.parametrize("prediction", PREDICTIONS[1:])
def test_first_steps_of_zero_terminal_snr_are_those_of_diffusers(prediction):
    """abar is 0 there: nothing is left of the image in x_t."""
    options = {"prediction_type": prediction, "clip_sample": False, "rescale_betas_zero_snr": True}
    scheduler = schedulers().DDIMScheduler(**options, timestep_spacing="trailing")
    alphas = scheduler.alphas_cumprod
    scheduler.set_timesteps(10)
    assert alphas[999] == 0
    x, one, two = (double_noise(2, 3, 4, 4, seed=seed) for seed in range(3))
    mean, other = means(
        lambda out, gen: scheduler.step(out, 999, x, eta=0.8, generator=gen), (one, two)
    )
    at = {"alpha_cumprod": alphas[999], "alpha_cumprod_prev": alphas[899]}
    dmu, sigma = gf.ddim_step_kl_terms(two - one, **at, eta=0.8, prediction_type=prediction)
    torch.testing.assert_close(dmu, other - mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(sigma.item(), 0.8 * (1 - alphas[899].item()) ** 0.5)
    # The limit of small abar, for the ancestral step too.
    for step, extra in ((gf.ddim_step_kl_terms, {"eta": 0.8}), (gf.ddpm_step_kl_terms, {})):
        near = {**at, "alpha_cumprod": 1e-14}
        got, wanted = (
            step(two - one, **where, **extra, prediction_type=prediction) for where in (at, near)
        )
        torch.testing.assert_close(got[0], wanted[0], rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(got[1].double(), wanted[1].double(), rtol=1e-6, atol=0)
    with pytest.raises(ValueError, match=r"alpha_cumprod must be above 0.*does not determine"):
        gf.ddim_step_kl_terms(two - one, **at, eta=0.8)


def test_ddim_at_eta_one_is_ddpm():
    d = double_noise(2, 5)
    alphas = {"alpha_cumprod": 0.3, "alpha_cumprod_prev": 0.4}
    dmu, sigma = gf.ddim_step_kl_terms(d, eta=1.0, **alphas)
    other, deviation = gf.ddpm_step_kl_terms(d, **alphas)
    torch.testing.assert_close(dmu, -other, rtol=1e-12, atol=0)
    torch.testing.assert_close(sigma, deviation, rtol=1e-12, atol=0)


def test_flow_steps():
    """Mean and deviation of Flow-GRPO's SDE step, on the timesteps of diffusers' scheduler."""
    scheduler = schedulers().FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(20)
    sigmas = scheduler.sigmas.double()
    x, one, two = (double_noise(2, 3, 4, 4, seed=seed) for seed in range(3))
    for i in (1, 10, 18):
        t, dt = sigmas[i], sigmas[i + 1] - sigmas[i]
        scale = 0.7 * (t / (1 - t)).sqrt()

        def mean(v, t=t, dt=dt, scale=scale):
            return x + (v + scale**2 / (2 * t) * (x + (1 - t) * v)) * dt

        dmu, sigma = gf.flow_step_kl_terms(two - one, t=t, dt=-dt, noise_scale=scale)
        torch.testing.assert_close(dmu, mean(one) - mean(two), rtol=1e-9, atol=1e-12)
        cost = -dt / 2 * (1 / scale + scale * (1 - t) / (2 * t)) ** 2 * (two - one).square()
        got = gf.path_kl(dmu[None], sigma[None])
        torch.testing.assert_close(got, cost.flatten(1).sum(1), rtol=1e-12, atol=0)


def test_flow_steps_keep_the_marginals():
    """Gaussian data: with the exact velocity, noise or not, the variance is that of the flow."""
    data, steps, scale = 0.5, 4000, 0.8  # standard deviation of x_0
    times = torch.linspace(1, 0.3, steps + 1, dtype=torch.float64)
    t, dt = times[:-1], times[:-1] - times[1:]
    factors, sigmas = gf.flow_step_kl_terms(  # of a difference of 1: the factor of v in the mean
        torch.ones(steps, 1, dtype=torch.float64), t=t, dt=dt, noise_scale=scale
    )
    slope = (t - (1 - t) * data**2) / ((1 - t) ** 2 * data**2 + t**2)  # v = slope x
    mean = 1 - dt * scale**2 / (2 * t) - factors[:, 0] * slope
    variance = 1.0
    for m, sigma in zip(mean.tolist(), sigmas.tolist(), strict=True):
        variance = m**2 * variance + sigma**2
    assert variance == pytest.approx(0.7**2 * data**2 + 0.3**2, rel=1e-3)


@pytest.mark.parametrize("per_sample", [False, True])
def test_many_steps_at_once(per_sample):
    d = double_noise(3, 2, 4, 4)
    shape = (3, 2) if per_sample else (3,)
    a = torch.linspace(0.1, 0.6, math.prod(shape), dtype=torch.float64).reshape(shape)
    options = {"eta": 0.5}
    dmu, sigma = gf.ddim_step_kl_terms(d, alpha_cumprod=a, alpha_cumprod_prev=a + 0.2, **options)
    assert (dmu.shape, sigma.shape) == (d.shape, shape)
    for t in range(3):
        one, s = gf.ddim_step_kl_terms(
            d[t], alpha_cumprod=a[t], alpha_cumprod_prev=a[t] + 0.2, **options
        )
        torch.testing.assert_close(one, dmu[t], rtol=1e-12, atol=0)
        torch.testing.assert_close(s, sigma[t], rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_terms_of_half_precision_are_not_biased(dtype):
    d = double_noise(2, 1000).to(dtype)
    alphas = {"alpha_cumprod": torch.tensor(0.3), "alpha_cumprod_prev": 0.4}
    dmu, sigma = gf.ddpm_step_kl_terms(d.requires_grad_(), **alphas)
    want, deviation = gf.ddpm_step_kl_terms(d.detach().double(), **alphas)
    assert dmu.dtype == sigma.dtype == torch.float32
    value, exact = gf.path_kl(dmu[None], sigma[None]), gf.path_kl(want[None], deviation[None])
    torch.testing.assert_close(value.double(), exact, rtol=1e-6, atol=0)
    value.sum().backward()
    assert d.grad.dtype == dtype


# ---------------------------------------------------------------- documentation


def code_of(page):
    text = (ROOT / "docs" / "guide" / page).read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)```", text, re.S)


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({}, 19),
        ({"set_alpha_to_one": False}, 19),
        ({"set_alpha_to_one": False, "steps_offset": 1}, 20),
    ],
)
def test_the_documented_uses_run(options, steps):
    streaming, rewards = code_of("fine-tune-on-rewards.md")
    scheduler = schedulers().DDIMScheduler(clip_sample=False, **options)
    scheduler.set_timesteps(20)
    torch.manual_seed(0)
    weight = torch.tensor(0.7, requires_grad=True)
    names = {
        "scheduler": scheduler, "x": torch.randn(3, 4, 8, 8), "alpha": 0.1,
        "unet": lambda x, t: weight * x, "base": lambda x, t: 0.5 * x,
        "decode": torch.tanh, "reward": lambda images: images.flatten(1).mean(1),
    }  # fmt: skip
    exec(streaming, names)
    assert names["kl"].steps == steps  # all that have noise
    assert (names["kl"].value > 0).all()
    names["loss"].backward()
    assert weight.grad.isfinite()
    names = {"scorer": lambda images, prompts: torch.randn(64), "images": None, "prompts": None}
    exec(rewards, names)
    assert names["advantage"].isfinite().all()
