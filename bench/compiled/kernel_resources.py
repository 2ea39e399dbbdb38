"""Measure registers, spills, shared memory and instructions of the Triton kernels, without a GPU.

    python -m bench resources                 measure and show
    python -m bench resources --check         compare with the committed numbers
    python -m bench resources --out FILE      write the numbers into FILE
    ... [--arch sm_90] [--only REGEX] [--jobs 2]      measure some of them

Exit codes: 0 as recorded, 1 numbers differ or a kernel is over a limit, 2 there is no triton or no
record of its release. Compilers differ from release to release, so that numbers are recorded for
each. Limits hold whatever is recorded.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from unittest import mock

import torch

from bench import ROOT
from bench.compiled.kernel_calls import KernelCall, calls
from bench.compiled.machine_code import Notes, Variant, measured
from bench.compiled.pretended import ARCHS, pretended
from bench.harness import store
from bench.harness.errors import BadInput
from bench.harness.progress import Progress
from bench.harness.text import columns
from gaussreg_fast._exit_codes import Exit
from gaussreg_fast._files import user_path

RECORD = ROOT / "bench" / "results" / "kernel_resources.json"

Table = dict[str, dict[str, dict[str, int]]]  # arch -> variant -> numbers


# ---------------------------------------------------------------- compiling


def launches(call: KernelCall, arch: str) -> list[Variant]:
    """Return the compilations that a call launches, in order and each once."""
    notes = Notes(arch, str(call), call.dimension)
    # No kernel runs and reads the zeros, so that writing up to GiB of them is left out.
    with (
        pretended(arch, notes.hook),
        mock.patch.object(torch, "zeros", torch.empty),
        mock.patch.object(torch, "zeros_like", torch.empty_like),
    ):
        call.run()
    return list(notes.found.values())


def variants(arch: str) -> list[Variant]:
    """Return the compilations for an architecture, each once."""
    found: dict[str, Variant] = {}
    for call in calls(arch):
        for variant in launches(call, arch):
            found.setdefault(repr(replace(variant, name="", dimension=0)), variant)
    return list(found.values())


def _timed(variant: Variant) -> tuple[Variant, dict[str, int], float]:
    begin = time.perf_counter()
    try:
        numbers = measured(variant)
    except Exception as error:  # whatever Triton, LLVM or ptxas raise; other variants still compile
        print(f"{variant.arch} {variant.name} does not compile: {error}", file=sys.stderr)
        numbers = {"failed": 1}
    return variant, numbers, time.perf_counter() - begin


def all_measured(chosen: list[Variant], jobs: int) -> Table:
    """Compile and measure all variants, with progress on stderr."""
    # The longest come first, so that no process works alone at the end.
    queue = sorted(chosen, key=lambda variant: variant.dimension, reverse=True)
    results: dict[tuple[str, str], dict[str, int]] = {}
    with Progress(len(queue), stream=sys.stderr) as progress:

        def done(variant: Variant, numbers: dict[str, int], seconds: float) -> None:
            results[variant.arch, variant.name] = numbers
            progress.end(f"{variant.arch} {variant.name}  {seconds:.1f} s")

        if jobs == 1:
            for variant in queue:
                done(*_timed(variant))
        else:
            with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
                for future in as_completed([pool.submit(_timed, variant) for variant in queue]):
                    done(*future.result())
    table: Table = {}
    for variant in chosen:  # in the order of the calls
        table.setdefault(variant.arch, {})[variant.name] = results[variant.arch, variant.name]
    return table


# ---------------------------------------------------------------- limits and comparison


def broken_limits(variant: Variant, numbers: dict[str, int]) -> list[str]:
    """Check limits that hold whatever is recorded; return a line for each that is broken.

    A kernel must compile, fit into shared memory, and, on sm_90, mostly have no spills.
    """
    found = ["does not compile"] if "failed" in numbers else []
    if (shared := numbers.get("shared", 0)) > ARCHS[variant.arch][1]:
        found.append(f"shared memory must be at most {ARCHS[variant.arch][1]} bytes, got {shared}")
    room = variant.module.rpartition(".")[2]
    unspilled = (
        room in ("loss_large_columns", "loss_large_rows")
        or (room == "loss_large_groups" and variant.dimension <= 262144)  # above it: 8 bytes
        or (room in ("loss_fused", "projection_fused") and variant.dimension <= 16384)
        or (room == "projection_large" and variant.dimension <= 262144)
    )
    if variant.arch == "sm_90" and unspilled:
        spilled = [f"{name} {n}" for name in ("stack", "LDL", "STL") if (n := numbers.get(name, 0))]
        if spilled:
            found.append(f"spills: {', '.join(spilled)}")
    return [f"{variant.arch} {variant.name}: {text}" for text in found]


def changes(recorded: Table, now: Table) -> list[tuple[str, str, str, str, str]]:
    """Return (arch, variant, number, recorded, now) for all that differ."""
    found = []
    for arch in sorted(recorded.keys() | now.keys()):
        before, after = recorded.get(arch, {}), now.get(arch, {})
        for name in dict.fromkeys([*before, *after]):
            if name not in before or name not in after:
                states = ("-", "new") if name not in before else ("recorded", "gone")
                found.append((arch, name, "variant", *states))
                continue
            for number in dict.fromkeys([*before[name], *after[name]]):
                old, new = before[name].get(number, 0), after[name].get(number, 0)
                if old != new:
                    found.append((arch, name, number, str(old), str(new)))
    return found


def chosen(archs: list[str], only: str) -> list[Variant]:
    """Return the variants of some architectures whose name matches."""
    return [v for arch in archs for v in variants(arch) if re.search(only, v.name)]


def failures(of: list[Variant], now: Table) -> list[str]:
    """Return a line for each limit that is broken now."""
    return [line for v in of for line in broken_limits(v, now[v.arch][v.name])]


def differences(
    recorded: Table, now: Table, only: str, archs: list[str] | None = None
) -> list[tuple[str, str, str, str, str]]:
    """Return the `changes` of the variants whose name matches."""
    before = {
        arch: {name: n for name, n in table.items() if re.search(only, name)}
        for arch, table in recorded.items()
        if arch in (archs or ARCHS)
    }
    return changes({arch: table for arch, table in before.items() if table}, now)


def read(path: Path) -> dict[str, Table]:
    """Read a record: Triton release -> arch -> variant -> numbers."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def merge(path: Path, release: str, now: Table, only: str) -> None:
    """Write the numbers of the variants whose name matches into a file, and keep the others."""
    record = read(path)
    table = record.setdefault(release, {})
    for arch, numbers in now.items():
        others = {k: n for k, n in table.get(arch, {}).items() if not re.search(only, k)}
        table[arch] = {**others, **numbers}
    record[release] = {arch: table[arch] for arch in ARCHS if arch in table}
    write(path, record)


