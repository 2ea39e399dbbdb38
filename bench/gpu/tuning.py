"""Tune launch parameters: check candidates, then time them in turns.

The best ones go by hand into `TUNED` and `TUNED_LARGE` of backends/triton/parameters.py, with a
reference to the run.
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

from bench.gpu import queue
from bench.gpu.stage import Part, Row
from bench.harness import samples as sampling
from bench.harness import timing
from bench.harness.errors import Wrong
from bench.subjects.cases import Case
from bench.subjects.correctness import Errors, against_reference, fresh, permutations
from bench.subjects.peers import inputs
from gaussreg_fast import gaussianity_value_and_grad
from gaussreg_fast.backends.triton import parameters

DIMENSIONS = (16384, 4096, 32768, 65536, 262144)
NUMBERS, SMALL_NUMBERS = 2**26, 2**11  # numbers in a batch; the first is several times the cache
SECONDS = 12.0
Parameters = parameters.Fused | parameters.Large


def parts(small: bool) -> list[Part]:
    numbers = SMALL_NUMBERS if small else NUMBERS
    return [
        Part(
            f"D={d}",
            partial(_sweep_dimension, d, max(2, numbers // d), 2 if small else None),
            4.0 if small else SECONDS,
            {label(d, c): partial(_launch, d, c) for c in candidates(d)[: 2 if small else None]},
        )
        for d in ((512,) if small else DIMENSIONS)
    ]


# ---------------------------------------------------------------- candidates


def candidates(dimension: int) -> list[Parameters]:
    """Return the parameters in use, then others worth a try."""
    if dimension in parameters.FUSED:
        return list(_fused(dimension))
    return list(_large(dimension))


def _fused(dimension: int) -> dict[Parameters, None]:
    """Vary radices, warps, and whether x is read again.

    A thread holds 16 to 64 numbers of a sample. The radices are 8 to 32, the last one from 2; at
    most half of the numbers of the first two transforms lie in another thread, and none of the
    last one, which a thread does for a column and its mirror. (Otherwise mirrors cross shared
    memory, and such a kernel compiles for minutes.) Reading x again saves registers if a thread
    holds 64.
    """
    found: dict[Parameters, None] = {parameters.FUSED[dimension]: None}
    for r1, r2 in itertools.product((8, 16, 32), repeat=2):
        r3, rest = divmod(dimension // 2, r1 * r2)
        if rest or not 2 <= r3 <= 32:
            continue
        for numbers, reload in ((64, False), (64, True), (32, False), (16, False)):
            warps, rest = divmod(dimension, 32 * numbers)
            mirrors = 4 * r3  # numbers of a column and of its mirror, complex ones
            if rest or not 1 <= warps <= 16 or max(r1, r2, mirrors) > numbers:
                continue
            found[parameters.Fused((r1, r2, r3), warps, reload)] = None
    return found


def _large(dimension: int) -> dict[Parameters, None]:
    """Change one of the parameters in use: width, warps, radices, or the split of D."""
    base = parameters.LARGE[dimension]
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
    """Return a short name of parameters."""

    def by(radices: tuple[int, ...]) -> str:
        return "x".join(map(str, radices))

    if isinstance(p, parameters.Fused):
        reload = " reload" if p.reload else ""
        return f"{dimension} {by(p.radices)} w{p.num_warps}{reload}"
    columns = f"{by(p.column_radices)} w{p.column_warps} width {p.width}"
    return f"{dimension} columns {columns} rows {by(p.row_radices)} w{p.row_warps}"


@contextlib.contextmanager
def using(dimension: int, p: Parameters, arch: str) -> Iterator[None]:
    """Make the package launch with these parameters in the body."""
    fused = isinstance(p, parameters.Fused)
    tables: Any = parameters.TUNED if fused else parameters.TUNED_LARGE
    look_up: Callable[[int, str], Any] = parameters.fused if fused else parameters.large
    table = tables.setdefault(arch, {})
    before = table.get(dimension)
    table[dimension] = p
    try:
        if look_up(dimension, arch) != p:
            raise RuntimeError("the package does not follow parameters.TUNED")
        yield
    finally:
        del table[dimension]
        if before is not None:
            table[dimension] = before


def architecture() -> str:
    from gaussreg_fast.backends.triton import _device

    return _device.arch(torch.device("cuda", 0))


def _launch(dimension: int, p: Parameters) -> None:
    with using(dimension, p, architecture()):
        gaussianity_value_and_grad(torch.randn(parameters.FEW, dimension, device="cuda"), seed=1)


# ---------------------------------------------------------------- the sweep


def check(case: Case, device: str, backend: str = "triton") -> float:
    """Return the gradient's error on fresh inputs; raise Wrong if it is too large."""
    errors: Errors = {}
    for _ in range(4):
        x, seed, rows = fresh(case, device)
        index = permutations(case, device, seed, rows)
        poison = torch.full_like(x, torch.nan)
        del poison  # outputs land in this memory, so that an unwritten number is NaN
        losses, grads = gaussianity_value_and_grad(x, seed=seed, reduction="none", backend=backend)
        if against_reference(case, x[rows], index, losses[rows], grads[rows], errors):
            return errors["gradient"]
    raise Wrong("no gradient was compared: every drawn row has a kink")


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
    """Check and time candidates; return a row for each, the fastest first, untimed ones last.

    Args:
        case: the batch.
        tried: the candidates; the first is in use.
        arch: architecture of the device.
        ready: the labels of compiled candidates, with the error or ""; None compiles here.
        seconds: time for checking, and again for timing.
        clock: clock class.
        device: device of the batch.
        backend: backend of the loss.
    """
    deadline = time.monotonic() + seconds
    rows: list[Row] = []
    fit: dict[str, Parameters] = {}
    for p in tried:
        row: Row = {"name": label(case.dimension, p), "in_use": p == tried[0]}
        rows.append(row | _checked(case, p, arch, ready, deadline, device, backend))
        if "error" in rows[-1]:
            fit[row["name"]] = p
    if not fit:
        return rows
    xs = [x.detach() for x in inputs(case, device, 2)]
    seed = torch.tensor([1], device=device)

    def call(p: Parameters, i: int) -> Any:
        with using(case.dimension, p, arch):
            return gaussianity_value_and_grad(xs[i], seed=seed, backend=backend)

    calls = {name: partial(call, p) for name, p in fit.items()}
    samples = clock.timed(calls, len(xs), seconds, rounds=9).samples
    timed = [
        row | _times(samples[row["name"]], case.batch) for row in rows if row["name"] in samples
    ]
    untimed = [row for row in rows if row["name"] not in samples]
    return [*sorted(timed, key=lambda row: row["median"]), *untimed]


def _checked(
    case: Case,
    p: Parameters,
    arch: str,
    ready: dict[str, str] | None,
    deadline: float,
    device: str,
    backend: str,
) -> Row:
    """Return a candidate's "error" against float64, or the "reason" why it cannot be timed."""
    name = label(case.dimension, p)
    if reason := "" if ready is None else ready.get(name, "not compiled in time"):
        return {"reason": reason}
    if time.monotonic() > deadline:
        return {"reason": "not checked in time"}
    try:
        with using(case.dimension, p, arch):
            return {"error": check(case, device, backend)}
    except Exception as error:
        return {"reason": f"{type(error).__name__}: {error}"[:300]}


def _times(samples: list[float], batch: int) -> Row:
    summary = sampling.summary(samples)
    return {"us": samples, **summary, "ns_per_sample": summary["median"] / batch * 1e3}


def _sweep_dimension(dimension: int, batch: int, most: int | None, allowed: float) -> Row:
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
