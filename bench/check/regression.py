"""`python -m bench check`: find calls that are slower than in a baseline.

Every call is timed in several fresh processes, in turns with its yardstick. Other programs on the
machine only ever add time, so that the result of a process is its fastest sample of the call over
that of the yardstick: the speed of the machine cancels, and medians would scatter several times as
much on a busy machine. A call whose ratio has grown beyond the tolerance is suspicious and measured
again, in other processes; it is a regression only if these alone show it (decision.py). So a busy
minute raises no alarm.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import sys
from functools import partial
from statistics import median
from typing import Any

import torch

from bench import ROOT
from bench.check import decision, gate
from bench.harness import child, machine, store, timing
from bench.harness.errors import BadInput, describe
from bench.harness.progress import Progress
from bench.harness.text import time_text
from gaussreg_fast._exit_codes import Exit

BASELINES = ROOT / "bench" / "baselines"
RECORD_PROCESSES = 12
CHECK_PROCESSES = 6
# These make glibc keep freed memory. Otherwise the layout of a process's heap decides whether a
# tensor's memory returns to the system in every call, and page faults then dominate the time.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(2**25), "MALLOC_TRIM_THRESHOLD_": str(2**30)}

Process = dict[str, dict[str, float]]  # the result of one process: call -> "ratio", "us"


# ---------------------------------------------------------------- one process


def sample(options: argparse.Namespace) -> int:
    """Measure in this process, and write the result to `--answer`."""
    return child.answer(options.answer, partial(_sample, options))


def _sample(options: argparse.Namespace) -> dict[str, Any]:
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    device = machine.device()
    if options.verify and not options.suite:
        gate.verify(device)
    suite = gate.load(options.suite, device)
    wanted = options.exactly
    names = [n for n in suite if (n in wanted if wanted else options.only in n)]
    if not names:
        raise BadInput(
            f"--only: no call has a name that contains {options.only!r}, the suite has "
            f"{', '.join(suite)}"
        )
    turn = options.turn % len(names)  # so that no call is always the first
    calls = time_suite({n: suite[n] for n in names[turn:] + names[:turn]}, options.seconds)
    return {"machine": machine.facts(device), "calls": {n: calls[n] for n in names}}


def time_suite(suite: gate.Suite, seconds: float) -> Process:
    """Time every call beside its yardstick, in this process."""
    clock = timing.clock(machine.device())
    found = {}
    for name, (call, yardstick) in suite.items():
        calls = {"call": _indexed(call), "yardstick": _indexed(yardstick)}
        try:
            samples = clock.even(calls, seconds)
        except (Exception, SystemExit) as error:  # a user's call may raise anything
            raise BadInput(f"the call {name!r} failed: {describe(error)}") from error
        fastest = {which: min(times) for which, times in samples.items()}
        ratio = fastest["call"] / fastest["yardstick"]
        found[name] = {"ratio": ratio, "us": fastest["call"]}
    return found


def _indexed(call: Any) -> Any:
    return lambda _: call()


# ---------------------------------------------------------------- many processes


def measure(
    options: argparse.Namespace, processes: int, progress: Progress, names: tuple[str, ...] = ()
) -> tuple[dict[str, Any], list[Process]]:
    """Measure the named calls, or all, in fresh processes; return the machine and the results."""
    words = ["sample", "--threads", str(options.threads), "--seconds", str(options.seconds)]
    words += ["--only", options.only]
    words += ["--suite", str(options.suite.resolve())] if options.suite else []
    environment = {**os.environ, **ALLOCATOR}
    facts: dict[str, Any] = {}
    found = []
    for turn in range(processes):
        progress.begin(f"process {turn + 1}")
        more = ["--turn", str(turn), *(["--verify"] if turn == 0 and not names else [])]
        for name in names:
            more += ["--exactly", name]
        result = child.ask([*words, *more], environment)
        facts = result["machine"]
        found.append(result["calls"])
        progress.end(f"process {turn + 1} of {processes}")
    return facts, found


def by_call(processes: list[Process], key: str = "ratio") -> dict[str, list[float]]:
    return {name: [found[name][key] for found in processes] for name in processes[0]}


# ---------------------------------------------------------------- record


def record(options: argparse.Namespace) -> int:
    """Write a baseline of this machine."""
    count = options.processes or RECORD_PROCESSES
    with Progress(count) as progress:
        facts, processes = measure(options, count, progress)
    out = options.out or BASELINES / f"{slug(facts)}.json"
    about = {"what": "baseline", "format": store.FORMAT, "date": store.today(), "machine": facts}
    suite = options.suite.name if options.suite else None
    ratios, us = by_call(processes), by_call(processes, "us")
    calls = {name: {"ratio": ratios[name], "us": us[name]} for name in ratios}
    store.write(out, {**about, "suite": suite, "seconds": options.seconds, "calls": calls})
    print(f"wrote {out}: {len(calls)} calls, {count} processes")
    print(f"Smallest slowdown that {CHECK_PROCESSES} processes of a check can show, at this noise:")
    level = decision.level(len(calls))
    for name, found in ratios.items():
        factor = decision.visible(found, CHECK_PROCESSES, level)
        about = f"{factor:g} times" if math.isfinite(factor) else "none"
        print(f"  {name:{max(map(len, ratios))}}  {about}")
    return 0


def slug(facts: dict[str, Any]) -> str:
    """Return a device's file name, such as cpu-amd-epyc-avx2."""
    parts = (facts["kind"], facts["device"], facts["instruction_set"])
    return re.sub(r"[^a-z0-9]+", "-", " ".join(p for p in parts if p).lower()).strip("-")


