"""f-divergences and surrogate rewards against definitions, closed forms and SciPy's root finder."""

import functools
import math

import mpmath
import numpy as np
import pytest
import torch
from scipy import integrate, optimize, stats

import gaussreg_fast as gf

KINDS = ["kl", "forward_kl", "gamma", "chi2", "js"]
GAMMAS = [1e-9, 0.3, 0.5, 0.51, 0.9, 1 - 1e-9]
F = {
    "kl": lambda t, g: t * mpmath.log(t),
    "forward_kl": lambda t, g: -mpmath.log(t),
    "gamma": lambda t, g: (t ** (1 - g) - (1 - g) * t - g) / (g * (g - 1)),
    "chi2": lambda t, g: (t - 1) ** 2,
    "js": lambda t, g: t * mpmath.log(t) - (1 + t) * mpmath.log((1 + t) / 2),
    "tv": lambda t, g: abs(t - 1) / 2,
}
# (f')^{-1}(y), and the interval of lambda that SciPy searches for rewards r over alpha.
TILT = {
    "kl": lambda y, g: np.exp(y - 1),
    "forward_kl": lambda y, g: -1 / y,
    "gamma": lambda y, g: np.exp(-np.log1p(-g * y) / g),
    "chi2": lambda y, g: np.maximum(0, 1 + y / 2),
    "js": lambda y, g: np.exp(y) / (2 - np.exp(y)),
}


def kinds_with_gamma(extra=()):
    return [(k, 0.5) for k in [*KINDS, *extra] if k != "gamma"] + [("gamma", g) for g in GAMMAS]


# ---------------------------------------------------------------- values


@pytest.mark.parametrize(("kind", "gamma"), kinds_with_gamma(["tv"]))
@pytest.mark.parametrize("samples", ["p", "q"])
def test_terms_against_many_digits(compare, kind, gamma, samples):
    points = [-500, -80.5, -3, -1, -1e-3, 0.3, 1, 5, 80.5, 300, 500]
    with mpmath.workdps(400):
        ts = [mpmath.e ** mpmath.mpf(x) for x in points]
        want = [F[kind](t, mpmath.mpf(gamma)) / (t if samples == "q" else 1) for t in ts]
        want = [float(w) if abs(w) < 1e308 else math.inf for w in want]
    log_t = torch.tensor(points, dtype=torch.float64)
    got = gf.f_divergence(log_t, kind, gamma=gamma, samples=samples, reduction="none")
    finite = np.isfinite(want)
    assert np.array_equal(np.isinf(got.numpy()), ~finite)
    # At 1e-3 the value is about 1e-6, a difference of terms near 1e-3.
    compare.values(got[finite], np.array(want)[finite], 1e-11)
    at_zero = gf.f_divergence(torch.zeros(3), kind, gamma=gamma, samples=samples)
    assert at_zero.item() == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize(("kind", "gamma"), kinds_with_gamma(["tv"]))
def test_limits(kind, gamma):
    log_t = torch.tensor([-math.inf, -2000.0, 2000.0, math.inf], requires_grad=True)
    got = gf.f_divergence(log_t, kind, gamma=gamma, reduction="none")
    at_zero = {"kl": 0, "chi2": 1, "js": math.log(2), "tv": 0.5, "gamma": 1 / (1 - gamma)}
    if kind == "forward_kl":
        assert got.tolist() == [math.inf, 2000, -2000, -math.inf]
    else:
        want = pytest.approx(at_zero[kind], rel=1e-6)
        assert got[0].item() == want
        if gamma < 0.9:
            assert got[1].item() == want
        assert got[2:].tolist() == [math.inf, math.inf]


@pytest.mark.parametrize("kind", [*KINDS, "tv"])
@pytest.mark.parametrize("samples", ["p", "q"])
def test_gradients_up_to_the_end_of_the_range(kind, samples):
    """700 is where float64 is about to overflow, and a number of half precision."""
    log_t = torch.tensor([-800.0, -700, -500, 0, 500, 700, 800], requires_grad=True)
    gf.f_divergence(log_t, kind, samples=samples, reduction="sum").backward()
    assert not log_t.grad.isnan().any()
    assert log_t.grad[3].isfinite()


