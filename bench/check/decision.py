"""Decide whether a call is slower: a rank test, which does not assume normal noise.

It compares logarithms of time / yardstick, one number per process. Samples within a process share
its memory layout and the minute in which it ran, so that they are not independent; processes are
the most independent unit there is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from math import comb

import numpy as np

FALSE_ALARMS = 0.01  # probability for a whole comparison, however many calls it has


@cache
def _below(n: int, m: int) -> tuple[float, ...]:
    """Return P(U <= u) of Mann and Whitney's U, exactly, for n and m draws of one distribution."""
    counts = np.zeros((n + 1, n * m + 1))
    # counts[chosen, excess]: ways to choose so many of the first ranks, by the excess of their sum
    # over that of the smallest ones.
    counts[0, 0] = 1
    for rank in range(n + m):
        for chosen in range(min(rank + 1, n), 0, -1):
            excess = rank - (chosen - 1)
            counts[chosen, excess:] += counts[chosen - 1, : n * m + 1 - excess]
    return tuple(np.cumsum(counts[n]) / comb(n + m, n))


@dataclass(frozen=True)
class Shift:
    """The factor by which a call is slower than in the baseline, with a confidence interval."""

    factor: float
    low: float
    high: float


def shift(before: list[float], now: list[float], level: float) -> Shift:
    """Return Hodges and Lehmann's estimate; each end of the interval errs with P <= `level`.

    If there are too few numbers for that level, the ends are 0 and infinity.
    """
    gaps = sorted(b - a for a in map(math.log, before) for b in map(math.log, now))
    cut = sum(p <= level for p in _below(len(now), len(before)))
    low, high = (gaps[cut - 1], gaps[-cut]) if cut else (-math.inf, math.inf)
    return Shift(math.exp(float(np.median(gaps))), math.exp(low), math.exp(high))


def level(calls: int) -> float:
    """Return Bonferroni's level for one of `calls`, so that all together obey `FALSE_ALARMS`."""
    return FALSE_ALARMS / calls


def enough(before: int, now: int, calls: int) -> bool:
    """Return whether so many processes can show a regression of one among `calls` at all."""
    return 1 / comb(before + now, now) <= level(calls)


SLOWDOWNS = (1.15, 1.2, 1.25, 1.3, 1.4, 1.5, 1.75, 2.0, 2.5, 3.0)


def visible(before: list[float], now: int, level: float, tolerance: float = 0.1) -> float:
    """Return the smallest of `SLOWDOWNS` that `now` processes would show; infinity if none.

    The scatter is assumed to be that of the ratios `before`.
    """
    picks = np.linspace(0, len(before) - 1, now).round().astype(int)
    drawn = [sorted(before)[i] for i in picks]
    for factor in SLOWDOWNS:
        if regressed(shift(before, [factor * ratio for ratio in drawn], level), tolerance):
            return factor
    return math.inf


def suspicious(found: Shift, tolerance: float) -> bool:
    """Return whether a first measurement calls for a second one."""
    return found.factor > 1 + tolerance


def regressed(found: Shift, tolerance: float) -> bool:
    """Return whether a call is slower than allowed beyond chance. Pass fresh measurements only."""
    return found.low > 1 + tolerance
