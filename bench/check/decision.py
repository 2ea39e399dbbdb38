"""Is it slower? Ratios of two runs compared by ranks, so that no noise is assumed to be normal.

What is compared are logarithms of time / yardstick, one number per process. Samples within a
process share its memory layout and the minute it ran in, so they are not independent; processes
are as independent as runs can be had.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from math import comb

import numpy as np

FALSE_ALARMS = 0.01  # of a whole comparison, however many calls it has


@cache
def _below(n: int, m: int) -> tuple[float, ...]:
    """P(U <= u) of Mann and Whitney's U for samples of n and m of one distribution, exactly."""
    counts = np.zeros((n + 1, n * m + 1))
    counts[0, 0] = 1  # ways to choose so many of the first ranks, by their excess over 0, 1, ...
    for rank in range(n + m):
        for chosen in range(min(rank + 1, n), 0, -1):
            excess = rank - (chosen - 1)
            counts[chosen, excess:] += counts[chosen - 1, : n * m + 1 - excess]
    return tuple(np.cumsum(counts[n]) / comb(n + m, n))


@dataclass(frozen=True)
class Shift:
    """How much slower now is than the baseline, as a factor, with a confidence interval."""

    factor: float
    low: float
    high: float


def shift(before: list[float], now: list[float], level: float) -> Shift:
    """Hodges and Lehmann's estimate; each end of the interval is missed with P <= `level`.

    Where there are too few numbers for such a level the ends are 0 and infinity.
    """
    gaps = sorted(b - a for a in map(math.log, before) for b in map(math.log, now))
    cut = sum(p <= level for p in _below(len(now), len(before)))
    low, high = (gaps[cut - 1], gaps[-cut]) if cut else (-math.inf, math.inf)
    return Shift(math.exp(float(np.median(gaps))), math.exp(low), math.exp(high))


def level(calls: int) -> float:
    """Bonferroni's: so that all calls together raise a false alarm as rarely as is allowed."""
    return FALSE_ALARMS / calls


def enough(before: int, now: int, calls: int) -> bool:
    """Whether so many processes can show a regression of one call among so many at all."""
    return 1 / comb(before + now, now) <= level(calls)


SLOWDOWNS = (1.15, 1.2, 1.25, 1.3, 1.4, 1.5, 1.75, 2.0, 2.5, 3.0)


def visible(before: list[float], now: int, level: float, tolerance: float = 0.1) -> float:
    """The smallest slowdown that so many processes would show, with the scatter of these before.

    One of `SLOWDOWNS`, or infinity.
    """
    picks = np.linspace(0, len(before) - 1, now).round().astype(int)
    drawn = [sorted(before)[i] for i in picks]
    for factor in SLOWDOWNS:
        if regressed(shift(before, [factor * ratio for ratio in drawn], level), tolerance):
            return factor
    return math.inf


def suspicious(found: Shift, tolerance: float) -> bool:
    """Worth a second look: what a first measurement may say, and no more."""
    return found.factor > 1 + tolerance


def regressed(found: Shift, tolerance: float) -> bool:
    """Slower than allowed, and not by chance. To be asked of fresh measurements alone."""
    return found.low > 1 + tolerance
