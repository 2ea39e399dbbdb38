"""Hand-written gradients against autograd, finite differences and closed forms."""

import itertools
import math

import numpy as np
import pytest
import torch
from against_reference import check_gradient, loss_slopes
from draws import noise_by_size
from torch.autograd import gradcheck

import gaussreg_fast as gf
from gaussreg_fast import reference

DIMENSIONS = [32, 33, 48, 63, 100, 101, 160, 513]
ORDER_SETS = [(1,), (1, 2), (3,), (2, 4), (1, 3, 5, 7), (2, 4, 6, 8), (1, 2, 3, 4, 5, 6, 7, 8)]
FORMS = ["root", "absolute", "squared"]
RAYLEIGH = math.sqrt(math.pi) / 2


def sample(dimension, batch=2, seed=0):
    """Off its mean and scale: odd moments clear of 0, where root gradients are ill-conditioned."""
    options = {"dtype": torch.float64, "scale": 1.2, "offset": 0.3}
    return noise_by_size(batch, dimension, seed=seed, **options)


def shuffled(kind, x, seed=0):
    """Returns NumPy's permutation of x where a kind asks for one, and else the kind."""
    dimension = x.shape[1]
    if kind == "shuffled":
        return torch.from_numpy(np.random.default_rng(seed).permutation(dimension))
    if kind == "shuffled rows":
        rows = [np.random.default_rng(seed + b).permutation(dimension) for b in range(len(x))]
        return torch.from_numpy(np.stack(rows))
    return kind


def value_and_grad(x, **options):
    return gf.gaussianity_value_and_grad(x, reduction="none", **options)


# ---------------------------------------------------------------- against autograd


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("orders", ORDER_SETS)
@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_loss_against_autograd(compare, dimension, orders, form):
    """The reference's forward is differentiable torch: its own autograd must agree."""
    for block, (statistic, target), batched in itertools.product(
        (1, 3, 16), (("amplitude", RAYLEIGH), ("amplitude", 0.875), ("power", 1.0)), (False, True)
    ):
        x = sample(dimension, seed=block).requires_grad_()
        index = shuffled("shuffled rows" if batched else "shuffled", x, seed=block)
        options = {
            "orders": orders,
            "form": form,
            "power_weight": 25.0,
            "block_size": block,
            "target": target,
            "statistic": statistic,
        }
        value, _ = reference.loss_and_gradient(x, index, with_gradient=False, **options)
        (want,) = torch.autograd.grad(value.sum(), x)
        got_value, got = reference.loss_and_gradient(x.detach(), index, **options)
        compare.values(got_value, value, 1e-14)
        compare.vectors(got, want, 1e-11)


@pytest.mark.parametrize("kind", ["none", "shuffled", "shuffled rows", "shared", "per_sample"])
@pytest.mark.parametrize("statistic", ["amplitude", "power"])
@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_statistics_against_autograd(compare, dimension, statistic, kind):
    """Arbitrary upstream gradients, and a loss that is not linear in the statistics."""
    orders = (1, 2, 5, 8)
    for block in (1, 3, 16):
        x = sample(dimension, batch=3, seed=block).requires_grad_()
        index = shuffled(kind, x, seed=block)
        m, a = gf.permuted_statistics(
            x, orders=orders, block_size=block, statistic=statistic, permutation=index, seed=11
        )
        if isinstance(index, str):
            samples = {"none": None, "shared": 1, "per_sample": 3}[index]
            table = reference.permutation(torch.tensor([11]), dimension, samples=samples or 1)
            index = None if samples is None else table.expand(3, -1)
        m_ref, a_ref, _ = reference.permuted_statistics(x, index, orders, block, statistic)
        compare.values(m, m_ref, 1e-14)
        compare.values(a, a_ref, 1e-14)
        rng = np.random.default_rng(block)
        g_m, g_a = (torch.from_numpy(rng.standard_normal(t.shape)) for t in (m, a))
        losses = [
            (p * g_m).sum() + (q.log() * g_a).sum() + (p[:, 1] * q[:, 0]).sum()
            for p, q in ((m, a), (m_ref, a_ref))
        ]
        got, want = (torch.autograd.grad(loss, x)[0] for loss in losses)
        compare.vectors(got, want, 1e-11)


# ---------------------------------------------------------------- gradcheck on the public names


def check(function, x):
    assert gradcheck(function, (x.requires_grad_(),), fast_mode=x.shape[1] > 48)


