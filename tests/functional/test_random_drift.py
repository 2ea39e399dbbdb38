"""Random calls of drift, path KL, divergences and the diagnosis, against formulas in float64."""

import math

import numpy as np
import pytest
import torch
from backends_here import quiet_interpreter
from hypothesis import assume, given
from hypothesis import strategies as st
from random_tensors import (
    DTYPES,
    FINITE,
    LAYOUTS,
    SEEDS,
    backend_for,
    calls,
    laid_out,
    samples,
    values,
)

import gaussreg_fast as gf

# Other libraries warn of constant samples and of deprecated tensors.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore"), quiet_interpreter]
WEIGHTS = st.sampled_from((0, 0.0, 1.0, 50.0, 1e-7))


@st.composite
def parameter(draw, shape):
    dtype = draw(st.sampled_from(DTYPES[:-1] * 2 + DTYPES))
    x = values("skewed", (1, *shape), draw(SEEDS))[0].to(dtype)
    return laid_out(x, draw(st.sampled_from(LAYOUTS))) if x.dim() else x


@st.composite
def drift_lists(draw):
    shape = st.lists(st.sampled_from((0, 1, 2, 3, 7, 16, 33)), max_size=3)
    params, base = [], []
    for s in draw(st.lists(shape, min_size=1, max_size=5)):
        params.append(draw(parameter(s)))
        base.append(draw(parameter(s)))
    return params, base


def _leaves(params, flags):
    """Returns ordinary parameters: memory of their own, some with a gradient already."""
    leaves = []
    for p, (trained, with_grad) in zip(params, flags, strict=True):
        leaf = p.detach().clone().requires_grad_(trained)
        if trained and with_grad:
            leaf.grad = torch.full_like(leaf, 0.25)
        leaves.append(leaf)
    return leaves


@calls(1300)
@given(drift_lists(), WEIGHTS, st.sampled_from(("sum", "tensor_mean")), st.booleans(), st.data())
def test_parameter_drift(lists, weight, reduction, named, data):
    params, base = lists
    kind = data.draw(st.sampled_from(("autograd", "value_and_grad", "accumulate", "decay")))
    flags = [data.draw(st.tuples(st.booleans(), st.booleans())) for _ in params]
    leaves = params
    if kind in ("accumulate", "decay"):
        leaves = _leaves(params, flags)
    elif kind == "autograd":
        leaves = [p.detach().requires_grad_() for p in params]
    before = [p.detach().clone() for p in leaves]
    left, right = leaves, base
    if named:
        names = [f"layer{i}" for i in range(len(params))]
        left = list(zip(names, leaves, strict=True))
        right = dict(reversed(list(zip(names, base, strict=True))))
    all_float32 = all(t.dtype != torch.float64 for t in (*params, *base))
    flat = torch.zeros(2, 2, dtype=torch.float32 if all_float32 else torch.float64)
    options = {"weight": weight, "reduction": reduction, "backend": data.draw(backend_for(flat))}
    factors = [weight / (max(1, p.numel()) if reduction == "tensor_mean" else 1) for p in params]
    gaps = [p.double() - b.double() for p, b in zip(before, base, strict=True)]
    want = sum(f * g.square().sum() for f, g in zip(factors, gaps, strict=True))
    slopes = [2 * f * g for f, g in zip(factors, gaps, strict=True)]
    if kind == "decay":
        rate = data.draw(st.sampled_from((0.0, 0.1, 3, 1e6)))
        gf.parameter_drift_decay_(left, right, rate=rate, **options)
        for p, b, g, f in zip(leaves, base, gaps, factors, strict=True):
            _near(p.detach(), b.double() + g * math.exp(-2 * rate * f), g.abs() + b.double().abs())
        return
    if kind == "autograd":
        value = gf.parameter_drift(left, right, **options)
        value.backward()
        grads = [p.grad for p in leaves]
    elif kind == "value_and_grad":
        value, grads = gf.parameter_drift_value_and_grad(left, right, **options)
    else:
        had = [0.25 if t and g else 0.0 for t, g in flags]
        value = gf.accumulate_parameter_drift(left, right, **options)
        assert [p.grad is not None for p in leaves] == [t for t, _ in flags]
        slopes = [s + h for s, h, (t, _) in zip(slopes, had, flags, strict=True) if t]
        grads = [p.grad for p in leaves if p.requires_grad]
    assert all(p.equal(b) for p, b in zip(leaves, before, strict=True)), "a parameter was changed"
    assert value.shape == ()
    torch.testing.assert_close(
        value.detach().double(), torch.as_tensor(want).double(), rtol=1e-5, atol=1e-30
    )
    for g, s in zip(grads, slopes, strict=True):
        _near(g, s, s.abs() + (0.5 if kind == "accumulate" else 0))


