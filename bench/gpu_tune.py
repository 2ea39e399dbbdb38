"""Launch parameters of the fused kernel: every combination worth a try, checked, then timed.

The best go into the JSON and onto the screen; gaussreg_fast/config.py is edited by hand.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Iterator
from typing import Any

import torch

from bench import common, machine, timing
from bench.cases import Case
from bench.correctness import Errors, against_reference, fresh, permutations
from bench.errors import Wrong
from bench.peers import inputs
from bench.prepare import processes
from gaussreg_fast import config, gaussianity_value_and_grad

DIMENSIONS = (16384, 4096, 32768, 1024, 8192, 2048)
NUMBERS = 2**26  # of a batch: several times the cache
COMPILE_SECONDS = 330.0


def candidates(dimension: int) -> list[config.Fused]:
    """The parameters in use first, then others.

    A thread holds 16 to 64 numbers of a sample; the radices are 8 to 32, the last one from 2, and
    at most half of a transform's numbers lie in another thread. Reading x again saves registers
    where a thread holds 64.
    """
    found = [config.FUSED[dimension]]
    for r1, r2 in itertools.product((8, 16, 32), repeat=2):
        r3, rest = divmod(dimension // 2, r1 * r2)
        if rest or not 2 <= r3 <= 32:
            continue
        for numbers, reload in ((64, False), (64, True), (32, False), (16, False)):
            warps, rest = divmod(dimension, 32 * numbers)
            if rest or not 1 <= warps <= 16 or max(r1, r2, r3) > numbers:
                continue
            found.append(config.Fused((r1, r2, r3), warps, reload))
    return list(dict.fromkeys(found))


def label(dimension: int, fused: config.Fused) -> str:
    radices = "x".join(map(str, fused.radices))
    return f"{dimension} {radices} w{fused.num_warps}{' reload' if fused.reload else ''}"


@contextlib.contextmanager
def used(dimension: int, fused: config.Fused, arch: str) -> Iterator[None]:
    """The package launches with these parameters in the body."""
    table = config.TUNED.setdefault(arch, {})
    before = table.get(dimension)
    table[dimension] = fused
    try:
        if config.fused(dimension, arch) != fused:
            raise RuntimeError("config.fused does not follow config.TUNED")
        yield
    finally:
        del table[dimension]
        if before is not None:
            table[dimension] = before


def architecture() -> str:
    from gaussreg_fast.launch._device import arch

    return arch(torch.device("cuda", 0))


def jobs() -> list[tuple[int, config.Fused]]:
    return [(dimension, fused) for dimension in DIMENSIONS for fused in candidates(dimension)]


def compile_share(share: str) -> int:
    """Compiles every n-th candidate and prints its label: what is printed is in the cache."""
    start, step = map(int, share.split("/"))
    arch = architecture()
    for dimension, fused in jobs()[start::step]:
        x = torch.randn(2, dimension, device="cuda")
        try:
            with used(dimension, fused, arch):
                gaussianity_value_and_grad(x, backend="triton")
            torch.cuda.synchronize()
        except Exception as error:
            message = " ".join(str(error).split())[:150]
            print(f"{label(dimension, fused)}\t{type(error).__name__}: {message}", flush=True)
            if "CUDA" in message:  # the context may be gone, and every later call with it
                return 1
        else:
            print(label(dimension, fused), flush=True)
    return 0


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
    dimension: int,
    ready: dict[str, str],
    arch: str,
    clock: Any = timing.GpuClock,
    device: str = "cuda",
    backend: str = "triton",
) -> list[dict[str, Any]]:
    """A row per candidate: best first, then those that are wrong, do not compile, were not tried.

    `ready`: what the compiling processes said of each label, "" for success.
    """
    case = Case(f"d{dimension}", NUMBERS // dimension)
    rows = []
    fit: dict[str, config.Fused] = {}
    for fused in candidates(dimension):
        name = label(dimension, fused)
        row: dict[str, Any] = {"name": name, "radices": fused.radices, "reload": fused.reload}
        row |= {"num_warps": fused.num_warps, "in_use": fused == config.FUSED[dimension]}
        rows.append(row)
        if ready.get(name, "not compiled in time"):
            row["reason"] = ready.get(name, "not compiled in time")
            continue
        try:
            with used(dimension, fused, arch):
                row["error"] = check(case, device, backend)
        except Exception as error:
            row["reason"] = f"{type(error).__name__}: {error}"[:300]
        else:
            fit[name] = fused
    xs = [x.detach() for x in inputs(case, device, 2)]
    seed = torch.tensor([1], device=device)

    def call(fused: config.Fused, i: int) -> Any:
        with used(dimension, fused, arch):
            return gaussianity_value_and_grad(xs[i], seed=seed, backend=backend)

    calls = {name: (lambda i, fused=fused: call(fused, i)) for name, fused in fit.items()}
    samples = clock.timed(calls, len(xs), rounds=7).samples if calls else {}
    for row in rows:
        if row["name"] in samples:
            row["us"] = samples[row["name"]]
            row |= timing.summary(row["us"])
            row["ns_per_sample"] = row["median"] / case.batch * 1e3
    return sorted(rows, key=lambda row: row.get("median", float("inf")))


def run(options: Any) -> int:
    if options.share:
        return compile_share(options.share)
    begin = time.monotonic()
    about, arch = machine.facts("cuda"), architecture()
    shares = max(1, (os.cpu_count() or 4) - 2)
    work = [["tune", "--share", f"{k}/{shares}"] for k in range(shares)]
    seconds = min(COMPILE_SECONDS, options.minutes * 45)
    ready = {}
    for line in processes(work, seconds):
        name, _, ready[name] = line.partition("\t")
    print(f"{len(ready)} of {len(jobs())} compiled in {time.monotonic() - begin:.0f} s", flush=True)
    results: dict[str, Any] = {}
    for dimension in DIMENSIONS:
        if time.monotonic() - begin > options.minutes * 60 - 15:
            print(f"{dimension}: not measured: out of time", flush=True)
            continue
        rows = results[str(dimension)] = sweep(dimension, ready, arch)
        torch.cuda.empty_cache()
        for row in rows:
            mark = " (in use)" if row["in_use"] else ""
            if "median" in row:
                spread = f"{row['p10']:.1f} to {row['p90']:.1f}"
                text = f"{row['median']:.1f} us ({spread}), {row['ns_per_sample']:.2f} ns/sample"
            else:
                text = row.get("reason", "")
            print(f"{row['name']}{mark}: {text}", flush=True)
        best = {d: found[0]["name"] for d, found in results.items() if "median" in found[0]}
        common.save(
            options.out,
            benchmark="launch parameters of the fused kernel; value and gradient, float32",
            machine=about,
            arch=arch,
            best=best,
            dimensions=results,
        )
    for found in results.values():
        print(f"best: {found[0]['name']}", flush=True)
    wrong = [r for found in results.values() for r in found if "Wrong" in r.get("reason", "")]
    return 1 if wrong else 0
