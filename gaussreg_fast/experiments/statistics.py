"""Intervals of bootstrap estimates, and curves at a matched level."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

LEVEL = 0.95


def at_level(reward: np.ndarray, measure: np.ndarray, level: float) -> np.ndarray:
    """Return a measure at the point where the reward first reaches a level.

    Between iterations it interpolates linearly.

    Args:
        reward, measure: mean curves, (..., iterations + 1).

    Returns:
        (...), NaN where the level is never reached.
    """
    reached = reward >= level
    after = reached.argmax(-1)[..., None]
    before = np.maximum(after - 1, 0)

    def take(values: np.ndarray, index: np.ndarray) -> np.ndarray:
        return np.take_along_axis(values, index, -1)[..., 0]

    low, high = take(reward, before), take(reward, after)
    gap = np.where(high > low, high - low, 1.0)
    share = np.where(after[..., 0] == 0, 0.0, np.clip((level - low) / gap, 0, 1))
    value = take(measure, before) * (1 - share) + take(measure, after) * share
    return np.where(reached.any(-1), value, np.nan)


def interval(values: np.ndarray) -> tuple[float, float]:
    """Return the central 95 % interval of bootstrap draws; NaN if over a tenth of them is NaN."""
    if np.isnan(values).mean() > 0.1:
        return float("nan"), float("nan")
    low, high = np.nanquantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def missing(estimate: Mapping[str, float | None]) -> bool:
    """Return whether an estimate has no value; NaN becomes null in JSON."""
    return any(v is None or np.isnan(v) for v in estimate.values())
