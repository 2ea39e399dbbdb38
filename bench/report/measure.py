"""Measure one case: check it, time it, and compare ours with the peers."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bench.harness import machine, timing
from bench.harness.cpu_clocks import ColdClock, CpuClock
from bench.harness.errors import failed_row
from bench.harness.samples import Calls, summary
from bench.subjects import correctness, peers
from bench.subjects.cases import TARGETS, Case
from bench.subjects.naive import by_hand

# Ratio -> (numerator, denominator), as names of calls; "ours" is value and gradient.
RATIOS = {
    "ours/fft": ("value_and_grad", "fft"),
    "naive/ours": ("naive", "value_and_grad"),
    "compile/ours": ("compile", "value_and_grad"),
    "hand/ours": ("hand", "value_and_grad"),
    "naive/backward": ("naive", "loss_backward"),
    "compile/backward": ("compile", "loss_backward"),
    "ours/copy": ("value_and_grad", "copy"),
    "covariance/ours": ("covariance", "value_and_grad"),
    "prno/ours": ("prno", "value_and_grad"),
}
GRAPH_RATIOS = {"naive/ours graph": ("naive", "ours"), "compile/ours graph": ("compile", "ours")}
NEED = 64  # bytes per number of the batch; the most that a call has been seen to need
GRAPH_SECONDS = 20.0  # to capture a call that is not compiled by torch


class Skipped(Exception):
    """A case that cannot be measured here, with the reason."""


def ratios(us: dict[str, float], pairs: dict[str, tuple[str, str]]) -> dict[str, float]:
    return {name: us[a] / us[b] for name, (a, b) in pairs.items() if a in us and b in us}


def verdicts(case: Case, values: dict[str, float]) -> dict[str, str]:
    """Return for each target whether it is met, missed or not measured."""
    results = {}
    for name, (relation, bound) in TARGETS.get(case.name, {}).items():
        value = values.get(name)
        if value is None:
            results[name] = f"not measured (target {relation} {bound:g})"
        else:
            met = value <= bound if relation == "<=" else value >= bound
            results[name] = f"{value:.3g} ({'met' if met else 'MISSED'}: {relation} {bound:g})"
    return results


def run_case(
    case: Case,
    *clocks: Any,
    backend: str = "auto",
    seconds: float = 3.0,
    compile_seconds: float = 0.0,
) -> dict[str, Any]:
    """Measure a row. A wrong result or another error makes it FAILED, and nothing is timed.

    Args:
        case: the case to measure.
        clocks: clock classes, `timing.clocks(device)`; the first gives ratios and targets.
        backend: backend of ours.
        seconds: time for samples, of all clocks together.
        compile_seconds: time for each peer under torch.compile; 0 leaves them out.
    """
    begin = time.monotonic()
    row: dict[str, Any] = {
        "case": case.name,
        "topic": case.topic,
        "batch": case.batch,
        "dimension": case.dimension,
        "status": "FAILED",
        "not_measured": {},
    }
    try:
        need = NEED * case.batch * case.dimension
        if need > (free := machine.free_memory(clocks[0].device)):
            raise Skipped(f"needs about {need / 2**30:.0f} GiB, {free / 2**30:.0f} GiB are free")
        row["errors"] = checked(case, clocks[0].device, backend)
        _measure(case, clocks, backend, seconds, compile_seconds, row)
        row["status"] = "ok"
    except Skipped as reason:
        row |= {"status": "not measured", "reason": str(reason)[:500]}
    except Exception as error:
        row |= failed_row(error)
    row["seconds"] = round(time.monotonic() - begin, 2)
    return row


def checked(case: Case, device: str, backend: str) -> correctness.Errors:
    """Check all calls that will be timed; a big batch is drawn once, others twice."""
    errors: correctness.Errors = {}
    if case.topic != "guards":
        rounds = 1 if case.topic == "growth" or case.nbytes > 2**26 else 2
        errors = correctness.check(case, device, backend, rounds)
    for name, guard in peers.guards(case, device).items():
        correctness.check_guard(errors, name, guard, case, device)
    return errors


def _measure(
    case: Case,
    clocks: tuple[Any, ...],
    backend: str,
    seconds: float,
    compile_seconds: float,
    row: dict[str, Any],
) -> None:
    clock = clocks[0]
    # A single latent has one buffer, which stays in a GPU's cache in a user's loop, too.
    count = 1 if case.batch == 1 else clock.buffers(case.nbytes)
    xs = peers.inputs(case, clock.device, count)
    calls = peers.ours(case, xs, backend) | peers.others(case, xs, clock.device)
    if compile_seconds:
        found, reasons = peers.compiled(case, xs, compile_seconds)
        row["not_measured"] |= reasons
        if found:
            check_compiled(row["errors"], case, xs, found)
        calls |= found
    row["extra_memory_bytes"] = _memory(calls, xs, clock)
    row |= {"clock": clock.name, "us": {}}
    for each in clocks:
        _sample(each, calls, count, seconds / len(clocks), row)
    graph: dict[str, float] = {}
    if case.batch == 1 and case.topic == "loss" and clock.device == "cuda":
        row["clock"] = "wall"  # the time that the loop that optimises one latent waits
        waiting = {name: call for name, call in calls.items() if name != "copy"}
        row["us"]["wall"] = clock.wait_times(waiting)
        graph = _graphs(case, clock, backend, compile_seconds, row)
    row["summary_us"] = {
        name: {call: summary(s) for call, s in samples.items()}
        for name, samples in row["us"].items()
    }
    _compare(row, case, graph, clock.device)


def _sample(clock: Any, calls: Calls, buffers: int, seconds: float, row: dict[str, Any]) -> None:
    """Add a clock's samples to the row, and what it could not measure."""
    timed = clock.timed(calls, buffers, seconds)
    row["us"][clock.name] = timed.samples
    row["not_measured"] |= timed.dropped
    if timed.queue_us:
        row |= {"queue_us": timed.queue_us, "late_samples": timed.late}
    waits = "it waits for the device: its times include the host's"
    row["not_measured"] |= {f"{name}, the device alone": waits for name in timed.waiting}


