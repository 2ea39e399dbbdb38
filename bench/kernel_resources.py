"""Registers, spills, shared memory and instructions of the Triton kernels, without a GPU.

    python -m bench resources                 measure and show
    python -m bench resources --check         exit 1 where the committed numbers differ
    python -m bench resources --out FILE      write the numbers into FILE
    ... [--arch sm_90] [--only REGEX] [--jobs 2]      some of them

What is compiled is what the package launches: each case below is a call of `backends.triton.launch`
with tensors on the CPU, in front of a driver that claims to be a GPU of the architecture. Triton's
own binder makes types and alignments, parameters.py the launch parameters; launches are noted, not
run. So kernels and parameters have no entry here: what needs one is a new way to call. (Launch
code may tell devices apart by `arch` and `shared_memory` alone, which are answered here.)

Compilers differ from release to release, so numbers are kept per Triton release, and one that has
none is no failure: exit code 2. A kernel over a limit is a failure whatever is recorded: see
`broken_limits`.

A compilation takes up to 20 s, nearly all of it Triton's own layout pass, so not every case is
compiled for every architecture. sm_90, where the kernels are tuned and measured, has every D, and
every option at a small D and those that cost registers at 16384, the largest that must not spill.
The others share Triton's front and differ in what comes after, so they have every kernel, in three
or four sizes: the smallest, a small one with options, the largest that fits gfx942, a large one.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, fields, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from bench.machine_code import Notes, Variant, measured
from bench.pretended import ARCHS, pretended
from gaussreg_fast.backends.triton import parameters
from gaussreg_fast.latent.files import atomic_path
from gaussreg_fast.spec import Draw, LossSpec, Source, StatisticsSpec

RECORD = Path(__file__).resolve().parent / "results" / "kernel_resources.json"

Table = dict[str, dict[str, dict[str, int]]]  # arch -> variant -> numbers


@dataclass(frozen=True)
class Case:
    """One call of `backends.triton.launch`; the defaults are those of the public functions."""

    dimension: int
    task: str = "gradient"
    permutation: str = "shared"
    dtype: str = "float32"
    statistic: str = "amplitude"
    orders: tuple[int, ...] = (1, 2)
    form: str = "root"
    block_size: int = 16
    power_weight: float = 25.0

    def __str__(self) -> str:
        extra = [
            f"{field.name}={getattr(self, field.name)}".replace(" ", "")
            for field in fields(self)[2:]
            if getattr(self, field.name) != field.default
        ]
        return " ".join([self.task, f"D={self.dimension}", *extra])

    def call(self, batch: int = 2) -> None:
        """Allocates and launches."""
        from gaussreg_fast.backends.triton import launch

        seed = torch.zeros(1, dtype=torch.int64)
        if self.task.startswith("drift"):
            self._drift()
            return
        if self.task == "permutation":
            launch.permutation(seed, self.dimension)
            return
        if self.task.startswith("path_"):
            self.call_path(launch, batch)
            return
        x = torch.zeros(batch, self.dimension, dtype=getattr(torch, self.dtype))
        if self.task == "projection":
            launch.project(x, block_size=self.block_size)
            return
        draw = {
            "none": Draw(),
            "shared": Draw(Source.SHARED, seed),
            "per_sample": Draw(Source.PER_SAMPLE, seed),
            "index": Draw(Source.TABLE, table=torch.arange(self.dimension), valid=True),
        }[self.permutation]
        spec = StatisticsSpec(self.orders, self.block_size, self.statistic)
        if self.task == "statistics":
            launch.statistics(x, draw, spec)
        elif self.task == "pullback":
            blocks = -(-(self.dimension // 2) // self.block_size)
            moments = torch.zeros(batch, len(self.orders))
            gradients = {"grad_moments": moments, "grad_blocks": torch.zeros(batch, blocks)}
            launch.pullback(x, draw, spec, **gradients)
        else:
            options = self.form, self.power_weight, self.block_size, 0.8862, self.statistic
            gradient = x.dtype if self.task == "gradient" else None
            launch.loss(x, draw, LossSpec(self.orders, *options, "none"), gradient=gradient)

    def call_path(self, launch: Any, batch: int) -> None:
        """Path KL of 50 steps: "path_value", "path_backward", or "path_both" in one pass."""
        dmu = torch.zeros(50, batch, self.dimension, dtype=getattr(torch, self.dtype))
        sigma = torch.ones(50, 1)
        if self.task == "path_backward":
            launch.path_kl_pullback(dmu, sigma, torch.empty(batch))
        else:
            launch.path_kl(dmu, sigma, gradient=self.task == "path_both")

    def _drift(self) -> None:
        """A list of two tensors; of "mixed" types, also one whose base is bfloat16."""
        from gaussreg_fast.backends.triton import launch

        dtype = torch.float32 if self.dtype == "mixed" else getattr(torch, self.dtype)
        params = [torch.zeros(self.dimension, dtype=dtype) for _ in range(2)]
        base = [torch.zeros_like(p) for p in params]
        if self.dtype == "mixed":
            base[1] = base[1].bfloat16()
        task = self.task.removeprefix("drift ")
        step = torch.ones(()) if task == "gradient" else 2.0
        grads = [torch.zeros_like(p) for p in params] if task in ("gradient", "accumulate") else []
        launch.drift(task, params, base, grads, [1.0, 1.0], step)


ALL_ORDERS = tuple(range(1, 9))
# Every kernel, in the sizes that differ in kind and with the options that change most.
EVERYWHERE = (
    *(Case(dimension) for dimension in (64, 1024, 16384, 65536)),
    *(Case(1024, task=task) for task in ("statistics", "pullback")),
    *(Case(1024, permutation=kind) for kind in ("index", "per_sample")),
    Case(1024, dtype="bfloat16"),
    Case(65536, task="statistics"),
    *(Case(36864, task=task) for task in ("gradient", "statistics")),
    Case(16384, power_weight=0.0),
    *(Case(dimension, task="permutation") for dimension in (16384, 65536)),
    *(Case(16384, task=task) for task in ("path_value", "path_backward", "path_both")),
    Case(16384, task="path_both", dtype="bfloat16"),
    *(Case(16384, task=f"drift {task}") for task in ("value", "gradient")),
    *(Case(dimension, task="projection") for dimension in (1024, 36864, 65536)),
    Case(4096, task="projection", block_size=256),
)
SM_90 = (
    *(Case(dimension) for dimension in (*parameters.FUSED, *parameters.LARGE)),
    Case(1024, task="value"),
    Case(1024, permutation="none"),
    Case(1024, dtype="float16"),
    Case(1024, statistic="power"),
    Case(1024, orders=ALL_ORDERS),
    Case(16384, task="pullback"),
    Case(16384, permutation="per_sample"),
    Case(16384, dtype="bfloat16"),
    Case(16384, orders=ALL_ORDERS),
    Case(65536, task="pullback"),
    Case(65536, permutation="per_sample"),
    Case(36864, task="pullback"),
    Case(36864, permutation="per_sample"),
    Case(36864, dtype="bfloat16"),
    Case(16384, block_size=12),
    Case(1000),
    Case(3 * 2**20),
    Case(2**20, power_weight=0.0),
    Case(16384, task="drift accumulate"),
    Case(16384, task="drift gradient", dtype="bfloat16"),
    Case(16384, task="drift gradient", dtype="mixed"),
    Case(2**28, task="drift value"),
    *(Case(dimension, task="projection") for dimension in (4096, 16384, 32768, 262144, 2**22)),
    Case(1024, task="projection", dtype="bfloat16"),
    Case(1024, task="projection", block_size=8),
)


def cases(arch: str) -> list[Case]:
    """What is compiled for an architecture."""
    return list(dict.fromkeys([*EVERYWHERE, *(SM_90 if arch == "sm_90" else ())]))


# ---------------------------------------------------------------- what is compiled


def launches(case: Case, arch: str) -> list[Variant]:
    """What a case launches, in order; the same compilation once."""
    notes = Notes(arch, str(case), case.dimension)
    # Nothing runs, so nobody reads these zeros: up to GiB of them, that it takes seconds to write.
    with (
        pretended(arch, notes.hook),
        mock.patch.object(torch, "zeros", torch.empty),
        mock.patch.object(torch, "zeros_like", torch.empty_like),
    ):
        case.call()
    return list(notes.found.values())


def variants(arch: str) -> list[Variant]:
    """What is compiled for an architecture, without what another case compiles as well."""
    found: dict[str, Variant] = {}
    for case in cases(arch):
        for variant in launches(case, arch):
            found.setdefault(repr(replace(variant, name="", dimension=0)), variant)
    return list(found.values())


def _timed(variant: Variant) -> tuple[Variant, dict[str, int], float]:
    begin = time.perf_counter()
    try:
        numbers = measured(variant)
    except Exception as error:  # whatever Triton, LLVM or ptxas raise; the others go on
        print(f"{variant.arch} {variant.name} does not compile: {error}", file=sys.stderr)
        numbers = {"failed": 1}
    return variant, numbers, time.perf_counter() - begin


def all_measured(chosen: list[Variant], jobs: int) -> Table:
    """The numbers of all variants, with progress on stderr."""
    # The longest first, so that none is left over for one process at the end.
    queue = sorted(chosen, key=lambda variant: variant.dimension, reverse=True)
    results: dict[tuple[str, str], dict[str, int]] = {}

    def done(result: tuple[Variant, dict[str, int], float]) -> None:
        variant, numbers, seconds = result
        results[variant.arch, variant.name] = numbers
        line = f"[{len(results)}/{len(queue)}] {variant.arch} {variant.name}  {seconds:.1f} s"
        print(line, file=sys.stderr, flush=True)

    if jobs == 1:
        for variant in queue:
            done(_timed(variant))
    else:
        with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
            for future in as_completed([pool.submit(_timed, variant) for variant in queue]):
                done(future.result())
    table: Table = {}
    for variant in chosen:  # in the order of the cases
        table.setdefault(variant.arch, {})[variant.name] = results[variant.arch, variant.name]
    return table


# ---------------------------------------------------------------- what must hold


def broken_limits(variant: Variant, numbers: dict[str, int]) -> list[str]:
    """Limits that hold whatever is recorded: it compiles, shared memory, no spills on sm_90."""
    found = ["does not compile"] if "failed" in numbers else []
    if (shared := numbers.get("shared", 0)) > ARCHS[variant.arch][1]:
        found.append(f"{shared} bytes of shared memory, there are {ARCHS[variant.arch][1]}")
    room = variant.module.rpartition(".")[2]
    unspilled = (
        room in ("columns", "rows")
        or (room in ("fused", "projection") and variant.dimension <= 16384)
        or (room == "projection_large" and variant.dimension <= 262144)
    )
    if variant.arch == "sm_90" and unspilled:
        spilled = [f"{name} {n}" for name in ("stack", "LDL", "STL") if (n := numbers.get(name, 0))]
        if spilled:
            found.append(f"spills: {', '.join(spilled)}")
    return [f"{variant.arch} {variant.name}: {text}" for text in found]


def changes(recorded: Table, now: Table) -> list[tuple[str, str, str, str, str]]:
    """(arch, variant, what, recorded, now) for all that differs."""
    found = []
    for arch in sorted(recorded.keys() | now.keys()):
        before, after = recorded.get(arch, {}), now.get(arch, {})
        for name in dict.fromkeys([*before, *after]):
            if name not in before or name not in after:
                states = ("-", "new") if name not in before else ("recorded", "gone")
                found.append((arch, name, "variant", *states))
                continue
            for what in dict.fromkeys([*before[name], *after[name]]):
                old, new = before[name].get(what, 0), after[name].get(what, 0)
                if old != new:
                    found.append((arch, name, what, str(old), str(new)))
    return found


def chosen(archs: list[str], only: str) -> list[Variant]:
    """The variants of some architectures whose name matches."""
    return [v for arch in archs for v in variants(arch) if re.search(only, v.name)]


def failures(of: list[Variant], now: Table) -> list[str]:
    """Limits that are broken now."""
    return [line for v in of for line in broken_limits(v, now[v.arch][v.name])]


def differences(
    recorded: Table, now: Table, only: str, archs: list[str] | None = None
) -> list[tuple[str, str, str, str, str]]:
    """`changes` of the variants whose name matches."""
    kept = {
        arch: {name: n for name, n in table.items() if re.search(only, name)}
        for arch, table in recorded.items()
        if arch in (archs or ARCHS)
    }
    return changes({arch: table for arch, table in kept.items() if table}, now)


def read(path: Path) -> dict[str, Table]:
    """Triton release -> arch -> variant -> numbers."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def write(path: Path, record: dict[str, Table]) -> None:
    """One line per variant, so that a change of a kernel reads well."""

    def order(release: str) -> list[int]:
        return [int(part) for part in re.findall(r"\d+", release)]

    def block(value: dict[str, Any], depth: int) -> str:
        if depth == 0:
            return json.dumps(value)
        lines = (f"{json.dumps(key)}: {block(item, depth - 1)}" for key, item in value.items())
        return "{\n" + ",\n".join(lines) + "\n}"

    with atomic_path(path) as temporary:
        releases = {release: record[release] for release in sorted(record, key=order)}
        temporary.write_text(block(releases, 3) + "\n", encoding="utf-8")


