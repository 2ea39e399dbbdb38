"""`python -m bench check`: find calls that are slower than in a baseline.

Every call is timed in several fresh processes, in turns with its yardstick. On a CPU two clocks
time it, each for a row of its own: cold, after other work, and hot, repeated by itself. The result
of a process is the best time of the call over that of the yardstick, by the same clock, so that the
speed of the machine and of its memory cancels. The best of hot samples is the fastest, because
other programs only ever add time; that of cold ones is the lower quartile (`ColdClock`). Medians
would scatter several times as much on a busy machine. A row whose ratio has grown beyond the
tolerance is suspicious and measured again, in other processes; it is a regression only if these
alone show it (decision.py). So a busy minute raises no alarm.
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

Process = dict[str, dict[str, float]]  # the result of one process: row -> "ratio", "us"
Rows = dict[str, tuple[str, Any]]  # row -> call and clock


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
    rows = rows_of(suite, device)
    wanted = options.exactly
    names = [n for n in rows if (n in wanted if wanted else options.only in n)]
    if not names:
        raise BadInput(
            f"--only: no call has a name that contains {options.only!r}, the suite has "
            f"{'; '.join(rows)}"
        )
    turn = options.turn % len(names)  # so that no call is always the first
    chosen = {n: rows[n] for n in names[turn:] + names[:turn]}
    calls = time_rows(suite, chosen, options.seconds)
    return {"machine": machine.facts(device), "calls": {n: calls[n] for n in names}}


def rows_of(suite: gate.Suite, device: str) -> Rows:
    """Return the rows of a suite, each call by each clock of the device: "sd-1 value, cold"."""
    return {
        f"{name}, {clock.column}" if clock.column else name: (name, clock)
        for name in suite
        for clock in timing.clocks(device)
    }


def time_rows(suite: gate.Suite, rows: Rows, seconds: float) -> Process:
    """Time the call of every row beside its yardstick, in this process."""
    found = {}
    for row, (name, clock) in rows.items():
        call, yardstick = suite[name]
        calls = {"call": _indexed(call), "yardstick": _indexed(yardstick)}
        try:
            samples = clock.even(calls, seconds)
        except (Exception, SystemExit) as error:  # a user's call may raise anything
            raise BadInput(f"the call {name!r} failed: {describe(error)}") from error
        best = {which: clock.best(times) for which, times in samples.items()}
        found[row] = {"ratio": best["call"] / best["yardstick"], "us": best["call"]}
    return found


def _indexed(call: Any) -> Any:
    return lambda _: call()


# ---------------------------------------------------------------- many processes


def measure(
    options: argparse.Namespace, processes: int, progress: Progress, names: tuple[str, ...] = ()
) -> tuple[dict[str, Any], list[Process]]:
    """Measure the named rows, or all, in fresh processes; return the machine and the results."""
    words = ["sample", "--threads", str(options.threads), "--seconds", str(options.seconds)]
    words += ["--only", options.only]
    words += ["--suite", str(options.suite.resolve())] if options.suite else []
    facts: dict[str, Any] = {}
    found = []
    for turn in range(processes):
        progress.begin(f"process {turn + 1}")
        more = ["--turn", str(turn), *(["--verify"] if turn == 0 and not names else [])]
        for name in names:
            more += ["--exactly", name]
        result = child.ask([*words, *more], os.environ)
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
    about = {**store.header("baseline"), "date": store.today(), "machine": facts}
    suite = options.suite.name if options.suite else None
    ratios, us = by_call(processes), by_call(processes, "us")
    calls = {name: {"ratio": ratios[name], "us": us[name]} for name in ratios}
    store.write(out, {**about, "suite": suite, "seconds": options.seconds, "calls": calls})
    print(f"wrote {out}: {machine.describe(facts)}, {len(calls)} rows, {count} processes")
    print(f"Smallest slowdown that {CHECK_PROCESSES} processes of a check can show, at this noise:")
    level = decision.level(len(calls))
    for name, found in ratios.items():
        factor = decision.visible(found, CHECK_PROCESSES, level)
        about = f"{factor:g} times" if math.isfinite(factor) else "none"
        print(f"  {name:{max(map(len, ratios))}}  {about}")
    return 0


def slug(facts: dict[str, Any]) -> str:
    """Return a device's file name, such as cpu-amd-epyc-avx512."""
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
            f"{'; '.join(content['calls'])}"
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
        print(f"{machine.describe(facts)}, {facts['threads']} thread(s)")
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
    about = {**store.header("check"), "date": store.today(), "machine": facts}
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