def _near(got, want, size):
    """Asserts that numbers are right to their dtype's rounding, relative to `size`."""
    info = torch.finfo(got.dtype)
    assert got.shape == want.shape
    gap = (got.double() - want).abs()
    reach = want.abs() < info.max / 2
    assert (
        gap[reach]
        <= (
            4 * info.eps * size
            + 2 * info.tiny * info.eps
            + 1e-37
            + 3e-7 * size * (info.eps > 1e-10)
        )[reach]
    ).all()


@st.composite
def lora_pairs(draw):
    pairs = []
    for _ in range(draw(st.integers(1, 3))):
        m, r, n = (draw(st.integers(1, 9)) for _ in range(3))
        convolution = draw(st.booleans())
        a = draw(parameter([r, n, 3, 3] if convolution else [r, n]))
        b = draw(parameter([m, r, 1, 1] if convolution else [m, r]))
        pairs.append((a, b))
    return pairs


@calls(400)
@given(lora_pairs(), st.sampled_from(("factors", "product")), WEIGHTS, st.data())
def test_lora_drift(pairs, form, weight, data):
    flat = [(a.detach().double().flatten(1), b.detach().double().flatten(1)) for a, b in pairs]
    double = any(t.dtype == torch.float64 for pair in pairs for t in pair)
    backend = data.draw(
        backend_for(torch.zeros(2, 2, dtype=torch.float64 if double else torch.float32))
    )
    leaves = [(a.detach().requires_grad_(), b.detach().requires_grad_()) for a, b in pairs]
    given_pairs = data.draw(st.sampled_from((leaves, dict(enumerate(leaves)))))
    value = gf.lora_drift(given_pairs, weight=weight, form=form, backend=backend)
    value.backward()
    exact = [tuple(t.requires_grad_() for t in pair) for pair in flat]
    if form == "factors":
        want = weight * sum(a.square().sum() + b.square().sum() for a, b in exact)
    else:
        want = weight * sum((b @ a).square().sum() for a, b in exact)
    want.backward()
    torch.testing.assert_close(value.double(), want, rtol=1e-5, atol=1e-30)
    for pair, exact_pair in zip(leaves, exact, strict=True):
        for t, e in zip(pair, exact_pair, strict=True):
            size = e.grad.abs().max() * torch.ones_like(e.grad)
            _near(t.grad.flatten(1), e.grad, 10 * size)


@calls(900)
@given(st.data(), st.integers(0, 4), st.integers(0, 4), st.booleans(), st.booleans())
def test_path_kl(data, steps, batch, per_trajectory, with_grad):
    shape = data.draw(st.lists(st.sampled_from((1, 2, 3, 8, 33, 0)), max_size=3))
    dtype = data.draw(st.sampled_from(DTYPES))
    x = values(
        data.draw(st.sampled_from(("noise", "zeros", "large"))),
        (steps, batch, *shape),
        data.draw(SEEDS),
    )
    dmu = laid_out(x.to(dtype), data.draw(st.sampled_from(LAYOUTS)))
    sigma_dtype = data.draw(st.sampled_from((dtype, torch.float32, torch.float64)))
    rng = np.random.default_rng(data.draw(SEEDS))
    shape = (steps, batch) if per_trajectory else (steps,)
    sigma = torch.from_numpy(np.exp(rng.uniform(-2, 2, shape))).to(sigma_dtype)
    if per_trajectory and data.draw(st.booleans()):
        sigma = sigma.T.contiguous().T
    backend = data.draw(backend_for(dmu))
    x, s = dmu.double().requires_grad_(), sigma.double().requires_grad_()
    deviation = s if per_trajectory else s[:, None]
    want = (
        x.reshape(steps, batch, math.prod(dmu.shape[2:])).square().sum(-1) / (2 * deviation**2)
    ).sum(0)
    if with_grad:
        value, grad = gf.path_kl_value_and_grad(dmu, sigma, backend=backend)
        grads, upstream = [grad], torch.ones(batch, dtype=torch.float64)
    else:
        z, d = dmu.detach().requires_grad_(), sigma.requires_grad_()
        value = gf.path_kl(z, d, backend=backend)
        upstream = torch.linspace(-1, 2, batch, dtype=torch.float32).double()
        value.backward(upstream.to(value.dtype))
        grads = [z.grad, d.grad]
    want.backward(upstream)
    assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(value.detach().double(), want.detach(), rtol=1e-5, atol=1e-30)
    for g, e in zip(grads, (x.grad, s.grad), strict=False):
        whole = want.detach().abs().sum() if g is not grads[0] else 0
        _near(g, e, 30 * e.abs() + 30 * whole * (upstream.abs().max() if batch else 0))


