"""The best time of each of several calls on the CPU, cold and hot."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from bench.harness import timing
from bench.harness.text import time_text

Times = dict[str, dict[str, float]]  # "cold" and "hot" -> call -> microseconds


def best_times(
    calls: dict[str, Callable[[], Any]],
    seconds: float,
    before: Mapping[str, Callable[[], Any]] = MappingProxyType({}),
) -> Times:
    """Return the microseconds of each call by each clock, the best of its samples.

    The calls take turns, for `seconds` with each clock. `before` has what some of them need done
    ahead of each sample, untimed.
    """
    indexed = {name: lambda _, call=call: call() for name, call in calls.items()}
    found = {}
    for clock in timing.clocks("cpu"):
        samples = clock.timed(indexed, 1, seconds, patience=math.inf, before=before).samples
        found[clock.column] = {name: clock.best(each) for name, each in samples.items()}
    return found


def multiples(times: Times, of: str) -> list[str]:
    """Return a line for each clock: the time of one call, and the others' as multiples of it."""
    return [
        f"{column}: {of} {time_text(us[of])}; times that: "
        + ", ".join(f"{name} {t / us[of]:.2f}" for name, t in us.items() if name != of)
        for column, us in times.items()
    ]
