"""Diagnosis: calibrated on noise, awake to structure, plain about bad input."""

import math

import numpy as np
import pytest
import torch
from draws import noise
from scipy import stats

import gaussreg_fast
from gaussreg_fast import diagnose
from gaussreg_fast.diagnostics import TESTS

SHAPE = (4, 32, 32)


@pytest.fixture(scope="module")
def p_values_of_noise():
    """The p-value of 2000 samples, and those of each single test by its name."""
    generator = torch.Generator().manual_seed(20260)
    parts = [diagnose(torch.randn(500, *SHAPE, generator=generator)) for _ in range(4)]
    p_values = {name: np.concatenate([d.p_values[name] for d in parts]) for name in TESTS}
    return np.concatenate([d.p_value for d in parts]), p_values


def test_the_verdict_is_uniform_on_true_noise(p_values_of_noise):
    p_value, _ = p_values_of_noise
    assert len(p_value) == 2000
    assert stats.kstest(p_value, "uniform").pvalue > 0.01
    for alpha in (0.01, 0.05, 0.1):
        count = (p_value < alpha).sum()
        low, high = stats.binom.interval(0.999, 2000, alpha)
        assert low <= count <= high


@pytest.mark.parametrize("name", TESTS)
def test_every_single_test_is_uniform_on_true_noise(p_values_of_noise, name):
    assert stats.kstest(p_values_of_noise[1][name], "uniform").pvalue > 0.001


def test_the_batch_verdict_is_uniform_too():
    generator = torch.Generator().manual_seed(1)
    p = [diagnose(torch.randn(8, 1024, generator=generator)).batch_p_value for _ in range(300)]
    assert stats.kstest(p, "uniform").pvalue > 0.01


def sample(seed=0, n=3):
    return noise(n, *SHAPE, seed=seed)


@pytest.mark.parametrize(
    ("broken", "worst"),
    [
        (lambda x: x + 0.2, "mean"),
        (lambda x: 1.1 * x, "variance"),
        (lambda x: 0.9 * x, "variance"),
        (lambda x: (x + 0.5 * (x * x - 1)) / math.sqrt(1.5), "skewness"),
        (lambda x: x.sign() * x.abs() ** 1.5 / 1.26, "kurtosis"),
        (lambda x: (x + 0.1 * x.roll(1, -1) + 0.1 * x.roll(1, -2)) / math.sqrt(1.02), "lag-1"),
        (gaussreg_fast.project_white_noise, "blocks"),
    ],
    ids=["shifted", "wide", "narrow", "skewed", "heavy", "blurred", "too-even"],
)
def test_each_defect_is_found_by_the_test_made_for_it(broken, worst):
    d = diagnose(broken(sample()))
    assert not d.gaussian()
    assert (d.p_value < 1e-6).all()
    assert [d.worst(b) for b in range(3)] == [worst] * 3


def test_a_sinusoid_in_noise_shows_in_the_spectrum():
    t = torch.arange(4096.0)
    wave = torch.sin(2 * math.pi * 1000.37 * t / 4096).reshape(SHAPE)
    d = diagnose((sample() + 0.5 * wave) / math.sqrt(1.125))
    assert (d.p_values["blocks"] < 1e-6).all()


def test_one_bad_sample_does_not_taint_its_neighbours():
    x = sample(seed=4)
    alone = diagnose(x[[0, 2]])
    x[1] = 0
    d = diagnose(x)
    np.testing.assert_allclose(d.p_value[[0, 2]], alone.p_value)
    assert d.p_value[1] == pytest.approx(0, abs=1e-12)


