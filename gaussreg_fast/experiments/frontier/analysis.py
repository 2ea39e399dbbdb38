"""Reward against held-out score: curves of means, matched points, bootstrap bands.

Curves are, per seed, a mapping from measure to (latents, iterations + 1). All comparisons are
between means over the latents, and all guards share their latents, so that differences are paired.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from gaussreg_fast.experiments.statistics import at_level, interval, missing

Curves = Sequence[dict[str, np.ndarray]]
Statistic = Callable[[np.ndarray], np.ndarray]
DRAWS = 1000  # bootstrap resamples: 25 lie beyond each end of a 95 % interval
LOST = 0.8  # share of held-out votes left at the matched reward
MARGIN = 0.05  # differences below this share of the baseline's loss are ties


def pooled(curves: Curves, measure: str) -> np.ndarray:
    """Concatenate a measure over all seeds: (latents, iterations + 1) float64."""
    return np.concatenate([seed[measure] for seed in curves]).astype(np.float64)


def hacked_reward(baseline: Curves) -> float:
    """Return the reward at which a fifth of the held-out votes is lost without a guard.

    If that never happens (`votes_lost`), return the reward at half of the baseline's gain.
    """
    reward, agree = (pooled(baseline, name).mean(0) for name in ("reward", "agree"))
    if not votes_lost(baseline):
        return float((reward[0] + reward.max()) / 2)
    return float(at_level(-agree, reward, -LOST * float(agree[0])))


def votes_lost(baseline: Curves) -> bool:
    """Return whether a fifth of the held-out votes is ever lost without a guard."""
    agree = pooled(baseline, "agree").mean(0)
    return bool(agree.min() <= LOST * agree[0])


def at_reward(curves: Curves, measure: str, level: float) -> float:
    """Return a measure's mean where the mean reward first reaches a level; NaN if it never does."""
    reward, values = (pooled(curves, name).mean(0) for name in ("reward", measure))
    return float(at_level(reward, values, level))


def resamples(curves: Curves, seed: int = 0, draws: int = DRAWS) -> np.ndarray:
    """Draw bootstrap weights, (draws, latents), rows summing to 1, resampled within each seed."""
    rng = np.random.default_rng(seed)
    counts = [len(part["reward"]) for part in curves]
    parts = [rng.multinomial(n, np.full(n, 1 / n), size=draws) for n in counts]
    return np.concatenate(parts, axis=1) / sum(counts)


def estimate(statistic: Statistic, weights: np.ndarray) -> dict[str, float]:
    """Return a statistic of weighted means with its 95 % interval.

    Args:
        statistic: (..., latents) weights -> (...) values.
        weights: (draws, latents) from `resamples`.
    """
    n = weights.shape[1]
    low, high = interval(statistic(weights))
    return {"value": float(statistic(np.full((1, n), 1 / n))[0]), "low": low, "high": high}


def compare(arm: Curves, baseline: Curves, level: float, measures: Sequence[str]) -> dict[str, Any]:
    """Measure an arm at the last iteration and at a matched reward, also against the baseline.

    Returns:
        `iterations`, `reward`: measure -> value, low, high; `difference_iterations`,
        `difference_reward` the same against the baseline, paired; `reached`: the iteration at
        which the mean reward reaches the level.
    """
    weights = resamples(arm)
    data = {name: pooled(arm, name) for name in {*measures, "reward"}}
    base = {name: pooled(baseline, name) for name in data}
    steps = np.broadcast_to(
        np.arange(data["reward"].shape[1], dtype=np.float64), data["reward"].shape
    )

    def last(source: dict[str, np.ndarray], name: str) -> Statistic:
        return lambda w: w @ source[name][:, -1]

    def there(source: dict[str, np.ndarray], values: np.ndarray) -> Statistic:
        return lambda w: at_level(w @ source["reward"], w @ values, level)

    def less(one: Statistic, other: Statistic) -> Statistic:
        return lambda w: one(w) - other(w)

    result: dict[str, Any] = {"reached": estimate(there(data, steps), weights)}
    for key in ("iterations", "reward", "difference_iterations", "difference_reward"):
        result[key] = {}
    for name in measures:
        end, matched = last(data, name), there(data, data[name])
        result["iterations"][name] = estimate(end, weights)
        result["reward"][name] = estimate(matched, weights)
        result["difference_iterations"][name] = estimate(less(end, last(base, name)), weights)
        result["difference_reward"][name] = estimate(
            less(matched, there(base, base[name])), weights
        )
    return result


def verdict(difference: Mapping[str, Any], lost: float) -> str:
    """Return "better", "worse", "tie" or "not reached".

    A difference is a tie if its interval holds 0, or if it is under `MARGIN` times `lost`, the
    baseline's own loss of the measure by then: pairing detects differences too small to matter.
    """
    if missing(difference):
        return "not reached"
    if (
        abs(difference["value"]) < MARGIN * abs(lost)
        or difference["low"] <= 0 <= difference["high"]
    ):
        return "tie"
    return "better" if difference["value"] > 0 else "worse"


def band(curves: Curves, measure: str, levels: np.ndarray) -> dict[str, list[float]]:
    """Return the frontier: a measure at each reward level with its interval; NaN if not reached."""
    weights = resamples(curves, draws=300)
    reward, values = weights @ pooled(curves, "reward"), weights @ pooled(curves, measure)
    columns: dict[str, list[float]] = {"reward": [], "value": [], "low": [], "high": []}
    for level in levels:
        value = at_reward(curves, measure, float(level))
        low, high = interval(at_level(reward, values, float(level)))
        for key, number in zip(columns, (float(level), value, low, high), strict=True):
            columns[key].append(number)
    return columns