@pytest.mark.parametrize(("kind", "gamma"), [(k, 0.3) for k in (*KINDS, "tv")])
@pytest.mark.parametrize("samples", ["p", "q"])
def test_gaussians_by_quadrature(kind, gamma, samples):
    """The definition's integral, and the estimate on a fine grid of quantiles of p or q."""
    p, q = stats.norm(0, 1), stats.norm(0.4, 0.97)

    def integrand(x):
        return float(F[kind](mpmath.mpf(q.pdf(x) / p.pdf(x)), gamma)) * p.pdf(x)

    want = integrate.quad(integrand, -9, 9, epsabs=1e-10, limit=200)[0]
    u = (np.arange(20000) + 0.5) / 20000
    x = (p if samples == "p" else q).ppf(u)
    log_t = torch.from_numpy(q.logpdf(x) - p.logpdf(x))
    got = gf.f_divergence(log_t, kind, gamma=gamma, samples=samples)
    assert got.item() == pytest.approx(want, rel=2e-3)
    if kind == "kl":
        assert want == pytest.approx(0.5 * (0.16 + 0.97**2 - 1) - math.log(0.97), rel=1e-6)


@pytest.mark.parametrize(("gamma", "kind"), [(1e-7, "kl"), (1 - 1e-7, "forward_kl")])
def test_gamma_between_kl_and_forward_kl(gamma, kind):
    log_t = torch.linspace(-4, 4, 33, dtype=torch.float64)
    got = gf.f_divergence(log_t, "gamma", gamma=gamma, reduction="none")
    linear = 1 - log_t.exp() if kind == "kl" else log_t.exp() - 1  # of expectation 0
    want = gf.f_divergence(log_t, kind, reduction="none") + linear
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_reductions_and_types(dtype):
    log_t = torch.linspace(-2, 2, 12).reshape(3, 4).to(dtype)
    each = gf.f_divergence(log_t, "js", reduction="none")
    assert each.shape == (3, 4)
    assert each.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(gf.f_divergence(log_t, "js"), each.mean())
    torch.testing.assert_close(gf.f_divergence(log_t, "js", reduction="sum"), each.sum())
    assert gf.f_divergence(log_t[:0], "js").item() == 0


# ---------------------------------------------------------------- surrogate rewards


def rewards(n, seed=0, spread=1.0):
    return spread * torch.from_numpy(np.random.default_rng(seed).standard_normal(n))


def weights(reward, kind, alpha, gamma, group=None):
    rt = gf.surrogate_reward(reward, kind, alpha=alpha, gamma=gamma, group=group)
    return (rt.double() / alpha).exp()


@pytest.mark.parametrize(("kind", "gamma"), kinds_with_gamma())
@pytest.mark.parametrize("alpha", [0.03, 0.5, 40.0])
def test_against_scipy(compare, kind, gamma, alpha):
    """The expected lambda of each group comes from Brent's method on the definition."""
    reward = rewards(40)
    group = torch.from_numpy(np.random.default_rng(1).integers(-2, 3, 40))
    got = gf.surrogate_reward(reward, kind, alpha=alpha, gamma=gamma, group=group)
    for number in group.unique():
        r = reward[group == number].numpy() / alpha
        low, high = bracket(kind, gamma, r)

        def excess(lam, r=r):
            with np.errstate(over="ignore"):
                return TILT[kind](r - lam, gamma).mean() - 1

        lam = optimize.brentq(excess, low, high, xtol=1e-14, rtol=1e-15, maxiter=500)
        with np.errstate(divide="ignore"):
            want = np.log(TILT[kind](r - lam, gamma))
        mine = got[group == number].numpy() / alpha
        assert np.array_equal(np.isinf(mine), np.isinf(want))
        there = np.isfinite(want)
        np.testing.assert_allclose(mine[there], want[there], rtol=1e-6, atol=1e-8)