def write(path: Path, record: dict[str, Table]) -> None:
    """Write one line per variant, so that a diff shows the changed kernels."""

    def order(release: str) -> list[int]:
        return [int(part) for part in re.findall(r"\d+", release)]

    releases = {release: record[release] for release in sorted(record, key=order)}
    store.write(path, releases, step="")


def arguments(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench resources",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--check", action="store_true", help=f"Compare with {RECORD.name}.")
    add("--out", type=user_path, help="File to write the numbers of this release into.")
    add(
        "--arch",
        action="append",
        choices=list(ARCHS),
        help="Architecture. May be given several times. By default all.",
    )
    add("--only", default="", metavar="REGEX", help="Measure only variants whose name matches.")
    add("--jobs", type=int, default=2, help="Number of processes. Default: 2.")
    return parser.parse_args(given)


def main(given: list[str] | None = None) -> int:
    args = arguments(given)
    os.environ.pop("TRITON_INTERPRET", None)  # the interpreter would leave nothing to compile
    try:
        import triton
    except ImportError:
        raise BadInput("resources needs triton, which is not installed") from None
    release = triton.__version__
    if args.check and release not in read(RECORD):
        known = ", ".join(read(RECORD)) or "none"
        raise BadInput(f"nothing is compared: triton {release} is not recorded, only {known}")

    archs = args.arch or list(ARCHS)
    picked = chosen(archs, args.only)
    if not picked:
        raise BadInput(f"--only: no variant has a name that matches {args.only!r}")
    now = all_measured(picked, args.jobs)
    failed = failures(picked, now)
    if args.out:
        merge(args.out, release, now, args.only)
    if args.check:
        if rows := differences(read(RECORD)[release], now, args.only, archs):
            print(f"triton {release}: numbers differ from {RECORD.name}")
            print(columns([("arch", "variant", "", "recorded", "now"), *rows]))
            print("To accept them: make record-resources, and commit the file with the kernel.")
            failed.append(f"{len(rows)} numbers changed")
    elif not args.out:
        found = [(a, n, json.dumps(v)) for a, table in now.items() for n, v in table.items()]
        print(columns(found))
    for line in failed:
        print(line, file=sys.stderr)
    print(f"triton {release}: {len(picked)} variants, {'failed' if failed else 'ok'}")
    return Exit.NO if failed else Exit.DONE
