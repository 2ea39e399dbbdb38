"""`python -m bench profile`: show where the time of one case goes.

It writes a trace by torch.profiler and prints a table of stages: on the CPU those of the native
kernel, timed one by one; on a GPU the kernels of a call, with the bytes and operations that they
report. On a GPU it also prints commands for Nsight Systems and Nsight Compute; they run this
command with --bare, which makes only the calls, in NVTX ranges, between the profiler's start and
stop.
"""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

from bench.harness import machine, store
from bench.harness.best import best_times
from bench.harness.errors import BadInput
from bench.harness.text import time_text
from bench.report import roofline
from bench.subjects import cases, correctness, peers
from bench.subjects.cases import Case
from gaussreg_fast._files import atomic_path

RANGES = "gaussreg_bench"
CPU_SECONDS = 0.5  # for each clock


def main(case: str, call: str, out: Path, bare: bool, repeats: int, threads: int) -> int:
    torch.set_num_threads(threads)
    device = machine.device()
    parsed = cases.parse(case)
    run = _call(parsed, call, device)
    for _ in range(3):
        run()
    if bare:
        with profiler_on(device):
            annotated(run, f"{parsed.name} {call}", repeats)
        return 0
    if parsed.topic != "guards":
        correctness.check(parsed, device, rounds=1)
    facts = machine.facts(device)
    print(machine.describe(facts))
    times = _times(call, run, repeats, device)
    for clock, us in times.items():
        each = f"{time_text(us)} a call, {time_text(us / parsed.batch)} a sample"
        print(f"{parsed.name} {call}, {clock}: {each}")
    stages = roofline.stages(parsed, run, device) if call in peers.OURS else {}
    if stages:
        print(table(stages, device))
    name = f"profile-{parsed.name}-{call}"
    out.mkdir(parents=True, exist_ok=True)
    trace = out / f"{name}.trace.json"
    operators = traced(run, f"{parsed.name} {call}", repeats, device, trace)
    print(operator_table(operators))
    about = {**store.header("profile"), "date": store.today()}
    about |= {"machine": facts, "case": parsed.name, "call": call, "us": times}
    store.write(out / f"{name}.json", {**about, "stages": stages, "operators": operators})
    print(f"wrote {trace} (chrome://tracing, ui.perfetto.dev) and {out / f'{name}.json'}")
    if device == "cuda":
        for command in outer_profilers(parsed, call, out):
            print(command)
    return 0


def _call(case: Case, name: str, device: str) -> Callable[[], Any]:
    xs = peers.inputs(case, device, 1)
    calls = peers.ours(case, xs) | peers.others(case, xs, device)
    if name not in calls:
        raise BadInput(f"--call must be one of {', '.join(calls)} for {case.name}, got {name!r}")
    return lambda: calls[name](0)


def _times(name: str, run: Callable[[], Any], repeats: int, device: str) -> dict[str, float]:
    """Return the microseconds of a call, cold and hot; on a GPU the best of five rounds."""
    if device == "cpu":
        found = best_times({name: run}, CPU_SECONDS)
        return {column: us[name] for column, us in found.items()}
    best = float("inf")
    for _ in range(5):
        begin = time.perf_counter()
        for _ in range(repeats):
            run()
        torch.cuda.synchronize()
        best = min(best, (time.perf_counter() - begin) / repeats * 1e6)
    return {"wall": best}


def annotated(run: Callable[[], Any], message: str, repeats: int) -> None:
    """Make the calls, each in an NVTX range, which holds the package's own, one per launch.

    Without the package nvtx there are no ranges.
    """
    try:
        from nvtx import annotate
    except ImportError:
        annotate = None
    for _ in range(repeats):
        with annotate(message, domain=RANGES) if annotate else nullcontext():
            run()


@contextmanager
def profiler_on(device: str) -> Iterator[None]:
    """Let an outer profiler collect the body alone, without the warm-up before."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.cudart().cudaProfilerStart()
    yield
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.cudart().cudaProfilerStop()


def outer_profilers(case: Case, call: str, out: Path) -> list[str]:
    """Return the commands for Nsight Systems and Nsight Compute."""

    def bare(repeats: int) -> str:
        words = [sys.executable, "-m", "bench", "profile", "--case", case.name, "--call", call]
        return shlex.join([*words, "--bare", "--repeats", str(repeats)])

    target = shlex.quote(str(out / f"{case.name}-{call}"))
    return [
        "nsys profile --trace=cuda,nvtx,osrt --capture-range=cudaProfilerApi --force-overwrite=true"
        f" --output={target} {bare(20)}",
        f"ncu --set full --nvtx --profile-from-start off --force-overwrite --export {target}"
        f" {bare(1)}",
    ]


def traced(
    run: Callable[[], Any], message: str, repeats: int, device: str, path: Path
) -> list[dict[str, Any]]:
    """Write a trace to a file; return its operators and kernels with microseconds and counts."""
    from torch.profiler import ProfilerActivity, profile, record_function

    activities = [ProfilerActivity.CPU]
    activities += [ProfilerActivity.CUDA] if device == "cuda" else []
    with profile(activities=activities) as trace:
        for _ in range(repeats):
            with record_function(message):
                run()
        if device == "cuda":
            torch.cuda.synchronize()
    with atomic_path(path) as temporary:
        trace.export_chrome_trace(str(temporary))
    rows = [
        {
            "name": event.key,
            "count": event.count / repeats,
            "us": event.self_cpu_time_total / repeats,
            "device_us": event.self_device_time_total / repeats,
        }
        for event in trace.key_averages()
    ]
    return sorted(rows, key=lambda row: -max(row["us"], row["device_us"]))


def table(stages: dict[str, dict[str, float]], device: str) -> str:
    """Format stages as text; on the CPU they are those of one sample on warm data."""
    head = "kernel" if device == "cuda" else "stage of one sample, warm"
    lines = [f"{head:34}{'us':>10}{'GB/s':>10}{'Gflop/s':>10}"]
    for name, stage in stages.items():
        rates = (f"{stage[k]:.1f}" if k in stage else "" for k in ("gb_per_s", "gflop_per_s"))
        lines.append(f"{name[:33]:34}{stage['us']:10.1f}" + "".join(f"{r:>10}" for r in rates))
    return "\n".join(lines)


def operator_table(operators: list[dict[str, Any]], most: int = 12) -> str:
    """Format the operators that take longest by themselves.

    The profiler slows them down, so that only their shares mean something.
    """
    lines = [f"{'operator':50}{'a call':>8}{'host us':>10}{'device us':>10}"]
    for row in operators[:most]:
        lines.append(
            f"{row['name'][:49]:50}{row['count']:8.1f}{row['us']:10.1f}{row['device_us']:10.1f}"
        )
    return "\n".join(lines)
