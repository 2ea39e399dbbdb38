"""Timing: calls take turns, so that noise and clock changes affect all alike.

`in_turns` serves all devices; a sample depends on the device, and each device has one clock class.
On the CPU a sample is some milliseconds of repeated calls by the host's clock. On a GPU it is the
device's own time by events, behind a spin that keeps the device busy until all calls are queued,
with inputs and outputs that rotate over more than the cache. Another kind of GPU sample is the
host's time for one call and a synchronize, eager or as the replay of a CUDA graph.
"""

from __future__ import annotations

import contextlib
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from bench.harness import memory
from bench.harness.gpu_turns import SPIN_PER_SECOND, Replay, Turns, waits, warm

Calls = dict[str, Callable[[int], Any]]  # name -> call that takes the number of its buffers
Samples = dict[str, list[float]]  # name -> microseconds

CPU_SAMPLE = 2e-3  # seconds of one sample on the CPU, if a call does not take longer
CPU_ROUNDS = 30
CPU_SHORT_SAMPLE = (
    5e-4  # seconds; well below a time slice, so that no process disturbs some samples
)


class OutOfTime(BaseException):
    """A time limit was reached. No Exception, because compilers catch those and continue."""


@contextlib.contextmanager
def limit(seconds: float) -> Iterator[None]:
    """Raise OutOfTime in the body after `seconds`; an enclosing limit still holds."""

    def stop(*_: Any) -> None:
        raise OutOfTime(f"stopped after {seconds:.0f} s")

    begin = time.monotonic()
    before = signal.signal(signal.SIGALRM, stop)
    outer, _ = signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.01))
    if 0 < outer < seconds:
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, outer)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if outer:
            signal.setitimer(signal.ITIMER_REAL, max(0.01, outer - (time.monotonic() - begin)))


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
    """Return the median, and the tenth and ninetieth percentile."""
    cuts = statistics.quantiles(samples, n=10, method="inclusive") if len(samples) > 1 else samples
    return {"median": statistics.median(samples), "p10": cuts[0], "p90": cuts[-1]}


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


# ---------------------------------------------------------------- CPU


class CpuClock:
    """The host's clock; a sample is at least `CPU_SAMPLE` long."""

    device = "cpu"
    name = "host"
    extra_memory = staticmethod(memory.resident)

    @staticmethod
    def buffers(nbytes: int) -> int:
        """Return 1: users' loops keep a small latent in the cache too, and a big one never fits."""
        return 1

    @classmethod
    def timed(
        cls, calls: Calls, buffers: int = 1, seconds: float = 2.0, patience: float = 3.0
    ) -> Timed:
        """Take samples in turns: up to `CPU_ROUNDS` as `seconds` allow, but at least 3.

        A call that takes longer than `patience` times all the seconds is dropped.
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
            repeats = max(1, round(CPU_SAMPLE / elapsed))
            samplers[name] = lambda call=call, repeats=repeats: cls._sample(call, repeats)
            each[name] = min(CPU_ROUNDS, max(3, int(share / (repeats * elapsed * 1.1))))
        result.samples = in_turns(samplers, each)
        return result

    @classmethod
    def even(cls, calls: Calls, seconds: float) -> Samples:
        """Take short samples in turns, equally many of each call and at least 5."""
        samplers, cost = {}, 0.0
        for name, call in calls.items():
            elapsed = max(1e-7, min(cls._once(call) for _ in range(3)))
            repeats = max(1, round(CPU_SHORT_SAMPLE / elapsed))
            samplers[name] = lambda call=call, repeats=repeats: cls._sample(call, repeats)
            cost += repeats * elapsed * 1.1
        return in_turns(samplers, max(5, int(seconds / cost)))

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


# ---------------------------------------------------------------- GPU


class GpuClock:
    """The device's own time."""

    device = "cuda"
    name = "device"
    extra_memory = staticmethod(memory.allocated)

    @staticmethod
    def buffers(nbytes: int) -> int:
        """Return how many buffers of a size fill four times the L2 cache."""
        return rotated(nbytes, torch.cuda.get_device_properties(0).L2_cache_size)

    @staticmethod
    def timed(
        calls: Calls, buffers: int = 1, seconds: float = 2.0, rounds: int = 15, repeats: int = 4
    ) -> Timed:
        """Take samples of a call's device time: `rounds`, or fewer in little time, at least 3."""
        turns = {name: Turns(call, buffers) for name, call in calls.items()}
        host, waiting = {}, []
        elapsed = 0.0
        for name, turn in turns.items():
            warm(turn)
            torch.cuda.synchronize()
            begin = time.perf_counter()
            host[name] = turn(repeats)
            torch.cuda.synchronize()
            elapsed += time.perf_counter() - begin
            if waits(turn, host[name] / repeats):
                waiting.append(name)
        late, queued = dict.fromkeys(calls, 0), {name: [] for name in calls}

        def sample(name: str) -> float:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            if name not in waiting:
                torch.cuda._sleep(int(min(0.1, 2 * host[name] + 2e-4) * SPIN_PER_SECOND))
            start.record()
            host[name] = max(host[name] / 2, spent := turns[name](repeats))
            end.record()
            queued[name].append(spent * 1e6 / repeats)
            late[name] += start.query()
            end.synchronize()
            return start.elapsed_time(end) * 1e3 / repeats

        rounds = max(3, min(rounds, int(seconds / max(elapsed, 1e-6))))
        samples = in_turns({name: lambda name=name: sample(name) for name in calls}, rounds)
        queue = {name: statistics.median(each) for name, each in queued.items()}
        late = {name: count for name, count in late.items() if count}
        return Timed(samples, queue, late, waiting=waiting)

    @classmethod
    def even(cls, calls: Calls, seconds: float) -> Samples:
        """Take samples in turns, equally many of each call."""
        return cls.timed(calls, 1, seconds, rounds=100).samples

    @staticmethod
    def wait_times(calls: Calls, rounds: int = 10, repeats: int = 30) -> Samples:
        """Time a call and a synchronize by the host's clock, in microseconds; each is a sample."""

        def sample(call: Callable[[int], Any]) -> list[float]:
            found = []
            for repeat in range(repeats + 3):
                torch.cuda.synchronize()
                begin = time.perf_counter()
                call(0)
                torch.cuda.synchronize()
                if repeat >= 3:
                    found.append((time.perf_counter() - begin) * 1e6)
            return found

        samples: Samples = {name: [] for name in calls}
        for _ in range(rounds):
            for name, call in calls.items():
                samples[name] += sample(call)
        return samples

    @staticmethod
    def captured(call: Callable[[int], Any]) -> Replay:
        """Capture a CUDA graph of one call, after the warm-up that capture needs."""
        here, side = torch.cuda.current_stream(), torch.cuda.Stream()
        side.wait_stream(here)
        with torch.cuda.stream(side):
            for _ in range(3):
                call(0)
        here.wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = call(0)
        return Replay(graph, call, result)

    @staticmethod
    def recover() -> None:
        """Return to the default stream after a failed capture, and draw a random number there."""
        torch.cuda.set_stream(torch.cuda.default_stream())
        torch.rand(1, device="cuda")


def rotated(nbytes: int, cache: int) -> int:
    """Return how many buffers of a size fill four times a cache; at least two."""
    return max(2, -(-4 * cache // nbytes))


def clock(device: str) -> Any:
    """Return the clock class of a device."""
    return GpuClock if device == "cuda" else CpuClock
