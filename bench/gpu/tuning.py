"""Launch parameters: every combination worth a try, checked, then timed in turns.

What is best goes into `config.TUNED` and `config.TUNED_LARGE` by hand, with the run that says so.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from bench import timing
from bench.cases import Case
from bench.correctness import Errors, against_reference, fresh, permutations
from bench.errors import Wrong
from bench.gpu import queue
from bench.gpu.stage import Part, Row
from bench.peers import inputs
from gaussreg_fast import config, gaussianity_value_and_grad

DIMENSIONS = (16384, 4096, 32768, 65536, 262144)
NUMBERS, SMALL_NUMBERS = 2**26, 2**11  # of a batch; in full several times the cache
SECONDS = 12.0
Parameters = config.Fused | config.Large


def parts(small: bool) -> list[Part]:
    numbers = SMALL_NUMBERS if small else NUMBERS
    return [
        Part(
            f"D={d}",
            partial(_swept, d, max(2, numbers // d), 2 if small else None),
            4.0 if small else SECONDS,
            {label(d, c): partial(_launch, d, c) for c in candidates(d)[: 2 if small else None]},
        )
        for d in ((512,) if small else DIMENSIONS)
    ]


# ---------------------------------------------------------------- what is tried


def candidates(dimension: int) -> list[Parameters]:
    """The parameters in use first, then others."""
    if dimension in config.FUSED:
        return list(_fused(dimension))
    return list(_large(dimension))


def _fused(dimension: int) -> dict[Parameters, None]:
    """Radices, warps, and whether x is read again.

    A thread holds 16 to 64 numbers of a sample; the radices are 8 to 32, the last one from 2, and
    at most half of a transform's numbers lie in another thread. Reading x again saves registers
    where a thread holds 64.
    """
    found: dict[Parameters, None] = {config.FUSED[dimension]: None}
    for r1, r2 in itertools.product((8, 16, 32), repeat=2):
        r3, rest = divmod(dimension // 2, r1 * r2)
        if rest or not 2 <= r3 <= 32:
            continue
        for numbers, reload in ((64, False), (64, True), (32, False), (16, False)):
            warps, rest = divmod(dimension, 32 * numbers)
            if rest or not 1 <= warps <= 16 or max(r1, r2, r3) > numbers:
                continue
            found[config.Fused((r1, r2, r3), warps, reload)] = None
    return found


def _large(dimension: int) -> dict[Parameters, None]:
    """What is in use with one thing changed: width, warps, radices, or D split another way."""
    base = config.LARGE[dimension]
    found: dict[Parameters, None] = {base: None}
    for factor in (0.5, 2.0):
        for name in ("column_warps", "row_warps", "width"):
            found[replace(base, **{name: int(getattr(base, name) * factor)})] = None
    narrow = replace(base, width=base.width // 2, column_warps=max(1, base.column_warps // 2))
    found[narrow] = None
    r1, r2, r3 = base.column_radices
    found[replace(base, column_radices=(r2, r1, r3))] = None
    splits = {
        65536: (((16, 16, 1), (16, 1, 16)), ((32, 32, 1), (8, 1, 8))),
        262144: (((16, 32, 1), (8, 8, 8)), ((16, 16, 8), (8, 1, 16))),
    }
    for columns, rows in splits.get(dimension, ()):
        found[replace(base, column_radices=columns, row_radices=rows)] = None
    return found


def label(dimension: int, p: Parameters) -> str:
    """Parameters in a few words."""

    def by(radices: tuple[int, ...]) -> str:
        return "x".join(map(str, radices))

    if isinstance(p, config.Fused):
        reload = " reload" if p.reload else ""
        return f"{dimension} {by(p.radices)} w{p.num_warps}{reload}"
    columns = f"{by(p.column_radices)} w{p.column_warps} width {p.width}"
    return f"{dimension} columns {columns} rows {by(p.row_radices)} w{p.row_warps}"


@contextlib.contextmanager
def used(dimension: int, p: Parameters, arch: str) -> Iterator[None]:
    """The package launches with these parameters in the body."""
    fused = isinstance(p, config.Fused)
    tables: Any = config.TUNED if fused else config.TUNED_LARGE
    asked: Callable[[int, str], Any] = config.fused if fused else config.large
    table = tables.setdefault(arch, {})
    before = table.get(dimension)
    table[dimension] = p
    try:
        if asked(dimension, arch) != p:
            raise RuntimeError("the package does not follow config.TUNED")
        yield
    finally:
        del table[dimension]
        if before is not None:
            table[dimension] = before


def architecture() -> str:
    from gaussreg_fast.launch import _device

    return _device.arch(torch.device("cuda", 0))


def _launch(dimension: int, p: Parameters) -> None:
    with used(dimension, p, architecture()):
        gaussianity_value_and_grad(torch.randn(2, dimension, device="cuda"), seed=1)


# ---------------------------------------------------------------- the sweep


def check(case: Case, device: str, backend: str = "triton") -> float:
    """The gradient's error; raises Wrong."""
    errors: Errors = {}
    for _ in range(4):
        x, seed, rows = fresh(case, device)
        index = permutations(case, device, seed, rows)
        poison = torch.full_like(x, torch.nan)
        del poison
        losses, grads = gaussianity_value_and_grad(x, seed=seed, reduction="none", backend=backend)
        if against_reference(case, x[rows], index, losses[rows], grads[rows], errors):
            return errors["gradient"]
    raise Wrong("no row without a kink was drawn")


