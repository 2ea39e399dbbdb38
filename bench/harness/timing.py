"""Time limits, the clock of a GPU, and the clocks of each device.

A sample depends on the clock (`cpu_clocks` has those of the CPU), turns are the same for all. On a
GPU a sample is the device's own time by events, behind a spin that keeps the device busy until all
calls are queued, with inputs and outputs that rotate over more than the cache. Another kind of GPU
sample is the host's time for one call and a synchronize, eager or as the replay of a CUDA graph.
"""

from __future__ import annotations

import contextlib
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from bench.harness import memory
from bench.harness.cpu_clocks import ColdClock, CpuClock
from bench.harness.gpu_turns import SPIN_PER_SECOND, Replay, Turns, waits, warm
from bench.harness.samples import Calls, Samples, Timed, in_turns


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


class GpuClock:
    """The device's own time."""

    device = "cuda"
    name = "device"
    column = ""
    best = staticmethod(min)
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


def clocks(device: str) -> tuple[Any, ...]:
    """Return the clock classes of a device; the first is that of the leading column."""
    return (GpuClock,) if device == "cuda" else (ColdClock, CpuClock)