SCHEDULES = st.tuples(st.floats(0.02, 0.95), st.floats(0.02, 0.9))
ORIGIN = {
    "epsilon": lambda a: -np.sqrt((1 - a) / a), "sample": lambda a: 1.0,
    "v_prediction": lambda a: -np.sqrt(1 - a),
}  # fmt: skip


def _steps_by_hand(sampler, a, b, extra):
    """Returns the factor of a model's output in a step's mean, and sigma: textbook formulas."""
    if sampler == "flow":
        t, dt, scale = a, b, extra
        return dt * (1 + scale**2 * (1 - t) / (2 * t)), scale * np.sqrt(dt)
    prediction, last = extra
    x0 = ORIGIN[prediction](a)
    eps = -np.sqrt(a / (1 - a)) * x0  # x_t is the same in both models
    if sampler == "ddim":
        sigma = last * np.sqrt((1 - b) / (1 - a)) * np.sqrt(1 - a / b)
        return np.sqrt(b) * x0 + np.sqrt(max(0, 1 - b - sigma**2)) * eps, sigma
    beta = 1 - a / b
    sigma = np.sqrt(beta * ((1 - b) / (1 - a) if last == "fixed_small" else 1))
    return -np.sqrt(b) * beta / (1 - a) * x0, sigma


@calls(600)
@given(
    st.data(), st.sampled_from(("ddim", "ddpm", "flow")), st.sampled_from(((), (1,), (2,), (2, 3)))
)
def test_steps_of_samplers(data, sampler, schedule):
    dtype = data.draw(st.sampled_from(DTYPES))
    x = laid_out(
        values("noise", (2, 3, 5), data.draw(SEEDS)).to(dtype), data.draw(st.sampled_from(LAYOUTS))
    )
    x = x[: schedule[0]] if schedule else x
    pairs = [data.draw(SCHEDULES) for _ in range(math.prod(schedule))]
    number = data.draw(st.booleans()) and not schedule
    first = np.array([p[0] for p in pairs])
    second = np.array([p[1] for p in pairs])
    if sampler == "flow":
        second = first * second
        scale = data.draw(st.floats(0.1, 3))
        rows = [_steps_by_hand("flow", a, b, scale) for a, b in zip(first, second, strict=True)]
        names, options = ("t", "dt"), {"noise_scale": scale}
        function = gf.flow_step_kl_terms
    else:
        second = first + (1 - first) * second
        prediction = data.draw(st.sampled_from(("epsilon", "v_prediction", "sample")))
        options = {"prediction_type": prediction}
        names = ("alpha_cumprod", "alpha_cumprod_prev")
        if sampler == "ddim":
            last = options["eta"] = data.draw(st.sampled_from((1, 1.0, 0.3)))
            function = gf.ddim_step_kl_terms
        else:
            last = options["variance_type"] = data.draw(
                st.sampled_from(("fixed_small", "fixed_large"))
            )
            function = gf.ddpm_step_kl_terms
        rows = [
            _steps_by_hand(sampler, a, b, (prediction, last))
            for a, b in zip(first, second, strict=True)
        ]
    both = [
        float(v[0]) if number else torch.from_numpy(v).reshape(schedule) for v in (first, second)
    ]
    dmu, sigma = function(x, **dict(zip(names, both, strict=True)), **options)
    factor = torch.tensor([r[0] for r in rows], dtype=torch.float64).reshape(
        *schedule, *[1] * (3 - len(schedule))
    )
    want = torch.tensor([r[1] for r in rows], dtype=torch.float64).reshape(schedule)
    kind = torch.float64 if dtype == torch.float64 else torch.float32
    assert (dmu.dtype, sigma.dtype, dmu.shape) == (kind, kind, x.shape)
    # ||factor| only: the sign of dmu does not count, and d ddim is a difference.
    torch.testing.assert_close(
        dmu.double().abs(), (factor * x.double()).abs(), rtol=1e-6, atol=1e-7
    )
    torch.testing.assert_close(sigma.double(), want, rtol=1e-6, atol=0)


