"""The slower regularisers of the literature against naive numpy implementations."""

import functools
import math

import numpy as np
import pytest
import torch
from draws import noise_array
from losses_called import gradient
from scipy import linalg, stats

import gaussreg_fast as gf
from gaussreg_fast import reference

# ---------------------------------------------------------------- circulant covariance


def autocovariance(row):
    """C(t) = mean_j x_j x_{j + t mod D}, by two loops."""
    size = len(row)
    return np.array(
        [sum(row[j] * row[(j + t) % size] for j in range(size)) / size for t in range(size)]
    )


def covariance_oracle(row):
    """Value, and gradient by the product rule, lag by lag over all D of them."""
    size, c = len(row), autocovariance(row)
    grad = np.sign(c[0] - 1) * 2 * row / size
    for t in range(1, size):
        grad += np.sign(c[t]) * (np.roll(row, t) + np.roll(row, -t)) / size / (size - 1)
    return abs(c[0] - 1) + np.abs(c[1:]).mean(), grad


@pytest.mark.parametrize("dimension", [2, 3, 32, 33, 100, 255, 256, 300])
def test_covariance_loss(compare, dimension):
    x = noise_array(2, dimension, scale=1.3)
    want = [covariance_oracle(row) for row in x]
    z = torch.from_numpy(x).requires_grad_()
    value = gf.covariance_loss(z, reduction="none")
    value.sum().backward()
    compare.values(value, [v for v, _ in want], 1e-12)
    compare.vectors(z.grad, np.stack([g for _, g in want]), 1e-11)


def test_covariance_loss_of_permuted_samples(compare):
    x = noise_array(2, 60, scale=1.3)
    index = np.stack([np.random.default_rng(b).permutation(60) for b in range(2)])
    z = torch.from_numpy(x).requires_grad_()
    value = gf.covariance_loss(z, permutation=torch.from_numpy(index), reduction="none")
    value.sum().backward()
    for b in range(2):
        want, grad = covariance_oracle(x[b, index[b]])
        back = np.zeros(60)
        back[index[b]] = grad
        compare.values(value[b], want, 1e-12)
        compare.vectors(z.grad[b : b + 1], back[None], 1e-11)


