"""The clocks of the CPU: of a call that is repeated by itself, and of one among other work."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

from bench.harness import memory
from bench.harness.interlude import interlude
from bench.harness.samples import Calls, Samples, Timed, in_turns, lower_quartile

SAMPLE = 2e-3  # seconds of a hot sample, if a call does not take longer
ROUNDS = 30
SHORT_SAMPLE = 5e-4  # seconds; well below a time slice, so that no process disturbs some samples
COLD_ROUNDS = 100  # more, because a cold sample is a single call


class CpuClock:
    """The host's clock; a sample is at least `SAMPLE` long, of a call repeated by itself."""

    device = "cpu"
    name = "host"
    column = "hot"
    rounds = ROUNDS
    best = staticmethod(min)  # other programs only ever add time
    extra_memory = staticmethod(memory.resident)

    @staticmethod
    def buffers(nbytes: int) -> int:
        """Return 1: a loop calls a loss on the same latents again and again."""
        return 1

    @classmethod
    def timed(
        cls,
        calls: Calls,
        buffers: int = 1,
        seconds: float = 2.0,
        patience: float = 3.0,
        before: Mapping[str, Callable[[], Any]] = MappingProxyType({}),
    ) -> Timed:
        """Take samples in turns: up to `rounds` as `seconds` allow, but at least 3.

        A call that takes longer than `patience` times all the seconds is dropped. `before` has what
        some calls need done ahead of each sample, untimed.
        """
        result = Timed({})
        samplers, each = {}, {}
        share = seconds / max(1, len(calls))
        for name, call in calls.items():
            elapsed = cls._once(call)
            if elapsed < share:
                elapsed = min(elapsed, cls._once(call))
            if elapsed > patience * seconds:
                result.dropped[name] = f"one call takes {elapsed:.1f} s"
                continue
            sampler, cost = cls._sampler(call, elapsed, SAMPLE)
            samplers[name] = _after(before[name], sampler) if name in before else sampler
            each[name] = min(cls.rounds, max(3, int(share / (cost * 1.1))))
        result.samples = in_turns(samplers, each)
        return result

    @classmethod
    def even(cls, calls: Calls, seconds: float) -> Samples:
        """Take short samples in turns, equally many of each call and at least 5."""
        samplers, total = {}, 0.0
        for name, call in calls.items():
            elapsed = min(cls._once(call) for _ in range(3))
            samplers[name], cost = cls._sampler(call, elapsed, SHORT_SAMPLE)
            total += cost * 1.1
        return in_turns(samplers, max(5, int(seconds / total)))

    @classmethod
    def _sampler(
        cls, call: Callable[[int], Any], elapsed: float, length: float
    ) -> tuple[Callable[[], float], float]:
        """Return a function that takes a sample, and the seconds it needs."""
        repeats = max(1, round(length / elapsed))
        return partial(cls._sample, call, repeats), repeats * elapsed

    @staticmethod
    def _once(call: Callable[[int], Any]) -> float:
        begin = time.perf_counter()
        call(0)
        return max(1e-7, time.perf_counter() - begin)

    @staticmethod
    def _sample(call: Callable[[int], Any], repeats: int) -> float:
        for _ in range(repeats // 10):  # untimed, because the other calls have filled the caches
            call(0)
        begin = time.perf_counter()
        for _ in range(repeats):
            call(0)
        return (time.perf_counter() - begin) / repeats * 1e6


class ColdClock(CpuClock):
    """The host's clock; a sample is a single call after an interlude of other work.

    The fastest sample is a rare one, whose data some cache has kept: between processes it scatters
    by a tenth and more. On a busy machine the median of long calls lies in time slices of other
    programs. The lower quartile depends on neither.
    """

    name = "cold"
    column = "cold"
    rounds = COLD_ROUNDS
    best = staticmethod(lower_quartile)

    @classmethod
    def _sampler(
        cls, call: Callable[[int], Any], elapsed: float, length: float
    ) -> tuple[Callable[[], float], float]:
        def sampler() -> float:
            interlude()()
            return cls._once(call) * 1e6

        return sampler, elapsed + cls._once(lambda _: interlude()())


def _after(first: Callable[[], Any], sampler: Callable[[], float]) -> Callable[[], float]:
    def prepared() -> float:
        first()
        return sampler()

    return prepared
