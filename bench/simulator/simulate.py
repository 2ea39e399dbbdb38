"""Executes the compiled Triton kernels on the CPU and compares them with float64.

    python -m bench simulate                      every path, task, type and layout
    python -m bench simulate --only 'D=1024 '     cases whose name matches
    python -m bench simulate --quick              each path once
    python -m bench simulate --triton 3.6.0       with another Triton
    python -m bench simulate --kernel module:fn   launches of your own

Exit code 1: a wrong number, a race, an access out of bounds or a read of memory that nothing has
written, with its place in the source. Exit code 2: nothing could be executed.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bench.harness import store
from bench.harness.progress import Progress
from bench.simulator import other_triton
from bench.simulator.options import chosen, parser

ARCHS = ("sm_80", "sm_90", "sm_100")


def arguments(given: Sequence[str]) -> argparse.Namespace:
    result = parser("simulate", __doc__)
    result.add_argument("--quick", action="store_true", help="each path once")
    result.add_argument("--arch", choices=ARCHS, default="sm_90", help="compiled for (sm_90)")
    result.add_argument("--seed", type=int, help="of the order of warps, one schedule only")
    result.add_argument("--slice", type=int, help="instructions of a warp in a row, with --seed")
    result.add_argument("--out", type=Path, help="write all outcomes here, as JSON")
    result.add_argument("--list", action="store_true", help="list the cases and stop")
    return result.parse_args(given)


def main(given: Sequence[str]) -> int:
    options = arguments(given)
    if options.triton:
        return other_triton.rerun("simulate", given, options.triton)
    os.environ.pop("TRITON_INTERPRET", None)  # it would leave nothing to execute
    import triton

    from bench.simulator import own, running
    from bench.simulator.cases import CASES, QUICK
    from bench.simulator.checkout import ready_to_run

    if options.kernel:
        ready_to_run()
        return own.simulate(options.kernel, options.arch)
    cases = chosen(QUICK if options.quick else CASES, options.only)
    if options.list:
        print("\n".join(map(str, cases)))
        return 0
    ready_to_run()
    schedules = running.SCHEDULES
    if options.seed is not None or options.slice is not None:
        one = replace(schedules[0], seed=options.seed or 1, slice=options.slice or 0)
        schedules = (one,)
    outcomes = []
    with Progress(len(cases), stream=sys.stderr) as progress:
        for outcome in running.run_all(cases, options.arch, options.jobs, schedules):
            outcomes.append(outcome)
            details = (f"       {line}" for line in outcome.details()[:8])
            progress.end("\n".join([outcome.line(), *details]))
    if options.out:
        about = {"what": "simulation", "format": store.FORMAT, "triton": triton.__version__}
        content = {**about, "arch": options.arch, "outcomes": running.as_json(outcomes)}
        store.write(options.out, content)
    return _told(outcomes, triton.__version__, options.arch)


def _told(outcomes: list, release: str, arch: str) -> int:
    """Prints the table of worst errors; the exit code."""
    from bench.harness.text import columns
    from bench.simulator import running

    keys = ("value", "gradient", "gradient half")
    rows = [("path", "cases", "worst value", "worst gradient", "the same, 16 bits", "bad")]
    for row in running.summary(outcomes):
        worst = [f"{row[key]:.1e}" if key in row else "-" for key in keys]
        rows.append((row["path"], str(row["cases"]), *worst, str(row["bad"])))
    print(columns(rows))
    total = running.totals(outcomes)
    print(
        f"triton {release}, {arch}: {total['cases']} cases, {total['programs']} programs, "
        f"{total['instructions'] / 1e6:.1f} million warp instructions; {total['bad']} bad; noted "
        f"apart: {total['lockstep']} places that need a warp's lanes in step, {total['same']} "
        "written twice with the same value"
    )
    for outcome in outcomes:
        if outcome.bad:
            print(f"{outcome.case}:")
            for line in outcome.details():
                print(f"    {line}")
    return 1 if total["bad"] else 0
