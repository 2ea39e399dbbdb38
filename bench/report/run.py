"""Measure a report on this machine: `python -m bench report`."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bench.harness import machine, store, timing
from bench.harness.errors import BadInput
from bench.harness.progress import Progress
from bench.harness.store import Report
from bench.report import growth, measure, roofline, tables, toy
from bench.subjects import cases, prepare
from bench.subjects.cases import Case
from gaussreg_fast._exit_codes import Exit

# Seconds for everything, by device and --quick. No part starts in the last of them; parts that are
# left out are reported.
BUDGET = {("cpu", False): 240.0, ("cpu", True): 42.0, ("cuda", False): 420.0, ("cuda", True): 50.0}
LAST = 0.03  # share of the budget in which no part starts
SAMPLING = 0.35  # share of a case's time for samples; the rest is for checks, memory and warm-up
SECONDS = (0.3, 4.0)  # least and most time for a case's samples
COMPILE_SECONDS = {"cpu": 45.0, "cuda": 60.0}
CEILINGS = "ceilings"

Part = Callable[[float, float], dict[str, Any]]  # (its share of the seconds left, all) -> row


def parts(device: str, quick: bool, only: str) -> dict[str, Part]:
    """Return the parts of a report whose name contains `only`, by name and in order."""

    def of_case(case: Case) -> Part:
        compiling = cases.compiled(device, quick, case)
        return partial(_case, case, device, compiling)

    found: dict[str, Part] = {CEILINGS: lambda *_: _ceilings(device)}
    found |= {case.name: of_case(case) for case in cases.of_report(device, quick)}
    sizes = roofline.STAGE_SIZES[1::2] if quick else roofline.STAGE_SIZES
    early: dict[str, Part] = {
        "stages": lambda *_: roofline.measure(device, sizes),
        "toy": lambda *_: toy.measure(device, quick),
    }
    names = list(found)
    # They come before the growth cases, which a slow machine can leave out most easily.
    at = next(i for i, name in enumerate(names) if name.endswith("growth"))
    ordered = {name: found[name] for name in names[:at]} | early
    ordered |= {name: found[name] for name in names[at:]}
    chosen = {name: part for name, part in ordered.items() if only in name or name == CEILINGS}
    if len(chosen) == 1 and only not in CEILINGS:
        raise BadInput(
            f"--only: no part has a name that contains {only!r}, there are {', '.join(ordered)}"
        )
    return chosen


def _ceilings(device: str) -> dict[str, Any]:
    return {"case": CEILINGS, "status": "ok", "ceilings": machine.ceilings(device)}


def _case(case: Case, device: str, compiling: bool, share: float, left: float) -> dict[str, Any]:
    compile_seconds = min(COMPILE_SECONDS[device], left / 4) if compiling else 0.0
    seconds = min(SECONDS[1], max(SECONDS[0], SAMPLING * share))
    if device == "cuda":
        torch.cuda.empty_cache()
    return measure.run_case(
        case, *timing.clocks(device), seconds=seconds, compile_seconds=compile_seconds
    )


def run(report: Report, todo: dict[str, Part], budget: float, progress: Progress) -> None:
    """Measure the parts in `todo`, and save each row at once."""
    begin = time.monotonic()
    device = report.content["machine"]["kind"]
    if device == "cuda":
        jobs = prepare.jobs(list(todo), report.content["settings"]["quick"])
        prepare.processes(jobs, 0.35 * budget)
    for number, (name, part) in enumerate(todo.items()):
        start = time.monotonic()
        left = budget - (start - begin)
        progress.begin(name)
        row = {"case": name, "status": "not measured", "reason": "out of time"}
        if left >= LAST * budget:
            try:
                row = part(left / (len(todo) - number), left)
            except Exception as error:  # recorded, so that the other parts still run
                reason = f"{type(error).__name__}: {error}"[:500]
                row = {"case": name, "status": "FAILED", "reason": reason}
        row["clock_after"] = machine.clocks(device)
        report.add(row, time.monotonic() - start)
        progress.end(tables.line(row))


def main(
    out: Path, *, quick: bool, threads: int, only: str, resume: bool, restart: bool, minutes: float
) -> int:
    """Measure a report; return 1 if a part failed, else 0."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    device = machine.device()
    facts = machine.facts(device)
    settings = {"quick": quick, "threads": threads, "only": only}
    make = Report.resume if resume else Report.restart if restart else Report.begin
    todo = parts(device, quick, only)
    report = make(out, settings, facts)
    print(f"{machine.describe(facts)}, {threads} thread(s)")
    todo = {name: part for name, part in todo.items() if name not in report.names()}
    with Progress(len(todo), out) as progress:
        run(report, todo, minutes * 60 or BUDGET[device, quick], progress)
    report.finish(growth=growth.analysis(report.content))
    # Read back, because the file's rounded numbers give the same tables whenever they are redrawn.
    for path in tables.write_all(store.read(report.path, "report"), out):
        print(f"wrote {path}")
    failed = [row["case"] for row in report.content["rows"] if row["status"] == "FAILED"]
    print(f"{len(report.content['rows'])} parts, FAILED: {', '.join(failed) or 'none'}")
    return Exit.NO if failed else Exit.DONE