def test_moments_and_z_scores_against_numpy():
    x = sample(seed=5)
    d = diagnose(x)
    rows = x.double().flatten(1).numpy()
    for n in range(1, 9):
        np.testing.assert_allclose(d.moments[:, n - 1], (rows**n).mean(1), rtol=1e-10)
    mu = [stats.norm.moment(n) for n in range(17)]
    for n in (1, 2, 3, 4):
        scale = math.sqrt((mu[2 * n] - mu[n] ** 2) / rows.shape[1])
        np.testing.assert_allclose(
            d.moment_z[:, n - 1], ((rows**n).mean(1) - mu[n]) / scale, rtol=1e-6, atol=1e-9
        )
    ks = [stats.kstest(np.abs(spectrum(row)) ** 2, "expon").pvalue for row in rows]
    np.testing.assert_allclose(d.p_values["spectrum"], ks, rtol=1e-6)


def spectrum(row):
    full = np.fft.rfft(row, norm="ortho")
    return np.concatenate([[(full[0] + 1j * full[-1]) / math.sqrt(2)], full[1:-1]])


def test_a_squeezed_spectrum_is_called_flatter_than_noise():
    x = sample(n=1, seed=6).requires_grad_()
    optimizer = torch.optim.SGD([x], lr=2)
    for _ in range(100):
        optimizer.zero_grad()
        gaussreg_fast.power_spectrum_loss(x, seed=0).backward()
        optimizer.step()
    d = diagnose(x)
    assert (d.power_z < -4).all()
    assert "flatter than noise" in str(d)
    assert "flatter than noise" not in str(diagnose(sample()))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_dtypes_and_ranks(dtype):
    x = sample(n=2, seed=7).to(dtype)
    for shape in ((2, 4096), (2, 64, 64), (2, 4, 32, 32), (2, 1, 4, 32, 32), (2, 4095)):
        d = diagnose(x.flatten(1)[:, : math.prod(shape[1:])].reshape(shape))
        assert d.shape == shape
        assert d.p_value.shape == (2,)
        assert d.gaussian()


@pytest.mark.parametrize("shape", [(3, 4096, 1, 1), (3, 1, 64, 64), (3, 64, 1, 64), (3, 1, 4096)])
def test_axes_of_length_one_do_not_count(shape):
    x = sample(seed=10).reshape(shape)
    squeezed = x.reshape(3, *[n for n in shape[1:] if n > 1])
    np.testing.assert_array_equal(diagnose(x).p_value, diagnose(squeezed).p_value)


def test_a_diagnosis_keeps_what_it_saw():
    x = sample(seed=11).double()
    d = diagnose(x)
    x.zero_()
    assert d.plot().axes[1].patches[40].get_height() > 0.3  # the histogram's middle


def test_the_table_tells_the_verdict_and_stays_short():
    text = str(diagnose(sample(n=40, seed=8)))
    assert "consistent with white Gaussian noise" in text
    assert "and 24 more" in text
    assert max(map(len, text.splitlines())) <= 120
    assert "not Gaussian noise" in str(diagnose(2 * sample()))


@pytest.mark.parametrize("shape", [(1, 64), (1, 64, 64), (1, 4, 16, 16), (1, 2, 4, 8, 8)])
def test_the_plot_has_its_four_panels(shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(9))
    figure = diagnose(x).plot()
    assert len(figure.axes) == 4
    assert all(axis.has_data() for axis in figure.axes)
    with pytest.raises(IndexError, match="sample"):
        diagnose(x).plot(1)


@pytest.mark.parametrize(
    ("x", "error", "match"),
    [
        (torch.zeros(2, 64, dtype=torch.int64), TypeError, "x must be float"),
        (torch.zeros(64), ValueError, "two dimensions"),
        (torch.zeros(2, 31), ValueError, "32"),
        (torch.zeros(0, 64), ValueError, "at least one sample"),
        (torch.full((2, 64), math.nan), ValueError, "finite"),
        (torch.full((2, 64), math.inf), ValueError, "finite"),
        ([1.0, 2.0], TypeError, "torch.Tensor"),
    ],
)
def test_bad_input(x, error, match):
    with pytest.raises(error, match=match):
        diagnose(x)


def test_without_scipy_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "scipy", None)
    with pytest.raises(ImportError, match=r"gaussreg_fast\[diagnose\]"):
        diagnose(sample())