# ---------------------------------------------------------------- check


def check(options: argparse.Namespace) -> int:
    """Compare times with --baseline and kernels with --kernels; exit code 1 for a regression."""
    if not options.baseline and options.kernels is None:
        raise BadInput("check needs --baseline FILE, --kernels, or both, got neither")
    regressions = []
    if options.baseline:
        regressions += _timed(options, _baseline(options))
    if options.kernels is not None:
        from bench.check import kernel_check

        regressions += kernel_check.regressions(options.kernels)
    for name in regressions:
        print(f"REGRESSION: {name}", file=sys.stderr)
    print(f"{len(regressions)} regressions" if regressions else "no regression")
    return Exit.NO if regressions else Exit.DONE


def _baseline(options: argparse.Namespace) -> dict[str, list[float]]:
    """Read a baseline's ratios; raise BadInput if its machine, suite or calls do not fit."""
    path = options.baseline
    content = store.read(path, "baseline")
    torch.set_num_threads(options.threads)
    if gap := machine.difference(content["machine"], machine.facts(machine.device())):
        raise BadInput(f"{path}: cannot be compared: it was measured with {gap}")
    suite = options.suite.name if options.suite else None
    if content["suite"] != suite:
        raise BadInput(
            f"{path}: cannot be compared: it was measured with suite {content['suite']}, here it "
            f"is {suite}"
        )
    calls = {name: c["ratio"] for name, c in content["calls"].items() if options.only in name}
    if not calls:
        raise BadInput(
            f"--only: no call has a name that contains {options.only!r}, {path} has "
            f"{', '.join(content['calls'])}"
        )
    before = min(map(len, calls.values()))
    count = options.processes or CHECK_PROCESSES
    if not decision.enough(before, count, len(calls)):
        raise BadInput(
            f"{before} processes of the baseline and {count} now cannot tell a regression of "
            f"{len(calls)} calls from chance: give more --processes, or a baseline with more"
        )
    return calls


def _timed(options: argparse.Namespace, before: dict[str, list[float]]) -> list[str]:
    """Return a line for each slower call, and print a table of all calls."""
    count = options.processes or CHECK_PROCESSES
    with Progress(count) as progress:
        facts, processes = measure(options, count, progress)
    now = by_call(processes)
    level = decision.level(len(before))
    first = {name: decision.shift(before[name], now[name], level) for name in before if name in now}
    suspects = tuple(n for n, s in first.items() if decision.suspicious(s, options.tolerance))
    second: dict[str, decision.Shift] = {}
    if suspects:
        print(f"measuring again: {', '.join(suspects)}", flush=True)
        with Progress(count) as progress:
            again = by_call(measure(options, count, progress, suspects)[1])
        second = {name: decision.shift(before[name], again[name], level) for name in suspects}
    slower = [n for n, s in second.items() if decision.regressed(s, options.tolerance)]
    if first:
        _show(first, second, slower, by_call(processes, "us"))
    if new := sorted(now.keys() - before.keys()):
        print(f"not compared, because the baseline lacks them: {', '.join(new)}")
    found = [
        f"{name}: {second[name].factor:.2f} times the baseline's time "
        f"(at least {second[name].low:.2f} times; {options.tolerance:.0%} more are allowed)"
        for name in slower
    ]
    lost = sorted(before.keys() - now.keys())
    found += [f"{name}: in the baseline, and no longer in the suite" for name in lost]
    if options.out:
        store.write(options.out, _as_json(options, facts, processes, first, second, found))
    return found


def _as_json(
    options: argparse.Namespace,
    facts: dict[str, Any],
    processes: list[Process],
    first: dict[str, decision.Shift],
    second: dict[str, decision.Shift],
    found: list[str],
) -> dict[str, Any]:
    shifts = {
        name: {"first": vars(s), "second": vars(second[name]) if name in second else None}
        for name, s in first.items()
    }
    about = {"what": "check", "format": store.FORMAT, "date": store.today(), "machine": facts}
    given = {"baseline": str(options.baseline), "tolerance": options.tolerance}
    return {**about, **given, "regressions": found, "shifts": shifts, "processes": processes}


def _show(
    first: dict[str, decision.Shift],
    second: dict[str, decision.Shift],
    slower: list[str],
    us: dict[str, list[float]],
) -> None:
    width = max(map(len, first))
    print(f"{'call':{width}}  {'time':>8}  ratio to the baseline, both as multiples of yardsticks")
    for name, shift in first.items():
        text = _interval(shift)
        if name in second:
            text += f", again {_interval(second[name])}"
        verdict = "REGRESSION" if name in slower else "ok"
        print(f"{name:{width}}  {time_text(median(us[name])):>8}  {text}  {verdict}")


def _interval(shift: decision.Shift) -> str:
    high = f"{shift.high:.3f}" if math.isfinite(shift.high) else "-"
    return f"{shift.factor:.3f} [{shift.low:.3f}, {high}]"


COMMANDS = {"check": check, "record": record, "sample": sample}