F = {
    "kl": lambda t, g: t * np.log(t), "forward_kl": lambda t, g: -np.log(t),
    "gamma": lambda t, g: (t ** (1 - g) - (1 - g) * t - g) / (g * (g - 1)),
    "chi2": lambda t, g: (t - 1) ** 2, "tv": lambda t, g: np.abs(t - 1) / 2,
    "js": lambda t, g: t * np.log(t) - (1 + t) * np.log((1 + t) / 2),
}  # fmt: skip
SLOPES = {  # f'
    "kl": lambda t, g: np.log(t) + 1, "forward_kl": lambda t, g: -1 / t,
    "gamma": lambda t, g: (t**-g - 1) / -g, "chi2": lambda t, g: 2 * (t - 1),
    "js": lambda t, g: np.log(2 * t / (1 + t)),
}  # fmt: skip
GAMMAS = st.floats(0.05, 0.95)


@calls(400)
@given(samples(kinds=FINITE, largest=60), st.sampled_from(sorted(F)), GAMMAS, st.sampled_from("pq"),
       st.sampled_from(("none", "mean", "sum")))  # fmt: skip
def test_f_divergence(x, kind, gamma, origin, reduction):
    assume(not len(x) or x.abs().max() < 40)
    value = gf.f_divergence(x, kind, gamma=gamma, samples=origin, reduction=reduction)
    t = x.double().exp().numpy()
    terms = torch.from_numpy(F[kind](t, gamma) / (t if origin == "q" else 1))
    want = {"none": terms, "sum": terms.sum(), "mean": terms.mean() if len(x) else terms.sum()}
    assert value.dtype == (torch.float64 if x.dtype == torch.float64 else torch.float32)
    size = (1 + t) / (t if origin == "q" else 1) / min(gamma, 1 - gamma)  # of the terms' parts
    torch.testing.assert_close(
        value.double(), want[reduction], rtol=1e-6, atol=1e-14 * (1 + size.sum())
    )


@calls(600)
@given(st.integers(1, 30), st.sampled_from(sorted(SLOPES)), st.floats(0.05, 20), GAMMAS, SEEDS,
       st.sampled_from(DTYPES), st.booleans())  # fmt: skip
def test_surrogate_rewards(count, kind, alpha, gamma, seed, dtype, grouped):
    reward = values("noise", (count,), seed).to(dtype)
    group = (
        torch.from_numpy(np.random.default_rng(seed).integers(-2, 2, count)) if grouped else None
    )
    got = gf.surrogate_reward(reward, kind, alpha=alpha, gamma=gamma, group=group)
    assert (got.dtype, got.shape) == (reward.dtype, reward.shape)
    log_w = got.double() / alpha
    members = group if grouped else torch.zeros(count, dtype=torch.int64)
    for g in members.unique():
        w, r = log_w[members == g].exp(), reward[members == g].double() / alpha
        alive = w > 0
        rounding = 2 * torch.finfo(dtype).eps * (1 + log_w[members == g][alive].abs())
        assert abs(w.mean() - 1) <= (w[alive] * rounding).mean() + 1e-9
        # (f')^{-1}((r - lambda) / alpha) = w, for the lambda of the group.
        slope = torch.from_numpy(np.asarray(SLOPES[kind](w[alive].numpy(), gamma)))
        lambdas = r[alive] - slope
        moved = torch.from_numpy(
            np.asarray(SLOPES[kind]((w[alive] * (1 + rounding)).numpy(), gamma))
        )
        allowed = (moved - slope).abs().max() * 4 + 1e-8 * (1 + slope.abs().max())
        assert lambdas.max() - lambdas.min() <= allowed


@calls(150)
@given(samples(smallest=32, kinds=FINITE))
def test_diagnosis(x):
    assume(len(x))
    d = gf.diagnose(x)
    rows = x.double().flatten(1).numpy()
    for n in range(1, 9):
        np.testing.assert_allclose(
            d.moments[:, n - 1],
            (rows**n).mean(1),
            rtol=1e-9,
            atol=1e-12 * (np.abs(rows) ** n).mean(),
        )
    assert all(((p >= 0) & (p <= 1)).all() for p in [*d.p_values.values(), d.p_value])
    assert 0 <= d.batch_p_value <= 1
    assert "verdict" in str(d)
