"""What the compiled Triton kernels do when they are executed, without a GPU.

    python -m bench counters                      per kernel, with the bounds that follow on a GPU
    python -m bench counters --only 'D=16384' --lines 12      ... and the lines that do most
    python -m bench counters --check              exit 1 where the committed counts differ
    python -m bench counters --out FILE           write the counts of this Triton into a file
    python -m bench counters --kernel module:fn   launches of your own

Counts are exact and the same on every machine, for one release of Triton; they are kept per
release. Exit code 1: they differ, or a launch did what `simulate` calls an error. Exit code 2: bad
input. Exit code 3: the file has no counts of this release, so there is nothing to compare with.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from bench import ROOT
from bench.harness.errors import BadInput
from bench.simulator import bounds, other_triton
from bench.simulator.checkout import ready_to_run
from bench.simulator.options import chosen, parser
from bench.simulator.records import RECORD, changes, kept, read, write

Table = dict[str, dict[str, dict[str, Any]]]  # case -> launch -> counts and lines


def arguments(given: Sequence[str]) -> argparse.Namespace:
    result = parser("counters", __doc__)
    result.add_argument("--device", default="H200", help="whose bounds are shown (H200)")
    result.add_argument("--lines", type=int, default=0, metavar="N", help="show N lines a launch")
    result.add_argument("--check", action="store_true", help="compare with --record")
    about = f"the file of --check ({RECORD.relative_to(ROOT)})"
    result.add_argument("--record", type=Path, default=RECORD, help=about)
    result.add_argument("--out", type=Path, help="write the counts into this file")
    return result.parse_args(given)


def main(given: Sequence[str]) -> int:
    options = arguments(given)
    if options.triton:
        return other_triton.rerun("counters", given, options.triton)
    os.environ.pop("TRITON_INTERPRET", None)  # it would leave nothing to execute
    gpu = bounds.device(options.device)
    import triton

    ready_to_run()
    release = triton.__version__
    recorded = read(options.record) if options.check else {}
    if options.check and release not in recorded:
        known = ", ".join(recorded) or "none"
        print(f"triton {release} is not recorded ({known} are): nothing to compare with")
        return 3
    only = f"^{re.escape(options.kernel)}$" if options.kernel else options.only
    now = _of_user(options.kernel, gpu.arch) if options.kernel else _of_cases(options, gpu.arch)
    if errors := [
        line for launches in now.values() for e in launches.values() for line in e["errors"]
    ]:
        print("\n".join(errors))
        return 1
    if options.out:
        write(options.out, release, gpu.arch, now, only)
    if not options.check:
        _shown(now, gpu, options.lines)
        return 0
    before = kept(recorded[release].get(gpu.arch, {}), only)
    if found := changes(before, now):
        print(f"triton {release}, {gpu.arch}: not as recorded in {options.record.name}")
        print("\n".join(found))
        again = f"--out {options.record}" if options.kernel else "make record-counters"
        print(f"If that is wanted: {again}, and commit the file with the kernel.")
        return 1
    launches = sum(map(len, now.values()))
    print(f"triton {release}, {gpu.arch}: {len(now)} cases, {launches} launches, as recorded")
    return 0


# ---------------------------------------------------------------- what is counted


def _of_user(name: str, arch: str) -> Table:
    from bench.simulator import own
    from bench.simulator.core import Schedule
    from bench.simulator.counting import table

    executed, raised = own.launches(name, arch, Schedule(shuffled=False, checked=False))
    if raised:
        raise BadInput(f"--kernel: {raised}")
    return {name: table(executed)}


def _of_cases(options: argparse.Namespace, arch: str) -> Table:
    from bench.simulator.cases import COUNTED
    from bench.simulator.running import started

    cases = chosen(COUNTED, options.only)
    if options.jobs == 1:
        started()
        return {str(case): counted(case, arch) for case in cases}
    queue = sorted(cases, key=lambda case: case.dimension, reverse=True)
    context = get_context("spawn")
    with ProcessPoolExecutor(options.jobs, mp_context=context, initializer=started) as pool:
        waiting = {str(case): pool.submit(counted, case, arch) for case in queue}
        return {str(case): waiting[str(case)].result() for case in cases}


def counted(case: Any, arch: str) -> dict[str, dict[str, Any]]:
    """The counts and lines of what a case launches."""
    from bench.simulator import simulated
    from bench.simulator.calls import call
    from bench.simulator.core import Schedule
    from bench.simulator.counting import table

    with simulated(Schedule(shuffled=False, checked=False), arch) as simulation:
        call(case, simulation.memory)
    print(case, file=sys.stderr, flush=True)
    return table(simulation.launches)


# ---------------------------------------------------------------- what is shown


def _shown(table: Table, gpu: bounds.Device, lines: int) -> None:
    """Prints a row per launch, and its lines that do most."""
    from bench.harness.text import columns

    for case, launches in table.items():
        print(f"\n{case}, {gpu.name} ({gpu.arch}); bounds in ns, all programs together")
        head = ("launch", "programs x warps", "registers", "resident", "instructions", "issue",
                "wavefronts", "conflicts", "load/store", "sectors", "L2", "barriers")  # fmt: skip
        rows = [head]
        for name, found in launches.items():
            c = found["counts"]
            ns = {key: f"{value:.1f}" for key, value in bounds.bounds(c, gpu).items()}
            spilled = f" + {c['spills']} spills" if c["spills"] else ""
            rows.append((
                name, f"{c['programs']} x {c['warps']}", str(c["registers"]) + spilled,
                str(bounds.resident(c, gpu)), "~" * c.get("estimated", 0) + str(c["machine"]),
                ns["issue"],
                str(c["wavefronts"]), f"{c['wavefronts'] / max(1, c['conflict_free']):.2f}",
                ns["load/store"], str(c["sectors_read"] + c["sectors_written"]), ns["L2"],
                str(c["barriers"]),
            ))  # fmt: skip
        print(columns(rows))
        for name, found in launches.items():
            _lines(name, found["lines"], lines)


def _lines(name: str, table: dict[str, list[int]], count: int) -> None:
    if not count:
        return
    print(f"  {name}: instructions, wavefronts, sectors")
    for line, numbers in sorted(table.items(), key=lambda item: -sum(item[1]))[:count]:
        print("  " + " ".join(f"{n:9d}" for n in numbers) + f"  {line[:100]}")