def show(rows: list[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )


def arguments(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench resources",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--check", action="store_true", help=f"compare with {RECORD.name}")
    parser.add_argument("--out", type=Path, help="write the numbers of this release into a file")
    parser.add_argument("--arch", action="append", choices=list(ARCHS), help="this one; repeatable")
    parser.add_argument("--only", default="", help="variants whose name matches this")
    parser.add_argument("--jobs", type=int, default=2, help="processes (default 2)")
    return parser.parse_args(given)


def main(given: list[str] | None = None) -> int:
    args = arguments(given)
    os.environ.pop("TRITON_INTERPRET", None)  # it would leave nothing to compile
    try:
        import triton
    except ImportError:
        print("there is no triton here", file=sys.stderr)
        return 2
    release = triton.__version__
    if args.check and release not in read(RECORD):
        known = ", ".join(read(RECORD)) or "none"
        print(f"triton {release} is not recorded ({known} are): nothing to compare with")
        return 2

    archs = args.arch or list(ARCHS)
    picked = chosen(archs, args.only)
    if not picked:
        print(f"no variant matches {args.only!r}", file=sys.stderr)
        return 1
    now = all_measured(picked, args.jobs)
    failed = failures(picked, now)
    if args.out:
        record = read(args.out)
        table = record.setdefault(release, {})
        for arch in archs:
            kept = {k: n for k, n in table.get(arch, {}).items() if not re.search(args.only, k)}
            table[arch] = {**kept, **now[arch]}
        record[release] = {arch: table[arch] for arch in ARCHS if arch in table}
        write(args.out, record)
    if args.check:
        if rows := differences(read(RECORD)[release], now, args.only, archs):
            print(f"triton {release}: not as recorded in {RECORD.name}")
            show([("arch", "variant", "", "recorded", "now"), *rows])
            print("If that is wanted: make record-resources, and commit the file with the kernel.")
            failed.append(f"{len(rows)} numbers changed")
    elif not args.out:
        show([(a, n, json.dumps(v)) for a, table in now.items() for n, v in table.items()])
    for line in failed:
        print(line, file=sys.stderr)
    print(f"triton {release}: {len(picked)} variants, {'failed' if failed else 'as they must be'}")
    return 1 if failed else 0