@pytest.mark.parametrize("dimension", [64, 99])
def test_wiener_khinchin(compare, dimension):
    """The autocovariance is the inverse Fourier transform of the full power spectrum."""
    x = noise_array(2, dimension)
    power = np.abs(np.fft.fft(x, norm="ortho")) ** 2
    c = np.fft.ifft(power).real
    half = reference.autocovariance(torch.from_numpy(x))
    compare.vectors(half, c[:, : dimension // 2 + 1], 1e-12, "value")
    want = np.abs(c[:, 0] - 1) + np.abs(c[:, 1:]).mean(1)
    compare.values(gf.covariance_loss(torch.from_numpy(x), reduction="none"), want, 1e-11)


@pytest.mark.parametrize("dimension", [64, 99])
def test_flat_spectrum_has_no_covariance(dimension):
    """Random phases, |xh_k| = 1 in every bin: both losses are at their minimum of 0."""
    rng = np.random.default_rng(0)
    half = np.exp(2j * np.pi * rng.random(dimension // 2 + 1))
    half[0] = 1.0
    if dimension % 2 == 0:
        half[-1] = -1.0
    x = torch.from_numpy(np.fft.irfft(half, n=dimension, norm="ortho")[None])
    assert gf.covariance_loss(x).item() < 1e-14
    assert gf.power_spectrum_loss(x, statistic="power", permutation="none").item() < 1e-14
    assert gf.covariance_loss(torch.roll(x, 1, -1) + 0.1 * x).item() > 1e-2


def test_covariance_and_spectrum_rank_correlated_signals_alike():
    """First-order autoregressive signals of unit power, from independent to nearly constant."""
    strengths = np.array([0.0, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95])
    white = np.fft.rfft(noise_array(2048, seed=1))
    frequencies = 2j * np.pi * np.arange(1025) / 2048
    signals = np.fft.irfft(white / (1 - strengths[:, None] * np.exp(-frequencies)), n=2048)
    signals /= np.sqrt((signals**2).mean(1, keepdims=True))
    x = torch.from_numpy(signals)
    covariance = gf.covariance_loss(x, reduction="none").numpy()
    for statistic in ("amplitude", "power"):
        spectrum = gf.power_spectrum_loss(
            x, statistic=statistic, permutation="none", reduction="none"
        ).numpy()
        assert stats.spearmanr(covariance, spectrum).statistic == pytest.approx(1)
        assert stats.spearmanr(strengths, spectrum).statistic == pytest.approx(1)
    shuffled = gf.power_spectrum_loss(x, permutation="shared", seed=0, reduction="none")
    assert shuffled.max() < 0.2  # a permutation hides order, as it is meant to
    assert covariance.max() > 5 * covariance.min()


# ---------------------------------------------------------------- PRNO (arXiv 2405.18881)


def prno_log_probability(row, k):
    v = row.reshape(-1, k)
    m = len(v)
    m1 = np.linalg.norm(v.mean(0))
    m2 = linalg.norm(v.T @ v / m - np.eye(k), 2)
    log_p1 = -m * m1**2 / (2 * k)
    log_p2 = -m * max(math.sqrt(1 + m2) - 1 - math.sqrt(k / m), 0.0) ** 2 / 2
    return min(log_p1, -math.log(2)) + min(log_p2, -math.log(2))


def prno_oracle(row, shuffles, k):
    plain = prno_log_probability(row, k)
    return -plain - np.mean([prno_log_probability(row[index], k) for index in shuffles])


@pytest.mark.parametrize("factor", [1, 2, 4, 16])
@pytest.mark.parametrize("scale", [1.0, 1.7])
def test_prno_loss(compare, factor, scale):
    x = noise_array(3, 160, scale=scale)
    table = reference.permutation(torch.tensor([12]), 160, samples=20).numpy()
    want = [prno_oracle(row, table, factor) for row in x]
    got = gf.prno_loss(torch.from_numpy(x), factor=factor, shuffles=20, seed=12, reduction="none")
    compare.values(got, want, 1e-11)


@pytest.mark.parametrize("c", [0.5, 1.0, 3.0])
def test_prno_loss_of_a_constant(compare, c):
    """Shuffles change nothing; the mean is c in every column, the top eigenvalue k c^2 - 1."""
    m, k = 64, 4
    m2 = max(abs(k * c**2 - 1), 1.0)
    excess = max(math.sqrt(1 + m2) - 1 - math.sqrt(k / m), 0.0)
    log_p = max(m * c**2 / 2, math.log(2)) + max(m * excess**2 / 2, math.log(2))
    x = torch.full((1, m * k), c, dtype=torch.float64)
    compare.values(gf.prno_loss(x, shuffles=7, reduction="none"), [2 * log_p], 1e-12)
    compare.values(gf.prno_loss(x, shuffles=0, reduction="none"), [log_p], 1e-12)


def test_prno_loss_is_clamped_where_the_sample_is_likely():
    """Orthogonal columns of mean 0: both bounds are at their cap of log 1/2, gradient 0."""
    x = torch.from_numpy(linalg.hadamard(64)[:, 1:5].astype(float)).reshape(1, 256)
    z = x.requires_grad_()
    loss = gf.prno_loss(z, shuffles=0)
    loss.backward()
    assert loss.item() == pytest.approx(2 * math.log(2), rel=1e-12)
    assert z.grad.eq(0).all()


@pytest.mark.parametrize(("size", "factor"), [(120, 2), (248, 4), (264, 8)])
def test_the_gradient_of_a_small_sample_keeps_its_direction(compare, size, factor):
    """Beside 1 its covariance is rounding: digits of 1 + 1e-6 would decide the direction."""
    x = 1e-3 * torch.from_numpy(noise_array(300, size))
    grads = [
        gradient(functools.partial(gf.prno_loss, factor=factor, shuffles=1, seed=3), z)
        for z in (x.float(), x.float().double())
    ]
    compare.vectors(*grads, 1e-4)


def test_prno_defaults_and_order():
    x = torch.from_numpy(noise_array(2, 4, 8, 8, scale=1.5))
    want = gf.prno_loss(x, factor=4, shuffles=100, seed=1, reduction="mean")
    assert torch.equal(gf.prno_loss(x, seed=1), want)
    noise_loss = gf.prno_loss(torch.from_numpy(noise_array(2, 4, 32, 32)), shuffles=20, seed=0)
    assert noise_loss < 4 * math.log(2) + 1  # white noise is close to the caps
