"""The torch reference against independent numpy and scipy code in float64.

Formulas: MPGR (arXiv 2509.07027) and, for the compact spectrum, GPER (arXiv 2602.08646).
"""

import math

import numpy as np
import pytest
import torch
from draws import noise_array
from scipy import stats
from torch.distributions import Normal, kl_divergence

import gaussreg_fast as gf
from gaussreg_fast import reference

DIMENSIONS = [32, 33, 48, 63, 64, 100, 101, 160, 257, 513]
ORDER_SETS = [(1, 2), (2,), (3, 1), (1, 2, 3, 4), (4, 6, 8), (5, 7), (1, 2, 3, 4, 5, 6, 7, 8)]
FORMS = ["root", "absolute", "squared"]
RAYLEIGH = math.sqrt(math.pi) / 2


def sample(dimension, batch=2, seed=0):
    """Noise, off its mean and scale so that no loss is close to its minimum."""
    return noise_array(batch, dimension, seed=seed, scale=1.2, offset=0.3)


def target_moment(n):
    """E z^n from the absolute moments of the normal law, by the gamma function."""
    return 0.0 if n % 2 else 2 ** (n / 2) * math.gamma((n + 1) / 2) / math.sqrt(math.pi)


def dense_map(dimension):
    """The matrix F of the compact spectrum, (D // 2, D), bin by bin."""
    j = np.arange(dimension)
    bins = range(1, (dimension + 1) // 2)
    rows = [np.exp(-2j * np.pi * ((k * j) % dimension) / dimension) for k in bins]
    if dimension % 2 == 0:
        rows.insert(0, (1 + 1j * (-1.0) ** j) / math.sqrt(2))
    return np.array(rows) / math.sqrt(dimension)


def moment_oracle(row, n, form):
    """Loss of order n of one sample, and its gradient, as printed in the paper."""
    m, mu, size = np.mean(row**n), target_moment(n), len(row)
    slope = n * row ** (n - 1) / size
    if form == "absolute":
        return abs(m - mu), np.sign(m - mu) * slope
    if form == "squared":
        return (m - mu) ** 2, 2 * (m - mu) * slope
    s = np.sign(abs(m) ** (1 / n) - mu ** (1 / n))
    grad = s * np.sign(m) * max(abs(m), 1e-12) ** (1 / n - 1) * row ** (n - 1) / size
    return abs(abs(m) ** (1 / n) - mu ** (1 / n)), grad


def power_oracle(permuted, block, mu, statistic):
    """Spectral loss of one permuted sample, and its gradient, block by block."""
    f = dense_map(len(permuted))
    y = f @ permuted
    starts = range(0, len(y), block)
    loss, grad = 0.0, np.zeros(len(permuted))
    for start in starts:
        part = slice(start, start + block)
        if statistic == "amplitude":
            a, du = np.abs(y[part]), y[part] / np.abs(y[part])
        else:
            a, du = np.abs(y[part]) ** 2, 2 * y[part]
        gap = a.mean() - mu
        loss += abs(gap) / len(starts)
        w = np.sign(gap) / (len(starts) * len(a))
        grad += w * np.real(np.conj(du) @ f[part])
    return loss, grad


def oracle(x, index, orders, form, weight, block, mu, statistic):
    losses, grads = np.zeros(len(x)), np.zeros(x.shape)
    for b, row in enumerate(x):
        for n in orders:
            value, grad = moment_oracle(row, n, form)
            losses[b] += value
            grads[b] += grad
        perm = np.arange(len(row)) if index is None else index if index.ndim == 1 else index[b]
        value, grad = power_oracle(row[perm], block, mu, statistic)
        losses[b] += weight * value
        grads[b, perm] += weight * grad
    return losses, grads


# ---------------------------------------------------------------- moments


@pytest.mark.parametrize("n", range(1, 9))
def test_target_moments(n):
    assert reference.target_moment(n) == pytest.approx(target_moment(n), rel=1e-12)
    assert reference.target_moment(n) == pytest.approx(stats.norm.moment(n), abs=1e-9)


@pytest.mark.parametrize("orders", ORDER_SETS)
@pytest.mark.parametrize("dimension", [5, 33, 100])
def test_moments(compare, dimension, orders):
    x = sample(dimension)
    want = np.stack([(x**n).mean(1) for n in orders], 1)
    compare.values(reference.moments(torch.from_numpy(x), orders), want, 1e-13)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("orders", ORDER_SETS)
@pytest.mark.parametrize("dimension", [5, 32, 63])
def test_moment_losses(compare, dimension, orders, form):
    x = sample(dimension, batch=3, seed=dimension)
    want = [sum(moment_oracle(row, n, form)[0] for n in orders) for row in x]
    got = gf.moment_loss(torch.from_numpy(x), orders=orders, form=form, reduction="none")
    compare.values(got, want, 1e-12)


def test_root_gradient_as_printed(compare):
    """s sign(m) max(|m|, eps)^(1/n - 1) x^(n-1) / D, also where the mean power is negative."""
    x = sample(101, batch=1)
    for n in range(1, 9):
        for signed in (x, -x):
            m, mu = np.mean(signed**n), target_moment(n)
            s = np.sign(abs(m) ** (1 / n) - mu ** (1 / n))
            want = s * np.sign(m) * abs(m) ** (1 / n - 1) * signed ** (n - 1) / 101
            got = gf.gaussianity_value_and_grad(
                torch.from_numpy(signed.copy()), orders=(n,), power_weight=0.0
            )[1]
            compare.vectors(got, want, 1e-12)


@pytest.mark.parametrize("dimension", [32, 101])
def test_older_regularisers(compare, dimension):
    x = sample(dimension, batch=3)
    t = torch.from_numpy(x)
    fitted = Normal(torch.from_numpy(x.mean(1)), torch.from_numpy(x.std(1)))
    compare.values(gf.kl_loss(t, reduction="none"), kl_divergence(fitted, Normal(0, 1)), 1e-12)
    centred = x - x.mean(1, keepdims=True)
    compare.values(
        gf.kurtosis_loss(torch.from_numpy(centred), reduction="none"),
        stats.kurtosis(centred, axis=1, fisher=True) ** 2,
        1e-9,
    )
    raw = ((x**4).mean(1) / (x**2).mean(1) ** 2 - 3) ** 2  # about 0, not about the mean
    compare.values(gf.kurtosis_loss(t, reduction="none"), raw, 1e-11)
    constant = (dimension / 2 - 1) * math.log(2) + math.lgamma(dimension / 2)
    want = -stats.chi(dimension).logpdf(np.linalg.norm(x, axis=1)) - constant
    compare.values(gf.norm_loss(t, reduction="none"), want, 1e-11)


# ---------------------------------------------------------------- compact spectrum


@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_compact_spectrum(compare, dimension):
    x = sample(dimension)
    full = np.fft.fft(x, norm="ortho")
    want = full[:, 1 : (dimension + 1) // 2]
    energy = (x**2).sum(1)
    if dimension % 2:
        energy = energy - full[:, 0].real ** 2  # the DC bin is left out
    else:
        first = (full[:, 0].real + 1j * full[:, dimension // 2].real) / math.sqrt(2)
        want = np.concatenate([first[:, None], want], 1)
    got = reference.compact_spectrum(torch.from_numpy(x))
    assert got.shape == (2, dimension // 2)
    compare.vectors(torch.view_as_real(got), np.stack([want.real, want.imag], -1), 1e-13, "value")
    compare.values(2 * got.abs().square().sum(1), energy, 1e-12)
    by_matrix = x[:1] @ dense_map(dimension).T
    compare.vectors(got[:1].real, by_matrix.real, 1e-12, "value")
    compare.vectors(got[:1].imag, by_matrix.imag, 1e-12, "value")


@pytest.mark.parametrize("dimension", [2, 3, *DIMENSIONS])
def test_adjoint(compare, dimension):
    """<F x, v> = <x, F^T v> for real inner products, and F^T is the dense matrix's."""
    rng = np.random.default_rng(dimension)
    x = rng.standard_normal((1, dimension))
    v = rng.standard_normal(dimension // 2) + 1j * rng.standard_normal(dimension // 2)
    back = reference.compact_adjoint(torch.from_numpy(v[None]), dimension).numpy()
    y = reference.compact_spectrum(torch.from_numpy(x)).numpy()
    assert np.sum(x * back) == pytest.approx(np.real(np.sum(np.conj(v) * y)), rel=1e-10)
    compare.vectors(back, np.real(np.conj(v) @ dense_map(dimension))[None], 1e-12)
    if dimension % 2 == 0:  # twice the adjoint is the inverse
        roundtrip = 2 * reference.compact_adjoint(torch.from_numpy(y), dimension)
        compare.vectors(roundtrip, x, 1e-13, "value")


@pytest.mark.parametrize("block", [1, 3, 7, 16, 31])
@pytest.mark.parametrize("dimension", [62, 63, 100])
def test_block_means_with_a_short_last_block(compare, dimension, block):
    a = np.random.default_rng(1).random((2, dimension // 2))
    want = [a[:, i : i + block].mean(1) for i in range(0, dimension // 2, block)]
    compare.values(reference.block_means(torch.from_numpy(a), block), np.stack(want, 1), 1e-13)


@pytest.mark.parametrize("dimension", [128, 129])
def test_noise_gives_rayleigh_amplitudes_in_every_bin(dimension):
    x = torch.from_numpy(np.random.default_rng(5).standard_normal((4000, dimension)))
    a = reference.compact_spectrum(x).abs().numpy()
    law = stats.rayleigh(scale=math.sqrt(0.5))
    assert law.mean() == pytest.approx(RAYLEIGH)
    for k in (0, 1, dimension // 2 - 1):  # the first one holds DC and Nyquist for even D
        assert stats.kstest(a[:, k], law.cdf).pvalue > 1e-3
    assert np.abs((a**2).mean(0) - 1).max() < 5 / math.sqrt(4000)
    assert a.mean() == pytest.approx(RAYLEIGH, abs=4 * math.sqrt((1 - math.pi / 4) / a.size))


def test_power_spectrum_loss_of_noise():
    """Mean |A - mu| for 16 Rayleigh amplitudes, close to sd sqrt(2 / pi) = 0.0924."""
    x = torch.from_numpy(np.random.default_rng(6).standard_normal((32, 32768)))
    losses = gf.power_spectrum_loss(x, seed=0, reduction="none").numpy()
    assert losses.mean() == pytest.approx(0.0924, abs=3e-4)
    gaps = stats.rayleigh(scale=math.sqrt(0.5)).rvs((200_000, 16), random_state=1).mean(1)
    assert losses.mean() == pytest.approx(np.abs(gaps - RAYLEIGH).mean(), abs=6e-4)


@pytest.mark.parametrize("block", [1, 16])
@pytest.mark.parametrize("dimension", [64, 101])
def test_full_mirrored_spectrum(compare, dimension, block):
    """The paper's text to the letter: all D bins, DC included."""
    x = sample(dimension)
    index = np.random.default_rng(0).permutation(dimension)
    a = np.abs(np.fft.fft(x[:, index], norm="ortho"))
    means = np.stack([a[:, i : i + block].mean(1) for i in range(0, dimension, block)], 1)
    got = reference.full_power_spectrum_loss(
        torch.from_numpy(x), torch.from_numpy(index), block_size=block
    )
    compare.values(got, np.abs(means - 0.875).mean(1), 1e-12)


# ---------------------------------------------------------------- the whole loss


@pytest.mark.parametrize("permutation", ["none", "one", "each"])
@pytest.mark.parametrize("block", [1, 3, 16])
@pytest.mark.parametrize("statistic", ["amplitude", "power"])
@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_value_and_gradient(compare, dimension, statistic, block, permutation):
    rng = np.random.default_rng(dimension + block)
    case = DIMENSIONS.index(dimension) + block
    orders, form = ORDER_SETS[case % len(ORDER_SETS)], FORMS[case % len(FORMS)]
    target = "mpgr" if statistic == "amplitude" and case % 2 else "exact"
    mu = 1.0 if statistic == "power" else 0.875 if target == "mpgr" else RAYLEIGH
    x = sample(dimension, seed=case)
    index = {
        "none": None,
        "one": rng.permutation(dimension),
        "each": np.stack([rng.permutation(dimension) for _ in x]),
    }[permutation]
    value, grad = oracle(x, index, orders, form, 25.0, block, mu, statistic)
    got, got_grad = gf.gaussianity_value_and_grad(
        torch.from_numpy(x),
        orders=orders,
        form=form,
        block_size=block,
        statistic=statistic,
        target=target,
        permutation="none" if index is None else torch.from_numpy(index),
        reduction="none",
    )
    compare.values(got, value, 1e-12)
    compare.vectors(got_grad, grad, 1e-11)


@pytest.mark.parametrize("dimension", [64, 101])
@pytest.mark.parametrize("statistic", ["amplitude", "power"])
def test_permuted_statistics(compare, dimension, statistic):
    x = sample(dimension)
    index = np.random.default_rng(3).permutation(dimension)
    a = np.abs(dense_map(dimension) @ x[:, index].T).T ** (2 if statistic == "power" else 1)
    moments, amplitudes = gf.permuted_statistics(
        torch.from_numpy(x),
        orders=(4, 1),
        block_size=12,
        statistic=statistic,
        permutation=torch.from_numpy(index),
    )
    compare.values(moments, np.stack([(x**4).mean(1), x.mean(1)], 1), 1e-12)
    want = [a[:, i : i + 12].mean(1) for i in range(0, dimension // 2, 12)]
    compare.values(amplitudes, np.stack(want, 1), 1e-12)
