"""Compare each route and task once with float64, also under CUDA graphs and torch.compile."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

import gaussreg_fast as gf
from bench.gpu.stage import Part, Row
from bench.harness.errors import Wrong
from bench.harness.timing import GpuClock
from bench.simulator import calls, compare
from bench.simulator.cases import QUICK, Case
from bench.subjects.correctness import same_bits

CASES = (
    *(Case(d) for d in (16384, 1024, 64, 32768, 65536, 262144, 36864, 1000)),
    Case(65536, batch=33),  # two pieces of the batch
    *(Case(65536, task=task, batch=5) for task in ("value", "statistics", "pullback")),
    Case(65536, dtype="bfloat16", batch=5),
    Case(262144, batch=8),
    *(Case(d, permutation="per_sample") for d in (16384, 65536)),
    Case(1024, permutation="indices", layout="rows"),
    *(Case(d, dtype="bfloat16") for d in (16384, 65536)),
    Case(1024, dtype="float16"),
    *(Case(d, task=task) for d in (16384, 65536) for task in ("statistics", "pullback")),
    Case(16384, task="value"),
    Case(1024, batch=3, task="backward"),
    Case(16384, batch=3, fill="nan"),
    *(Case(d, task="projection") for d in (1024, 16384, 65536, 36864)),
    Case(4099, task="drift gradient", dtype="mixed"),
    Case(50000, task="drift gradient"),
    Case(1001, task="drift lora"),
    *(Case(16384, task=f"path_{task}") for task in ("both", "value", "backward")),
    *(Case(d, task="permutation") for d in (1000, 65536)),
    *(Case(1000, task=task) for task in ("kl", "moments")),
)
SECONDS = 0.5  # for a case with its kernels compiled; most of it is float64 on the CPU


class OnDevice:
    """Puts a case's tensors on the GPU; see `bench.simulator.calls.Home`."""

    indirect = False

    def place(self, x: Tensor) -> Tensor:
        return x.cuda()

    move = place


def parts(small: bool) -> list[Part]:
    found = [
        Part(str(case), partial(_case, case), SECONDS, {str(case): partial(_call, case)})
        for case in (QUICK if small else CASES)
    ]
    sizes = (64,) if small else (16384, 65536)
    ways: dict[str, Callable[[int], Row]] = {"graph": _graph, "under torch.compile": _compiled}
    for name, way in ways.items():
        for d in sizes[: 1 if way is _compiled else 2]:
            label = f"{name} D={d}"
            seconds = 20.0 if way is _compiled else 1.0
            loss = partial(_loss, d)
            found.append(Part(label, lambda _, way=way, d=d: way(d), seconds, {label: loss}))
    return found


def poison_memory() -> None:
    """Free memory full of NaN, in which outputs land, so that unwritten numbers show.

    Sizes are below and above a mebibyte, because the allocator keeps these requests apart.
    """
    sizes = [2**k for k in range(7, 19)] * 4 + [2**20, 2**22, 2**23] * 2
    poison = [torch.full((size,), torch.nan, device="cuda") for size in sizes]
    del poison


def _call(case: Case) -> dict[str, Tensor]:
    return calls.call(case, OnDevice())


def _case(case: Case, _: float) -> Row:
    poison_memory()
    got = {name: result.detach().cpu() for name, result in _call(case).items()}
    errors = compare.errors(case, got)
    for name, error in errors.items():
        if not error <= (most := compare.limit(case, name)):
            raise Wrong(f"{name}: error {error:.3g}, allowed {most:.3g}")
    return {"errors": errors}


def _loss(dimension: int) -> Any:
    x = torch.randn(2, dimension, device="cuda", requires_grad=True)
    gf.gaussianity_loss(x, seed=3).backward()
    return gf.gaussianity_value_and_grad(x.detach(), seed=torch.tensor([3], device="cuda"))


def _graph(dimension: int) -> Row:
    """Check that a replay gives the bits of the eager call with its seed and input."""
    x, seed = torch.randn(2, dimension, device="cuda"), torch.tensor([0], device="cuda")
    found = GpuClock.captured(lambda _: gf.gaussianity_value_and_grad(x, seed=seed))
    for number in range(1, 4):
        x.copy_(torch.randn(2, dimension, device="cuda"))
        seed.fill_(number)
        found(0)
        eager = gf.gaussianity_value_and_grad(x, seed=number)
        same_bits(f"replay {number}", found.result, eager)
    return {"replays": 3}


def _compiled(dimension: int) -> Row:
    torch.compiler.reset()
    x = torch.randn(2, dimension, device="cuda", requires_grad=True)
    loss = torch.compile(lambda z: gf.gaussianity_loss(z, seed=3), fullgraph=True)
    value = loss(x)
    value.backward()
    want, grad = gf.gaussianity_value_and_grad(x.detach(), seed=3)
    torch.testing.assert_close(value.detach(), want, rtol=1e-6, atol=0)
    torch.testing.assert_close(x.grad, grad, rtol=1e-5, atol=1e-8)
    return {"graph": "whole"}
