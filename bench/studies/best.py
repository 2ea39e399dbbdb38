"""The best time of each of several calls, which the studies compare."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from bench.harness.timing import CpuClock


def best_times(calls: dict[str, Callable[[], Any]], seconds: float) -> dict[str, float]:
    """Return the microseconds of each call, the best of its samples; the calls take turns."""
    indexed = {name: lambda _, call=call: call() for name, call in calls.items()}
    samples = CpuClock.timed(indexed, 1, seconds, patience=math.inf).samples
    return {name: min(each) for name, each in samples.items()}
