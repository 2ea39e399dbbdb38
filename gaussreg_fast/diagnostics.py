"""How Gaussian is this latent? Per-sample tests with p-values, a table and a plot.

Needs scipy, and matplotlib for the plot: `pip install gaussreg_fast[diagnose]`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from gaussreg_fast import _noise_tests, checks, reference
from gaussreg_fast._noise_tests import BLOCK, ORDERS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["TESTS", "Diagnosis", "diagnose"]

TESTS = {
    "mean": "m_1 against N(0, 1/D)",
    "variance": "D m_2 against chi-square(D)",
    "skewness": "D'Agostino's test of the third moment",
    "kurtosis": "Anscombe and Glynn's test of the fourth moment",
    "spectrum": "Kolmogorov-Smirnov of |y_k|^2 against Exp(1)",
    "blocks": "block amplitudes against their law, two-sided: uneven or too even",
    "lag-1": "autocorrelation of neighbours along the last two axes longer than 1",
}

# "variance" and "spectrum" are correlated (0.51 as z-scores, the other pairs are not), so the
# seven tests count for a little less. Maximum-likelihood fit of K in P(min p > t) = (1 - t)^K
# to 46,000 draws of true noise, D = 1024 to 16384; far in the tail K tends to 7.
EFFECTIVE_TESTS = 6.55


def _scipy_stats() -> ModuleType:
    try:
        from scipy import stats
    except ImportError as error:
        raise ImportError("diagnose needs scipy: pip install 'gaussreg_fast[diagnose]'") from error
    return stats


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """The result of `diagnose`. Arrays are float64, one row per sample.

    Attributes:
        shape: shape of the latents, (B, *latent).
        moments: m_1..m_8, (B, 8).
        moment_z: (m_n - mu_n) / sqrt((mu_2n - mu_n^2) / D), (B, 8). Beyond n = 4 their law has
            a heavy right tail even for true noise; the verdict does not use them.
        lag1: mean product of neighbours over m_2, (B,).
        power: L_power of the permuted samples (seed 0), (B,); about 0.0924 for noise.
        power_z: the same as a z-score; well below 0 means a spectrum flatter than noise has.
        p_values: p-values (B,) of each of `TESTS`, by name.
        p_value: p-values of all tests together, (B,): uniform on [0, 1] for true noise.
        batch_p_value: one p-value of all samples together, by Fisher's method.
    """

    shape: tuple[int, ...]
    moments: np.ndarray
    moment_z: np.ndarray
    lag1: np.ndarray
    power: np.ndarray
    power_z: np.ndarray
    p_values: dict[str, np.ndarray]
    p_value: np.ndarray
    batch_p_value: float
    _x: np.ndarray

    def gaussian(self, alpha: float = 0.01) -> bool:
        """Return whether the batch passes at level `alpha`, a probability of false alarm."""
        return bool(self.batch_p_value >= alpha)

    def worst(self, sample: int) -> str:
        """Return the name of the test with the smallest p-value for a sample."""
        return min(self.p_values, key=lambda name: self.p_values[name][sample])

    def __str__(self) -> str:
        return "\n".join(_table(self))

    def plot(self, sample: int = 0) -> Figure:
        """Plot latent, histogram, block amplitudes and spectrum of one sample in a figure.

        Raises:
            ImportError: matplotlib is not installed.
            IndexError: `sample` is not within 0..B-1.
        """
        return _plot(self, sample)


def diagnose(x: Tensor) -> Diagnosis:
    """Test each sample of a batch for being i.i.d. N(0, 1).

    The seven `TESTS` have p-values of their own; `p_value` joins them by their smallest
    (Tippett with Sidak's correction), so that on true noise it is uniform, for D of about 1000
    and more. The tests are two-sided: a latent that was optimised against a Gaussianity loss
    can be too regular as well.

    Args:
        x: `(B, *latent)`, float32, float64, float16 or bfloat16; D >= 32, any device.

    Raises:
        TypeError: x is not a dense floating-point tensor.
        ValueError: x has fewer than two dimensions or fewer than 32 numbers per sample, holds NaN
            or inf, is an empty batch, or is on the meta device.
        ImportError: scipy is not installed.
    """
    dimension = checks.latents(x)
    checks.long_enough(dimension, BLOCK)
    if x.shape[0] == 0:
        raise ValueError("x must hold at least one sample, got a batch of 0")
    if x.is_meta:
        raise ValueError("x must hold numbers, got a tensor on the meta device")
    stats = _scipy_stats()
    values = x.detach().to("cpu", copy=True).to(torch.float64)
    bad = (~values.isfinite()).flatten(1).any(1).nonzero()[:, 0].tolist()
    if bad:
        raise ValueError(
            f"x must be finite, got NaN or inf in {len(bad)} samples, the first of them {bad[0]}"
        )
    rows = values.reshape(len(values), -1)
    moments = reference.moments(rows, ORDERS).numpy()
    correlation, pairs = lag1_autocorrelation(values)
    lag1 = correlation.numpy()
    power, power_z = _noise_tests.power_loss(values)
    p_values = _noise_tests.p_values(stats, rows, moments, lag1, pairs)
    smallest = np.min(list(p_values.values()), axis=0)
    p_value = -np.expm1(EFFECTIVE_TESTS * np.log1p(-smallest.clip(max=1 - 1e-16)))
    fisher = -2 * np.log(p_value.clip(min=1e-300)).sum()
    return Diagnosis(
        shape=tuple(x.shape),
        moments=moments,
        moment_z=_noise_tests.moment_z(moments, dimension),
        lag1=lag1,
        power=power,
        power_z=power_z,
        p_values=p_values,
        p_value=p_value,
        batch_p_value=float(stats.chi2.sf(fisher, 2 * len(p_value))),
        _x=values.numpy(),
    )


def lag1_autocorrelation(values: Tensor) -> tuple[Tensor, int]:
    """Return the lag-1 autocorrelation of each sample, (B,), and the number of pairs, N.

    It is the mean product of neighbours along the last two axes that are longer than 1, over m_2.
    For noise its law is N(0, 1/N). An all-zero sample gives NaN.
    """
    total, pairs = values.new_zeros(len(values)), 0
    axes = [axis for axis in range(1, values.dim()) if values.shape[axis] > 1]
    for axis in axes[-2:]:
        length = values.shape[axis]
        product = values.narrow(axis, 0, length - 1) * values.narrow(axis, 1, length - 1)
        total += product.flatten(1).sum(1)
        pairs += product[0].numel()
    return total / pairs / values.flatten(1).square().mean(1), pairs


# ---------------------------------------------------------------- table and plot

ROWS = 16


def _table(d: Diagnosis) -> list[str]:
    heads = ["sample", *(f"z(m{n})" for n in ORDERS), "z(L_pow)", "lag-1", "p-value", "worst test"]
    widths = [6, *[7] * 8, 8, 8, 9, 10]
    lines = [
        f"Gaussianity of latents {d.shape}, D = {math.prod(d.shape[1:])}",
        " ".join(head.rjust(width) for head, width in zip(heads, widths, strict=True)),
    ]
    for b in range(min(ROWS, d.shape[0])):
        cells = [
            str(b),
            *(_short(z) for z in d.moment_z[b]),
            _short(d.power_z[b]),
            f"{d.lag1[b]:+.4f}",
            f"{d.p_value[b]:.3g}",
            d.worst(b),
        ]
        lines.append(" ".join(c.rjust(width) for c, width in zip(cells, widths, strict=True)))
    if d.shape[0] > ROWS:
        lines.append(f"... and {d.shape[0] - ROWS} more")
    verdict = "consistent with white Gaussian noise" if d.gaussian() else "not Gaussian noise"
    lines.append(f"verdict: {verdict} (p = {d.batch_p_value:.3g} for the whole batch)")
    flat = int((d.power_z < -4).sum())
    if flat:
        lines.append(
            f"note: {flat} of {d.shape[0]} spectra are flatter than noise, as after optimising a "
            "power-spectrum loss"
        )
    return lines


def _short(z: float) -> str:
    return f"{z:+.2f}" if abs(z) < 1000 else f"{z:+.0e}"


def _plot(d: Diagnosis, sample: int) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "Diagnosis.plot needs matplotlib: pip install 'gaussreg_fast[diagnose]'"
        ) from error
    if not 0 <= sample < d.shape[0]:
        raise IndexError(f"sample must be within 0..{d.shape[0] - 1}, got {sample}")
    x = d._x[sample]
    flat = torch.from_numpy(x.reshape(1, -1))
    amplitude = reference.compact_spectrum(flat).abs()
    blocks = reference.block_means(amplitude, BLOCK)[0].numpy()
    figure = Figure(figsize=(12, 3.4), layout="constrained")
    image, histogram, block, spectrum = figure.subplots(1, 4)

    plane = x.reshape(-1, *x.shape[-2:])[0] if x.ndim > 1 else x[None]
    aspect = "equal" if x.ndim > 1 else "auto"
    image.imshow(plane, cmap="gray", vmin=-3, vmax=3, aspect=aspect)
    image.set(title=f"sample {sample}, first plane", xticks=[], yticks=[])

    grid = np.linspace(-4, 4, 201)
    histogram.hist(flat[0].numpy(), bins=80, range=(-4, 4), density=True, color="tab:blue")
    histogram.plot(grid, np.exp(-(grid**2) / 2) / math.sqrt(2 * math.pi), "k", lw=1)
    histogram.set(title="values and N(0, 1)", xlabel="x")

    mean, sigmas = reference.RAYLEIGH_MEAN, 2 * math.sqrt(reference.RAYLEIGH_VAR / BLOCK)
    block.plot(blocks, ".", ms=3)
    block.axhspan(mean - sigmas, mean + sigmas, color="0.85", zorder=0)
    block.axhline(mean, color="k", lw=1)
    block.set(title="block amplitudes, 2 sigma", xlabel="block", ylim=(0, None))

    power = np.sort(amplitude[0].numpy() ** 2)
    quantiles = -np.log1p(-(np.arange(len(power)) + 0.5) / len(power))
    spectrum.plot(quantiles, power, ".", ms=2)
    spectrum.plot(quantiles, quantiles, "k", lw=1)
    spectrum.set(title="|y|² against Exp(1) quantiles", xlabel="Exp(1)", ylabel="|y|²")
    figure.suptitle(f"p = {d.p_value[sample]:.3g}, worst test: {d.worst(sample)}")
    return figure
