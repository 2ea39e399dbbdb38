"""Count what the compiled Triton kernels do when they are executed, without a GPU.

    python -m bench counters                      show counts per kernel, and bounds on a GPU
    python -m bench counters --only 'D=16384' --lines 12      ... and the costliest source lines
    python -m bench counters --check              compare with the committed counts
    python -m bench counters --out FILE           write the counts of this Triton into a file
    python -m bench counters --kernel module:fn   count launches of your own

Counts are exact and the same on every machine, for one release of Triton; they are recorded for
each release. Exit codes: 0 as recorded, 1 counts differ or a launch has an error that `simulate`
would report, 2 bad input or a file without counts of this release, so that nothing is compared.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

from bench import ROOT
from bench.harness.errors import BadInput
from bench.simulator import bounds, other_triton
from bench.simulator.checkout import ready_to_run
from bench.simulator.options import chosen, parser
from bench.simulator.records import RECORD, changes, matching, read, write
from gaussreg_fast._exit_codes import Exit
from gaussreg_fast._files import user_path

Table = dict[str, dict[str, dict[str, Any]]]  # case -> launch -> counts and lines


def arguments(given: Sequence[str]) -> argparse.Namespace:
    result = parser("counters", __doc__)
    add = result.add_argument
    add("--device", default="H200", help="GPU whose bounds are shown. Default: H200.")
    add("--lines", type=int, default=0, metavar="N", help="Show N source lines of each launch.")
    add("--check", action="store_true", help="Compare with the file of --record.")
    about = f"File to compare with. Default: {RECORD.relative_to(ROOT)}."
    add("--record", type=user_path, default=RECORD, help=about)
    add("--out", type=user_path, help="File to write the counts into.")
    return result.parse_args(given)


def main(given: Sequence[str]) -> int:
    options = arguments(given)
    if options.triton:
        return other_triton.rerun("counters", given, options.triton)
    os.environ.pop("TRITON_INTERPRET", None)  # the interpreter would leave nothing to execute
    gpu = bounds.device(options.device)
    import triton

    ready_to_run()
    release = triton.__version__
    recorded = read(options.record) if options.check else {}
    if options.check and release not in recorded:
        known = ", ".join(recorded) or "none"
        raise BadInput(f"nothing is compared: triton {release} is not recorded, only {known}")
    only = f"^{re.escape(options.kernel)}$" if options.kernel else options.only
    now = _of_user(options.kernel, gpu.arch) if options.kernel else _of_cases(options, gpu.arch)
    if errors := [
        line for launches in now.values() for e in launches.values() for line in e["errors"]
    ]:
        print("\n".join(errors))
        return Exit.NO
    if options.out:
        write(options.out, release, gpu.arch, now, only)
    if not options.check:
        _show(now, gpu, options.lines)
        return Exit.DONE
    before = matching(recorded[release].get(gpu.arch, {}), only)
    if found := changes(before, now):
        print(f"triton {release}, {gpu.arch}: counts differ from {options.record.name}")
        print("\n".join(found))
        command = f"--out {options.record}" if options.kernel else "make record-counters"
        print(f"To accept them: {command}, and commit the file with the kernel.")
        return Exit.NO
    launches = sum(map(len, now.values()))
    print(f"triton {release}, {gpu.arch}: {len(now)} cases, {launches} launches, as recorded")
    return Exit.DONE


# ---------------------------------------------------------------- counting


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
    from bench.simulator.running import start_worker

    cases = chosen(COUNTED, options.only)
    if options.jobs == 1:
        start_worker()
        return {str(case): counted(case, arch) for case in cases}
    queue = sorted(cases, key=lambda case: case.dimension, reverse=True)
    context = get_context("spawn")
    with ProcessPoolExecutor(options.jobs, mp_context=context, initializer=start_worker) as pool:
        waiting = {str(case): pool.submit(counted, case, arch) for case in queue}
        return {str(case): waiting[str(case)].result() for case in cases}


def counted(case: Any, arch: str) -> dict[str, dict[str, Any]]:
    """Return the counts and source lines of a case's launches."""
    from bench.simulator import simulated
    from bench.simulator.calls import call
    from bench.simulator.core import Schedule
    from bench.simulator.counting import table

    with simulated(Schedule(shuffled=False, checked=False), arch) as simulation:
        call(case, simulation.memory)
    print(case, file=sys.stderr, flush=True)
    return table(simulation.launches)


# ---------------------------------------------------------------- output


def _show(table: Table, gpu: bounds.Device, lines: int) -> None:
    """Print a row per launch, and its costliest source lines."""
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
