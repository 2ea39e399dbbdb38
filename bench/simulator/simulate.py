"""Execute the compiled Triton kernels on the CPU and compare them with float64.

    python -m bench simulate                      run every route, task, type and layout
    python -m bench simulate --only 'D=1024 '     run cases whose name matches
    python -m bench simulate --quick              run each route once
    python -m bench simulate --triton 3.6.0       use another Triton
    python -m bench simulate --kernel module:fn   run launches of your own

Exit codes: 0 no error, 1 a wrong number, a race, an access out of bounds or a read of unwritten
memory, with its place in the source, 2 nothing could be executed, 3 the memory does not suffice.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace

from bench.harness import store
from bench.harness.progress import Progress
from bench.simulator import other_triton
from bench.simulator.options import chosen, parser
from gaussreg_fast._exit_codes import Exit
from gaussreg_fast._files import user_path

ARCHS = ("sm_80", "sm_90", "sm_100")


def arguments(given: Sequence[str]) -> argparse.Namespace:
    result = parser("simulate", __doc__)
    add = result.add_argument
    add("--quick", action="store_true", help="Run each route once.")
    add("--arch", choices=ARCHS, default="sm_90", help="Compile for this one. Default: sm_90.")
    add("--seed", type=int, help="Run one schedule only, with this seed of the order of warps.")
    add(
        "--slice",
        type=int,
        help="Run one schedule only, with at most so many instructions in a row.",
    )
    add("--out", type=user_path, help="JSON file to write all outcomes to.")
    add("--list", action="store_true", help="List the cases and stop.")
    return result.parse_args(given)


def main(given: Sequence[str]) -> int:
    options = arguments(given)
    if options.triton:
        return other_triton.rerun("simulate", given, options.triton)
    os.environ.pop("TRITON_INTERPRET", None)  # the interpreter would leave nothing to execute
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
        about = {**store.header("simulation"), "triton": triton.__version__}
        content = {**about, "arch": options.arch, "outcomes": running.as_json(outcomes)}
        store.write(options.out, content)
    return _report(outcomes, triton.__version__, options.arch)


def _report(outcomes: list, release: str, arch: str) -> int:
    """Print the table of worst errors and the bad cases; return the exit code."""
    from bench.harness.text import columns
    from bench.simulator import running

    keys = ("value", "gradient", "gradient half")
    rows = [("route", "cases", "worst value", "worst gradient", "the same, 16 bits", "bad")]
    for row in running.summary(outcomes):
        worst = [f"{row[key]:.1e}" if key in row else "-" for key in keys]
        rows.append((row["route"], str(row["cases"]), *worst, str(row["bad"])))
    print(columns(rows))
    total = running.totals(outcomes)
    print(
        f"triton {release}, {arch}: {total['cases']} cases, {total['programs']} programs, "
        f"{total['instructions'] / 1e6:.1f} million warp instructions; {total['bad']} bad; also "
        f"noted: {total['lockstep']} places that need a warp's lanes in step, {total['same']} "
        "written twice with the same value"
    )
    for outcome in outcomes:
        if outcome.bad:
            print(f"{outcome.case}:")
            for line in outcome.details():
                print(f"    {line}")
    return Exit.NO if total["bad"] else Exit.DONE
