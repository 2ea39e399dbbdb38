"""The statistical tests behind `diagnose`: p-values and z-scores of a batch of samples."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gaussreg_fast import functional, reference

BLOCK = 16
ORDERS = tuple(range(1, 9))


def p_values(
    stats: ModuleType, rows: Tensor, moments: np.ndarray, lag1: np.ndarray, pairs: int
) -> dict[str, np.ndarray]:
    """Return the p-values (B,) of each test of `diagnostics.TESTS`, by name.

    Args:
        stats: scipy.stats.
        rows: samples (B, D), float64.
        moments: their moments m_1..m_8, (B, 8).
        lag1: their autocorrelations (B,), which for noise are N(0, 1 / pairs).
        pairs: number of neighbours in a sample.
    """
    dimension = rows.shape[1]
    y = reference.compact_spectrum(rows).numpy()
    by_name = {
        "mean": 2 * stats.norm.sf(np.abs(moments[:, 0]) * math.sqrt(dimension)),
        "variance": _two_sided(stats.chi2(dimension), dimension * moments[:, 1]),
        "skewness": np.asarray(stats.skewtest(rows.numpy(), axis=1).pvalue),
        "kurtosis": np.asarray(stats.kurtosistest(rows.numpy(), axis=1).pvalue),
        "spectrum": _kolmogorov_smirnov(stats, np.abs(y) ** 2),
        "blocks": _blocks(stats, np.abs(y)),
        "lag-1": 2 * stats.norm.sf(np.abs(lag1) * math.sqrt(pairs)),
    }
    # A constant sample has no skewness; its p-value counts as 0, since it is far from noise.
    return {name: np.nan_to_num(p, nan=0.0).clip(0, 1) for name, p in by_name.items()}


def moment_z(moments: np.ndarray, dimension: int) -> np.ndarray:
    mu = {n: float(reference.target_moment(n)) for n in range(1, 17)}
    scale = [math.sqrt((mu[2 * n] - mu[n] ** 2) / dimension) for n in ORDERS]
    return (moments - np.array([mu[n] for n in ORDERS])) / np.array(scale)


def _two_sided(law: Any, value: np.ndarray) -> np.ndarray:
    return 2 * np.minimum(law.cdf(value), law.sf(value))


def _kolmogorov_smirnov(stats: ModuleType, power: np.ndarray) -> np.ndarray:
    """Return p-values of rows against Exp(1), by the exact law of the one-sample KS distance."""
    n = power.shape[1]
    cdf = -np.expm1(-np.sort(power, axis=1))
    steps = np.arange(n + 1) / n
    distance = np.maximum((steps[1:] - cdf).max(1), (cdf - steps[:-1]).max(1))
    return stats.kstwo.sf(distance, n)


def _blocks(stats: ModuleType, amplitude: np.ndarray) -> np.ndarray:
    """Return p-values of the sum of squared standardised block amplitudes.

    The sum is taken to be gamma-distributed, with its exact mean and variance.
    """
    blocks = reference.block_means(torch.from_numpy(amplitude), BLOCK).numpy()
    sizes = reference.block_sizes(amplitude.shape[1], BLOCK, torch.from_numpy(amplitude))
    n = sizes.numpy()
    value = (n * (blocks - reference.RAYLEIGH_MEAN) ** 2 / reference.RAYLEIGH_VAR).sum(1)
    # Var(z^2) = 2 + excess kurtosis of z: 0.2451 for a Rayleigh variable, 0.2451 / n for a mean
    # of n of them.
    mean, variance = float(len(n)), float((2 + 0.2451 / n).sum())
    return _two_sided(stats.gamma(mean**2 / variance, scale=variance / mean), value)


def power_loss(values: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return L_power under the permutation of seed 0, and its z-score.

    For the mean and the variance over noise |A_p - mu| is taken to be half-normal; its small
    skewness is left out.
    """
    power = functional.power_spectrum_loss(values, seed=0, reduction="none").numpy()
    bins = math.prod(values.shape[1:]) // 2
    sizes = reference.block_sizes(bins, BLOCK, values.new_empty(0)).numpy()
    deviation = np.sqrt(reference.RAYLEIGH_VAR / sizes)
    mean = math.sqrt(2 / math.pi) * deviation.mean()
    std = math.sqrt((1 - 2 / math.pi) * (deviation**2).sum()) / len(sizes)
    return power, (power - mean) / std
