"""Samples of calls that take turns, so that noise and clock changes affect all alike."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Calls = dict[str, Callable[[int], Any]]  # name -> call that takes the number of its buffers
Samples = dict[str, list[float]]  # name -> microseconds


def in_turns(samplers: dict[str, Callable[[], float]], rounds: int | dict[str, int]) -> Samples:
    """Take a sample of each in every round; samples of those with fewer rounds are spread out."""
    each = dict.fromkeys(samplers, rounds) if isinstance(rounds, int) else rounds
    total = max(each.values(), default=0)
    samples: Samples = {name: [] for name in samplers}
    for turn in range(total):
        for name, sample in samplers.items():
            if turn == 0 or turn * each[name] // total > (turn - 1) * each[name] // total:
                samples[name].append(sample())
    return samples


def summary(samples: list[float]) -> dict[str, float]:
    """Return the median, the lower quartile, and the tenth and ninetieth percentile."""
    cuts = statistics.quantiles(samples, n=10, method="inclusive") if len(samples) > 1 else samples
    return {
        "median": statistics.median(samples),
        "p25": lower_quartile(samples),
        "p10": cuts[0],
        "p90": cuts[-1],
    }


def lower_quartile(samples: list[float]) -> float:
    if len(samples) == 1:
        return samples[0]
    return statistics.quantiles(samples, n=4, method="inclusive")[0]


@dataclass
class Timed:
    """The samples of several calls by one clock.

    Attributes:
        samples: microseconds of each call.
        queue_us: microseconds that Python takes to queue a call.
        late: number of samples in which the device may have waited for the host.
        dropped: calls that were too slow for the given time, with the reason.
        waiting: calls that synchronise with the device.
    """

    samples: Samples
    queue_us: dict[str, float] = field(default_factory=dict)
    late: dict[str, int] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    waiting: list[str] = field(default_factory=list)
