"""Timing on a GPU: calls take turns, and no input or output is still in the cache.

Three clocks. `events` is the device's own time for a call: a spin keeps the device busy until all
calls of a sample are queued, so that it never waits for Python. `wall` is what a caller waits for
one call and a synchronize. `captured` makes a CUDA graph, whose replay either of them can time.
"""

from __future__ import annotations

import contextlib
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import triton

Calls = dict[str, Callable[[int], Any]]  # name -> call on the buffers of a number
Samples = dict[str, list[float]]  # name -> microseconds

SPIN_PER_SECOND = 2e9  # cycles; a device that clocks lower spins longer, which does no harm
COPY_BYTES = 2**31


class OutOfTime(BaseException):
    """Not an Exception: compilers catch those and carry on."""


@contextlib.contextmanager
def limit(seconds: float) -> Iterator[None]:
    """Raises OutOfTime in the body after so many seconds."""

    def stop(*_: Any) -> None:
        raise OutOfTime(f"stopped after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.01))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def buffers(nbytes: int, cache: int) -> int:
    """How many buffers of a size make four times the cache."""
    return max(2, -(-4 * cache // nbytes))


def cache_bytes() -> int:
    return torch.cuda.get_device_properties(0).L2_cache_size


def summary(samples: list[float]) -> dict[str, float]:
    """Median, and the tenth and ninetieth percentile."""
    cuts = statistics.quantiles(samples, n=10, method="inclusive") if len(samples) > 1 else samples
    return {"median": statistics.median(samples), "p10": cuts[0], "p90": cuts[-1]}


class Turns:
    """A call that goes round the buffers. Each result lives until its buffer's next turn."""

    def __init__(self, call: Callable[[int], Any], buffers: int) -> None:
        self.call, self.buffers, self.turn = call, buffers, 0
        self.kept: list[Any] = [None] * buffers

    def __call__(self, repeats: int = 1) -> float:
        """Seconds until so many calls are queued."""
        begin = time.perf_counter()
        for _ in range(repeats):
            slot = self.turn % self.buffers
            self.turn += 1
            self.kept[slot] = self.call(slot)
        return time.perf_counter() - begin


def events(
    calls: Calls, buffers: int, rounds: int = 15, repeats: int = 4
) -> tuple[Samples, dict[str, float], dict[str, int]]:
    """Device microseconds a call; microseconds until Python has queued one; and in how many
    samples the device had begun before all calls were queued, so that it may have waited.
    """
    turns = {name: Turns(call, buffers) for name, call in calls.items()}
    host = {}
    for name, turn in turns.items():
        turn(max(2, min(buffers, 4)))
        torch.cuda.synchronize()
        host[name] = turn(repeats)
        torch.cuda.synchronize()
    samples: Samples = {name: [] for name in calls}
    late = dict.fromkeys(calls, 0)
    queued: Samples = {name: [] for name in calls}
    for _ in range(rounds):
        for name, turn in turns.items():
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda._sleep(int(min(0.1, 2 * host[name] + 2e-4) * SPIN_PER_SECOND))
            start.record()
            host[name] = max(host[name] / 2, seconds := turn(repeats))
            end.record()
            queued[name].append(seconds * 1e6 / repeats)
            late[name] += start.query()
            end.synchronize()
            samples[name].append(start.elapsed_time(end) * 1e3 / repeats)
    queue = {name: statistics.median(each) for name, each in queued.items()}
    return samples, queue, {name: count for name, count in late.items() if count}


def wall(calls: Calls, rounds: int = 10, repeats: int = 30) -> Samples:
    """Microseconds of a call and a synchronize by the host's clock, every call a sample."""
    samples: Samples = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            for repeat in range(repeats + 3):
                torch.cuda.synchronize()
                begin = time.perf_counter()
                call(0)
                torch.cuda.synchronize()
                if repeat >= 3:
                    samples[name].append((time.perf_counter() - begin) * 1e6)
    return samples


def captured(call: Callable[[int], Any]) -> Callable[[int], None]:
    """Replays of a CUDA graph of one call, warmed up as capture asks for it."""
    here, side = torch.cuda.current_stream(), torch.cuda.Stream()
    side.wait_stream(here)
    with torch.cuda.stream(side):
        for _ in range(3):
            call(0)
    here.wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = call(0)

    def replay(_: int, result: Any = result) -> None:
        graph.replay()

    return replay


def extra_memory(call: Callable[[int], Any]) -> int:
    """Most bytes allocated during a call beyond what was before; its results are among them."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    result = call(0)
    torch.cuda.synchronize()
    del result
    return torch.cuda.max_memory_allocated() - before


def ceilings() -> dict[str, float]:
    """What nothing here can beat: the copy of a big buffer, the smallest call, and its graph."""
    source, target = (torch.randn(COPY_BYTES // 4, device="cuda") for _ in range(2))
    small = torch.zeros(1, device="cuda")
    copies, *_ = events({"copy": lambda _: target.copy_(source)}, 1)
    waits = wall({"eager": lambda _: small.add_(1), "graph": captured(lambda _: small.add_(1))})
    return {
        "copy_gb_per_s": 2 * COPY_BYTES / statistics.median(copies["copy"]) / 1e3,
        "smallest_call_us": statistics.median(waits["eager"]),
        "smallest_graph_us": statistics.median(waits["graph"]),
    }


def smi(*fields: str) -> dict[str, str | None]:
    """What nvidia-smi says of the first device; None where it says nothing."""
    command = ["nvidia-smi", "-i", "0", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return dict.fromkeys(fields)
    return dict(zip(fields, done.stdout.strip().split(", "), strict=False))


def facts() -> dict[str, Any]:
    return {
        "device": torch.cuda.get_device_name(0),
        "cuda": torch.version.cuda,
        "triton": triton.__version__,
        "smi_before": smi("driver_version", "clocks.sm", "clocks.mem", "temperature.gpu"),
    }


def prepare(script: Path, jobs: Sequence[Sequence[str]], seconds: float) -> list[str]:
    """Runs a script with each job's arguments, all at once, and returns what they print.

    Compilers leave their results in caches on disk, so that the run itself finds them there.
    """
    env = os.environ | {"TORCHINDUCTOR_COMPILE_THREADS": "1", "OMP_NUM_THREADS": "1"}
    running = [
        subprocess.Popen(
            [sys.executable, script, *job],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env,
            start_new_session=True,
        )
        for job in jobs
    ]  # fmt: skip
    end = time.monotonic() + seconds
    printed = []
    for process in running:
        try:
            process.wait(max(0.1, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # with the compilers it has started
        printed += process.communicate()[0].splitlines()
    return printed
