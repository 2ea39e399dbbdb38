"""Timing: calls take turns, so that noise and clock changes hit all alike.

One core for all machines: `in_turns`. What a sample is depends on the device, and each device has
one `Clock`. On the CPU a sample is some milliseconds of repeated calls by the host's clock. On a
GPU it is the device's own time by events, behind a spin that keeps the device busy until all calls
are queued, with inputs and outputs that rotate over more than the cache; and beside it what a
caller waits for one call and a synchronize, eager or as the replay of a CUDA graph.
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

Calls = dict[str, Callable[[int], Any]]  # name -> call on the buffers of a number
Samples = dict[str, list[float]]  # name -> microseconds

CPU_SAMPLE = 2e-3  # seconds of one sample on the CPU, if a call does not take longer
CPU_ROUNDS = 30
CPU_SHORT_SAMPLE = 5e-4  # well below a time slice: some samples escape every other process


class OutOfTime(BaseException):
    """Not an Exception: compilers catch those and carry on."""


@contextlib.contextmanager
def limit(seconds: float) -> Iterator[None]:
    """Raises OutOfTime in the body after so many seconds; a limit around it still holds."""

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
    """A sample of each in every round; those with fewer rounds have theirs evenly spread."""
    each = dict.fromkeys(samplers, rounds) if isinstance(rounds, int) else rounds
    total = max(each.values(), default=0)
    samples: Samples = {name: [] for name in samplers}
    for turn in range(total):
        for name, sample in samplers.items():
            if turn == 0 or turn * each[name] // total > (turn - 1) * each[name] // total:
                samples[name].append(sample())
    return samples


def summary(samples: list[float]) -> dict[str, float]:
    """Median, and the tenth and ninetieth percentile."""
    cuts = statistics.quantiles(samples, n=10, method="inclusive") if len(samples) > 1 else samples
    return {"median": statistics.median(samples), "p10": cuts[0], "p90": cuts[-1]}


@dataclass
class Timed:
    """What one clock says of several calls."""

    samples: Samples
    queue_us: dict[str, float] = field(default_factory=dict)  # of Python, until a call is queued
    late: dict[str, int] = field(default_factory=dict)  # samples that the device may have waited in
    dropped: dict[str, str] = field(default_factory=dict)  # calls too slow for the time there was
    waiting: list[str] = field(default_factory=list)  # calls that synchronise with the device


# ---------------------------------------------------------------- CPU


class CpuClock:
    """The host's clock; a sample is at least `CPU_SAMPLE` long."""

    device = "cpu"
    name = "host"
    extra_memory = staticmethod(memory.resident)

    @staticmethod
    def buffers(nbytes: int) -> int:
        """One: a small latent stays in the cache in its user's loop too, a big one never fits."""
        return 1

    @classmethod
    def timed(
        cls, calls: Calls, buffers: int = 1, seconds: float = 2.0, patience: float = 3.0
    ) -> Timed:
        """Samples of calls in turns: up to `CPU_ROUNDS`, as `seconds` allow, but at least 3.

        A call that takes longer than `patience` times all the seconds is dropped.
        """
        result = Timed({})
        samplers, each = {}, {}
        share = seconds / max(1, len(calls))
        for name, call in calls.items():
            taken = cls._once(call)
            if taken < share:
                taken = min(taken, cls._once(call))
            if taken > patience * seconds:
                result.dropped[name] = f"one call takes {taken:.1f} s"
                continue
            repeats = max(1, round(CPU_SAMPLE / taken))
            samplers[name] = lambda call=call, repeats=repeats: cls._sample(call, repeats)
            each[name] = min(CPU_ROUNDS, max(3, int(share / (repeats * taken * 1.1))))
        result.samples = in_turns(samplers, each)
        return result

    @classmethod
    def even(cls, calls: Calls, seconds: float) -> Samples:
        """Short samples of each in turns, in equal number and at least 5."""
        samplers, cost = {}, 0.0
        for name, call in calls.items():
            taken = max(1e-7, min(cls._once(call) for _ in range(3)))
            repeats = max(1, round(CPU_SHORT_SAMPLE / taken))
            samplers[name] = lambda call=call, repeats=repeats: cls._sample(call, repeats)
            cost += repeats * taken * 1.1
        return in_turns(samplers, max(5, int(seconds / cost)))

    @staticmethod
    def _once(call: Callable[[int], Any]) -> float:
        begin = time.perf_counter()
        call(0)
        return max(1e-7, time.perf_counter() - begin)

    @staticmethod
    def _sample(call: Callable[[int], Any], repeats: int) -> float:
        for _ in range(repeats // 10):  # after the others' turns the caches are theirs
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
        """How many buffers of a size make four times the L2 cache."""
        return rotated(nbytes, torch.cuda.get_device_properties(0).L2_cache_size)

    @staticmethod
    def timed(
        calls: Calls, buffers: int = 1, seconds: float = 2.0, rounds: int = 15, repeats: int = 4
    ) -> Timed:
        """Device microseconds a call. At least 3 rounds, fewer than 15 where time is short."""
        turns = {name: Turns(call, buffers) for name, call in calls.items()}
        host, waiting = {}, []
        taken = 0.0
        for name, turn in turns.items():
            warm(turn)
            torch.cuda.synchronize()
            begin = time.perf_counter()
            host[name] = turn(repeats)
            torch.cuda.synchronize()
            taken += time.perf_counter() - begin
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

        rounds = max(3, min(rounds, int(seconds / max(taken, 1e-6))))
        samples = in_turns({name: lambda name=name: sample(name) for name in calls}, rounds)
        queue = {name: statistics.median(each) for name, each in queued.items()}
        late = {name: count for name, count in late.items() if count}
        return Timed(samples, queue, late, waiting=waiting)

    @classmethod
    def even(cls, calls: Calls, seconds: float) -> Samples:
        """Samples of each in turns, in equal number."""
        return cls.timed(calls, 1, seconds, rounds=100).samples

    @staticmethod
    def waited(calls: Calls, rounds: int = 10, repeats: int = 30) -> Samples:
        """Microseconds of a call and a synchronize by the host's clock, every call a sample."""

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
        """A CUDA graph of one call, warmed up as capture asks for it."""
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
        """After a capture that failed: back to the usual stream, where random numbers are drawn."""
        torch.cuda.set_stream(torch.cuda.default_stream())
        torch.rand(1, device="cuda")


def rotated(nbytes: int, cache: int) -> int:
    """How many buffers of a size make four times a cache; at least two."""
    return max(2, -(-4 * cache // nbytes))


def clock(device: str) -> Any:
    """The clock of a device."""
    return GpuClock if device == "cuda" else CpuClock