@pytest.mark.parametrize("kind", ["shared", "per_sample", "none", "shuffled", "shuffled rows"])
@pytest.mark.parametrize("block", [1, 3, 16])
@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_gradcheck_gaussianity_loss(dimension, block, kind):
    x = sample(dimension, seed=block)
    case = DIMENSIONS.index(dimension) + block
    options = {
        "orders": ORDER_SETS[case % len(ORDER_SETS)],
        "form": FORMS[case % 3],
        "statistic": ("amplitude", "power")[case % 2],
        "reduction": ("none", "mean", "sum")[(case // 2) % 3],
        "permutation": shuffled(kind, x),
        "block_size": block,
    }
    if options["form"] != "root":  # high powers are too steep for finite differences
        options["orders"] = [n for n in options["orders"] if n <= 4]
    check(lambda z: gf.gaussianity_loss(z, seed=5, power_weight=2.5, **options), x)


@pytest.mark.parametrize("kind", ["shared", "per_sample", "none", "shuffled rows"])
@pytest.mark.parametrize("statistic", ["amplitude", "power"])
@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_gradcheck_statistics_and_spectrum(dimension, statistic, kind):
    x = sample(dimension)
    options = {"statistic": statistic, "permutation": shuffled(kind, x), "seed": 7}
    check(lambda z: gf.permuted_statistics(z, orders=(1, 2, 3, 4), block_size=5, **options), x)
    target = "mpgr" if statistic == "amplitude" else "exact"
    check(lambda z: gf.power_spectrum_loss(z, target=target, reduction="none", **options), x)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dimension", [3, 32, 101])
def test_gradcheck_moment_losses(dimension, form):
    for orders in ((1,), (2,), (3,), (4,), (1, 2, 3, 4)):
        x = sample(dimension)
        check(lambda z, o=orders: gf.moment_loss(z, orders=o, form=form, reduction="none"), x)


@pytest.mark.parametrize("loss", [gf.kl_loss, gf.kurtosis_loss, gf.norm_loss])
@pytest.mark.parametrize("dimension", [3, 32, 101])
def test_gradcheck_older_regularisers(loss, dimension):
    for reduction in ("none", "mean", "sum"):
        check(lambda z, r=reduction: loss(z, reduction=r), sample(dimension))


@pytest.mark.parametrize("permutation", ["none", "shared", "per_sample"])
@pytest.mark.parametrize("dimension", [2, 3, 32, 33, 300])
def test_gradcheck_covariance_loss(dimension, permutation):
    x = sample(dimension)
    check(lambda z: gf.covariance_loss(z, permutation=permutation, seed=1, reduction="none"), x)


@pytest.mark.parametrize("factor", [1, 2, 4])
@pytest.mark.parametrize("shuffles", [0, 5])
def test_gradcheck_prno_loss(factor, shuffles):
    x = 1.5 * sample(32)  # far enough from noise that the bounds are not clamped
    options = {"factor": factor, "shuffles": shuffles, "seed": 2, "reduction": "none"}
    assert (gf.prno_loss(x, **options) > 4 * math.log(2)).all()
    check(lambda z: gf.prno_loss(z, **options), x)


# ---------------------------------------------------------------- inputs where formulas bend


def test_zero_bins_leave_the_gradient_of_the_others(compare):
    """Two opposite impulses half a period apart: y_k is 0 for even k, 2 / sqrt D else."""
    dimension = 64
    x = torch.zeros(1, dimension, dtype=torch.float64)
    x[0, 0], x[0, dimension // 2] = 1.0, -1.0
    j, odd = np.arange(dimension), np.arange(1, dimension // 2, 2)
    waves = np.cos(2 * np.pi * np.outer(odd, j) / dimension).sum(0) / math.sqrt(dimension)
    options = {"orders": (2,), "power_weight": 1.0, "permutation": "none"}
    _, grad = value_and_grad(x, **options)
    moment = -(x.numpy() / dimension) * (2 / dimension) ** -0.5
    want = torch.from_numpy(moment - waves / (dimension // 2))
    check_gradient(compare, x, None, grad, want, 1e-12, slopes=loss_slopes(x, power_weight=1.0))


def test_all_zero_input():
    x = torch.zeros(2, 48)
    value, grad = value_and_grad(x, orders=(1, 2, 3, 4), seed=0)
    wanted = 1 + 3**0.25 + 25 * RAYLEIGH
    torch.testing.assert_close(value, torch.full((2,), wanted))
    assert grad.eq(0).all()
    for loss in (gf.kl_loss, gf.kurtosis_loss, gf.norm_loss, gf.covariance_loss):
        z = x.clone().requires_grad_()
        loss(z).backward()
        assert z.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("statistic", ["amplitude", "power"])
@pytest.mark.parametrize("wave", ["constant", "alternating"])
def test_dc_and_nyquist(compare, wave, statistic, dtype):
    """All energy in one half of y_0 = sqrt(D / 2) c (1 or i); every other bin is 0."""
    dimension, c, block = 64, 0.5, 16
    signs = torch.ones(dimension) if wave == "constant" else 1.0 - 2 * (torch.arange(64) % 2)
    x = (c * signs)[None].to(dtype)
    options = {"orders": (2,), "form": "squared", "power_weight": 1.0, "permutation": "none"}
    value, grad = value_and_grad(x, block_size=block, statistic=statistic, **options)
    first = math.sqrt(dimension / 2) * c
    if statistic == "amplitude":
        mu, a, slope = RAYLEIGH, first / block, 1.0
    else:
        mu, a, slope = 1.0, first**2 / block, 2 * first
    moment = (c**2 - 1) ** 2
    compare.values(value, [moment + (abs(a - mu) + mu) / 2], 1e-6)
    weight = math.copysign(1, a - mu) / (2 * block) * slope / math.sqrt(2 * dimension)
    want = signs[None].double() * (weight + 2 * (c**2 - 1) * 2 * c / dimension)
    if statistic == "amplitude":
        check_gradient(compare, x, None, grad, want, 1e-6, slopes=loss_slopes(x, block, 1.0))
    else:
        compare.vectors(grad, want, 1e-6)


@pytest.mark.parametrize("dimension", [48, 63, 100])
def test_constant_input_has_a_finite_gradient(dimension):
    for dtype in (torch.float32, torch.float64):
        for statistic in ("amplitude", "power"):
            x = torch.full((1, dimension), -0.7, dtype=dtype)
            value, grad = value_and_grad(x, statistic=statistic, orders=range(1, 9), seed=0)
            assert value.isfinite().all()
            assert grad.isfinite().all()


def test_moments_that_are_exactly_zero(compare):
    """Odd moments of +-1 are 0: sign(0) = 0 leaves no gradient of theirs, in any form."""
    x = torch.tensor([[2.0, -2.0] * 16], dtype=torch.float64)
    for form in FORMS:
        _, grad = value_and_grad(x, orders=(1, 3, 5), form=form, power_weight=0.0)
        assert grad.eq(0).all()
    _, grad = value_and_grad(x, orders=(1, 2, 3), power_weight=0.0)
    compare.vectors(grad, x / 32 / 2, 1e-14)  # of m_2 = 4 alone: m_2^(-1/2) x / D


@pytest.mark.parametrize("n", [2, 3, 4, 5])
@pytest.mark.parametrize("size", [1e-6, 1e-3])
def test_moments_below_eps_are_clamped(compare, n, size):
    x = size * np.linspace(-0.5, 1.5, 32)[None]
    m = np.mean(x**n)
    s = 1.0 if n % 2 else -1.0
    factor = s * np.sign(m) * max(abs(m), 1e-12) ** (1 / n - 1)
    _, grad = value_and_grad(torch.from_numpy(x), orders=(n,), power_weight=0.0)
    compare.vectors(grad, factor * x ** (n - 1) / 32, 1e-11)
    if size == 1e-6:
        assert abs(m) < 1e-12  # or the clamp was not tested


def test_gradient_is_zero_at_the_minimum():
    signs = torch.tensor([[1.0, -1.0] * 24], dtype=torch.float64)  # m_1 = 0, m_2 = 1
    three = torch.tensor([[1.0, -1.0, 0.0, 0.0, 0.0, 0.0] * 8], dtype=torch.float64)
    for form in FORMS:
        value, grad = value_and_grad(signs, form=form, power_weight=0.0)
        assert value.item() == 0
        assert grad.eq(0).all()
    for loss, x, floor in (
        (gf.kl_loss, signs, 0.0),
        (gf.kurtosis_loss, three, 0.0),  # m_4 / m_2^2 = 3
        (gf.norm_loss, signs * math.sqrt(47 / 48), 0.5 * 47 - 0.5 * 47 * math.log(47)),
    ):
        z = x.clone().requires_grad_()
        value = loss(z)
        value.backward()
        assert value.item() == pytest.approx(floor, abs=1e-12)
        assert z.grad.abs().max() < 1e-12


@pytest.mark.parametrize("statistic", ["amplitude", "power"])
def test_spectral_gradient_is_zero_at_the_minimum(statistic):
    """Each block has its own target and meets it to the bit."""
    x = sample(100)
    means = reference.permuted_statistics(x, None, [], 16, statistic)[1]
    options = {"orders": (), "statistic": statistic, "target": means}
    loss, grad = reference.loss_and_gradient(x, None, **options)
    assert loss.eq(0).all()
    assert grad.eq(0).all()