def bracket(kind, gamma, r):
    top, n = r.max(), len(r)
    if kind == "kl":
        return top - 1 - 2 * math.log(n) - 1, top + 1
    if kind == "forward_kl":
        return top + 0.5 / n, top + 2
    if kind == "gamma":
        return top - (1 - 0.5 * n**-gamma) / gamma, top + 1 / n
    if kind == "chi2":
        return top - 2 * n - 1, top + 1
    return top - math.log(2 - 1e-12) + 1e-15 * abs(top), top + 1


@pytest.mark.parametrize(("kind", "gamma"), kinds_with_gamma())
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("alpha", [1e-6, 1e-2, 1.0, 1e6])
def test_weights_sum_to_one_and_grow_with_the_reward(kind, gamma, dtype, alpha):
    reward = rewards(300, spread=1e4).to(dtype)
    group = torch.from_numpy(np.random.default_rng(2).integers(0, 9, 300))
    rt = gf.surrogate_reward(reward, kind, alpha=alpha, gamma=gamma, group=group)
    assert rt.dtype == dtype
    assert not rt.isnan().any()
    w = (rt.double() / alpha).exp()
    for number in range(9):
        inside = group == number
        tolerance = 1e-5 if dtype == torch.float32 else 1e-11
        assert w[inside].mean().item() == pytest.approx(1, rel=tolerance)
        ordered = rt[inside][reward[inside].argsort()]
        assert (ordered.diff() >= 0).all() or ordered.isinf().any()
        assert (w[inside][reward[inside].argsort()].diff() >= 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_shifts_order_and_groups(kind):
    reward = rewards(20)
    group = torch.arange(20) % 3
    call = functools.partial(gf.surrogate_reward, kind=kind, alpha=0.4)
    want = call(reward, group=group)
    torch.testing.assert_close(call(reward + 7.5 * group, group=group), want)
    order = torch.from_numpy(np.random.default_rng(3).permutation(20))
    torch.testing.assert_close(call(reward[order], group=group[order]), want[order])
    torch.testing.assert_close(call(reward[group == 1]), want[group == 1])
    torch.testing.assert_close(call(reward, group=(100 - 7 * group).to(torch.int8)), want)
    torch.testing.assert_close(call(reward, group=torch.arange(20)), torch.zeros(20).double())
    torch.testing.assert_close(call(torch.full((5,), 3.0)), torch.zeros(5), rtol=0, atol=1e-15)
    assert call(reward[:0]).shape == (0,)


@pytest.mark.parametrize(("gamma", "kind"), [(1e-8, "kl"), (1 - 1e-8, "forward_kl")])
def test_limits_of_gamma(gamma, kind):
    r = rewards(50)
    got = gf.surrogate_reward(r, "gamma", alpha=0.5, gamma=gamma)
    torch.testing.assert_close(got, gf.surrogate_reward(r, kind, alpha=0.5), rtol=1e-5, atol=1e-6)


def test_two_samples_in_closed_form():
    """Rewards 0 and -d (over alpha): quadratic equations for the weight of the better one."""
    d = torch.tensor([0.3, 2.0, 9.0], dtype=torch.float64)
    reward = torch.stack([torch.zeros(3, dtype=torch.float64), -d], 1).flatten()
    group = torch.arange(3).repeat_interleave(2)

    def best(kind):
        return weights(reward, kind, 1.0, 0.5, group).reshape(3, 2)[:, 0]

    # 1/m + 1/(m+d) = 2, w = 1/m
    m = ((1 - d) + ((1 - d) ** 2 + 2 * d).sqrt()) / 2
    torch.testing.assert_close(best("forward_kl"), 1 / m, rtol=1e-12, atol=0)
    torch.testing.assert_close(best("kl"), 2 / (1 + (-d).exp()), rtol=1e-12, atol=0)
    # (1 + y/2) + (1 + (y-d)/2) = 2, unless the second is clipped
    torch.testing.assert_close(best("chi2"), (1 + d / 4).clamp_max(2), rtol=1e-12, atol=0)
    # 1/(m-1) + 1/(m e^d - 1) = 2, w = 1/(m-1)
    e = d.exp()
    b = 3 * (1 + e)
    m = (b + (b * b - 32 * e).sqrt()) / (4 * e)
    torch.testing.assert_close(best("js"), 1 / (m - 1), rtol=1e-9, atol=0)


def test_gaussian_with_a_linear_reward():
    """p = N(0, 1), r = c x: tilting by KL shifts it, by chi2 (unclipped) makes it linear."""
    c, alpha, n = 0.3, 0.8, 200_000
    x = torch.from_numpy(stats.norm.ppf((np.arange(n) + 0.5) / n))
    shifted = gf.surrogate_reward(c * x, "kl", alpha=alpha)
    torch.testing.assert_close(shifted, c * x - c**2 / (2 * alpha), rtol=0, atol=1e-5)
    w = (shifted / alpha).exp()
    assert (w * x).mean().item() == pytest.approx(c / alpha, rel=1e-3)
    linear = weights(c * x, "chi2", alpha, 0.5)
    torch.testing.assert_close(linear, 1 + c * x / (2 * alpha), rtol=1e-9, atol=1e-9)
    # Where it is clipped: lambda from E[(1 + (r - lambda) / (2 alpha))_+] = 1 of a normal variable.
    alpha = 0.05

    def mass(lam):
        a, b = 1 - lam / (2 * alpha), c / (2 * alpha)
        return a * stats.norm.cdf(a / b) + b * stats.norm.pdf(a / b) - 1

    lam = optimize.brentq(mass, -5, 5)
    w = weights(c * x, "chi2", alpha, 0.5)
    want = (1 + (c * x - lam) / (2 * alpha)).clamp_min(0)
    torch.testing.assert_close(w, want, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("kind", "gamma"), [(k, 0.4) for k in KINDS])
def test_it_is_the_optimum(kind, gamma):
    """E_q[r] - alpha D_f(q || p) falls in every direction from the tilted distribution."""
    reward, alpha = rewards(30), 0.6
    w = weights(reward, kind, alpha, gamma)

    def objective(w):
        divergence = gf.f_divergence(w.log(), kind, gamma=gamma)
        return ((w * reward).mean() - alpha * divergence).item()

    best = objective(w)
    for seed in range(20):
        direction = w * rewards(30, seed=seed + 10).clamp(-3, 3)
        direction -= w * direction.mean() / w.mean()  # stays a distribution
        for step in (0.05, -0.05):
            assert objective(w + step * direction) < best


@pytest.mark.parametrize("kind", KINDS)
def test_a_broken_reward_breaks_its_group_alone(kind):
    reward = rewards(9)
    group = torch.arange(9) % 3
    want = gf.surrogate_reward(reward, kind, alpha=0.5, group=group)
    for value in (torch.nan, torch.inf, -torch.inf):
        bad = reward.clone()
        bad[4] = value
        got = gf.surrogate_reward(bad, kind, alpha=0.5, group=group)
        assert got[group == 1].isnan().all()
        assert torch.equal(got[group != 1], want[group != 1])


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_finite_at_extreme_rewards(kind):
    for alpha in (1e-3, 1.0, 1e5):
        r = rewards(50, spread=1e4).float().requires_grad_()
        rt = gf.surrogate_reward(r, kind, alpha=alpha)
        rt[rt.isfinite()].sum().backward()
        assert r.grad.isfinite().all()


def test_a_policy_gradient_step_uses_it():
    """The worked use of the documentation: rewards of groups, advantages per prompt."""
    reward = rewards(12).float().requires_grad_()
    prompts = torch.arange(3).repeat_interleave(4)
    rt = gf.surrogate_reward(reward, "gamma", alpha=0.1, gamma=0.5, group=prompts)
    loss = -(rt * torch.linspace(0, 1, 12)).sum()
    loss.backward()
    shift = torch.zeros(3).index_add_(0, prompts, reward.grad)
    torch.testing.assert_close(shift, torch.zeros(3), atol=1e-5, rtol=0)  # lambda takes it up