def _compare(row: dict[str, Any], case: Case, graph: dict[str, float], device: str) -> None:
    """Add ratios to the row, our time per sample, and on a GPU the targets."""
    us = typical(row)
    row["ratios"] = ratios(us, RATIOS) | ratios(graph, GRAPH_RATIOS)
    if "value_and_grad" in us:
        row["ns_per_sample"] = us["value_and_grad"] / case.batch * 1e3
        values = row["ratios"] | {"eager us": us["value_and_grad"]}
        values |= {"graph us": graph["ours"]} if graph else {}
        if (extra := row["extra_memory_bytes"].get("value_and_grad")) is not None:
            values["memory/input"] = extra / case.nbytes
        row["targets"] = verdicts(case, values) if device == "cuda" else {}


def typical(row: dict[str, Any], clock: str = "") -> dict[str, float]:
    """Return each call's typical microseconds by a row's own clock, or by another.

    Of hot calls on a CPU it is the tenth percentile, because other programs only ever add time, of
    cold ones the lower quartile (`ColdClock`). On a GPU it is the median.
    """
    clock = clock or row.get("clock", "")
    statistic = {CpuClock.name: "p10", ColdClock.name: "p25"}.get(clock, "median")
    return {call: s[statistic] for call, s in row.get("summary_us", {}).get(clock, {}).items()}


def _memory(calls: Calls, xs: list[Tensor], clock: Any) -> dict[str, int | None]:
    """Measure each call's extra memory; the gradient that it leaves in its input is included."""

    def once(call: Callable[[int], Any], slot: int) -> Any:
        result = call(slot), xs[slot].grad
        xs[slot].grad = None
        return result

    slow = "covariance" if clock.device == "cpu" else ""  # left out, because a call takes seconds
    return {
        name: clock.extra_memory(partial(once, call))
        for name, call in calls.items()
        if name != slow
    }


def check_compiled(errors: correctness.Errors, case: Case, xs: list[Tensor], found: Calls) -> None:
    """Raise Wrong if a peer under torch.compile differs from its eager result."""
    eager = peers.turns(peers.naive_of(case), xs[:1])
    hand = partial(by_hand, xs[0].detach(), per_sample=case.permutation == "per_sample")

    def with_gradient(call: Callable[[int], Tensor]) -> tuple[Tensor, Tensor | None]:
        return call(0), xs[0].grad

    if call := found.get("compile"):
        correctness.same_as_eager(
            errors, "compile", lambda: with_gradient(eager), lambda: with_gradient(call)
        )
    if "hand" in found:
        correctness.same_as_eager(errors, "compiled hand", hand, lambda: found["hand"](0))


def _graphs(
    case: Case, clock: Any, backend: str, compile_seconds: float, row: dict[str, Any]
) -> dict[str, float]:
    """Capture and time CUDA graphs; return the medians of a replay and a synchronize.

    Ours is captured first.
    """
    makers: dict[str, Callable[[list[Tensor]], Callable[[int], Any]]] = {
        "ours": lambda xs: peers.ours(case, xs, backend)["value_and_grad"],
        "ours backward": lambda xs: peers.ours(case, xs, backend)["loss_backward"],
        "naive": lambda xs: peers.turns(peers.naive_of(case), xs),
    }
    if compile_seconds and "compile" not in row["not_measured"]:
        makers["compile"] = lambda xs: peers.turns(
            torch.compile(peers.naive_of(case), dynamic=False), xs
        )
    replays: Calls = {}
    for name, make in makers.items():
        try:  # a new leaf, whose gradient is accumulated on the stream of the capture
            with timing.limit(compile_seconds or GRAPH_SECONDS):
                replays[name] = clock.captured(make(peers.inputs(case, clock.device, 1)))
        except (Exception, timing.OutOfTime) as error:
            if name == "ours":
                raise
            row["not_measured"][f"{name} graph"] = f"{type(error).__name__}: {error}"[:300]
            clock.recover()
    row["us"]["graph wall"] = clock.wait_times(replays)
    row["us"]["graph device"] = clock.timed(replays, 1).samples
    return {name: statistics.median(s) for name, s in row["us"]["graph wall"].items()}