def sweep(
    case: Case,
    tried: list[Parameters],
    arch: str,
    *,
    ready: dict[str, str] | None = None,
    seconds: float = 5.0,
    clock: Any = timing.GpuClock,
    device: str = "cuda",
    backend: str = "triton",
) -> list[Row]:
    """A row for each: best first, then those that are wrong, do not compile, were not tried.

    The seconds are for checking, and again for timing. `ready` has the labels that are compiled,
    with "" or what failed; None: compile what is not.
    """
    begin = time.monotonic()
    rows: list[Row] = []
    fit: dict[str, Parameters] = {}
    for p in tried:
        name = label(case.dimension, p)
        row: Row = {"name": name, "in_use": p == tried[0]}
        rows.append(row)
        if reason := "" if ready is None else ready.get(name, "not compiled in time"):
            row["reason"] = reason
            continue
        if time.monotonic() - begin > seconds:
            row["reason"] = "not checked in time"
            continue
        try:
            with used(case.dimension, p, arch):
                row["error"] = check(case, device, backend)
        except Exception as error:
            row["reason"] = f"{type(error).__name__}: {error}"[:300]
        else:
            fit[name] = p
    if not fit:
        return rows
    xs = [x.detach() for x in inputs(case, device, 2)]
    seed = torch.tensor([1], device=device)

    def call(p: Parameters, i: int) -> Any:
        with used(case.dimension, p, arch):
            return gaussianity_value_and_grad(xs[i], seed=seed, backend=backend)

    calls = {name: partial(call, p) for name, p in fit.items()}
    samples = clock.timed(calls, len(xs), seconds, rounds=9).samples
    for row in rows:
        if row["name"] in samples:
            row["us"] = samples[row["name"]]
            row |= timing.summary(row["us"])
            row["ns_per_sample"] = row["median"] / case.batch * 1e3
    return sorted(rows, key=lambda row: row.get("median", float("inf")))


def _swept(dimension: int, batch: int, most: int | None, allowed: float) -> Row:
    rows = sweep(
        Case(f"d{dimension}", batch), candidates(dimension)[:most], architecture(),
        ready=queue.ready(), seconds=allowed / 3,
    )  # fmt: skip
    found: Row = {"batch": batch, "candidates": rows}
    wrong = [row["name"] for row in rows if row.get("reason", "").startswith("Wrong")]
    if wrong or not any("us" in row for row in rows):
        why = f"wrong: {', '.join(wrong)}" if wrong else "nothing could be timed"
        found |= {"status": "FAILED", "reason": why}
    return found
