"""The simulated calls: every route, task, permutation, type, form and layout."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bench.compiled.kernel_calls import ALL_ORDERS, KernelCall

FUSED = (64, 256, 1024, 4096, 16384, 32768)
OTHER_FUSED = (128, 512, 2048, 8192)
GENERAL = (1000, 1001, 36864)
PERMUTATIONS = ("per_sample", "index", "indices", "none")
FILLS = ("zeros", "tiny", "small", "huge", "nan", "inf", "constant")


@dataclass(frozen=True)
class Case(KernelCall):
    """A call of a public function with input data; see bench/simulator/calls.py.

    Attributes:
        layout: x in memory: "plain", "rows" of a wider tensor, "transposed", "expanded" or
            "unaligned".
        pieces: process the batch in pieces of one sample.
        fill: replaces the numbers of the middle sample, one of `FILLS`.
    """

    layout: str = "plain"
    pieces: bool = False
    fill: str = ""


def _losses() -> list[Case]:
    cases = []
    for d in FUSED:
        cases += [Case(d, task=task) for task in ("gradient", "value", "statistics", "pullback")]
        cases += [Case(d, permutation=kind) for kind in PERMUTATIONS]
        cases += [Case(d, dtype=dtype) for dtype in ("bfloat16", "float16")]
    cases += [Case(d) for d in OTHER_FUSED]
    for d in (65536, 262144):
        cases += [Case(d, task=task) for task in ("gradient", "value", "statistics", "pullback")]
        cases += [Case(d, permutation=kind) for kind in PERMUTATIONS]
        cases += [Case(d, dtype="bfloat16"), Case(d, batch=1)]
    cases += [Case(65536, dtype="float16"), Case(65536, statistic="power")]
    cases += [Case(65536, task="spectrum")]
    cases += [Case(d, batch=1) for d in (131072, 524288, 2**20)]
    cases += _groups()
    for d in GENERAL:
        cases += [Case(d, task=task) for task in ("gradient", "value", "statistics", "pullback")]
        cases += [Case(d, permutation=kind) for kind in PERMUTATIONS]
        cases += [Case(d, dtype="bfloat16")]
    cases += [Case(1000, dtype="float16"), Case(2**20 + 2, batch=1)]
    return cases


def _groups() -> list[Case]:
    """Return batches large enough for groups, and some of them without a shared permutation."""
    tasks = ("gradient", "value", "statistics", "pullback")
    cases = [Case(65536, task=task, batch=5) for task in tasks]
    cases += [Case(65536, permutation=kind, batch=4) for kind in ("index", "per_sample", "none")]
    cases += [Case(65536, dtype=dtype, batch=5) for dtype in ("bfloat16", "float16")]
    cases += [Case(65536, orders=orders, batch=5) for orders in (ALL_ORDERS, (1,), (2,))]
    cases += [Case(65536, layout=layout, batch=5) for layout in ("rows", "expanded")]
    cases += [Case(65536, task="spectrum", batch=5)]
    cases += [Case(65536, task=task, batch=9, pieces=True) for task in ("gradient", "pullback")]
    cases += [Case(65536, batch=5, fill=fill) for fill in FILLS]
    cases += [Case(65536, batch=33), Case(2**20, batch=4)]
    cases += [Case(d, batch=4) for d in (131072, 524288)]
    cases += [Case(262144, task=task, batch=8) for task in ("gradient", "statistics", "pullback")]
    return cases


def _options() -> list[Case]:
    cases = [Case(d, orders=ALL_ORDERS) for d in (1024, 16384, 65536, 1000)]
    cases += [Case(1024, orders=(2, 4), form="absolute"), Case(1024, task="spectrum")]
    cases += [Case(d, orders=(1, 2, 3, 4), form="squared") for d in (1024, 1000)]
    cases += [Case(d, statistic="power") for d in (1024, 1000)]
    cases += [Case(d, power_weight=0.0) for d in (1000, 16384, 65536)]
    blocks = ((1024, 8), (1024, 128), (16384, 1024), (16384, 12), (1000, 500), (32, 4))
    cases += [Case(d, block_size=b) for d, b in blocks]
    small = ("statistics", "pullback", "projection")  # fewer bins than a warp has lanes
    cases += [Case(32, task=task, block_size=4) for task in small]
    cases += [Case(1024, batch=3, task="backward", dtype=t) for t in ("float32", "float16")]
    cases += [Case(1000, batch=3, task="backward")]
    names = ("moments", "spectrum", "kl", "kurtosis", "norm")
    cases += [Case(1000, task=name) for name in names]
    return cases


def _inputs() -> list[Case]:
    layouts = ("rows", "transposed", "expanded", "unaligned")
    cases = [Case(d, layout=layout) for d in (1024, 1000) for layout in layouts]
    cases += [Case(65536, layout="rows"), Case(1024, task="projection", layout="transposed")]
    for d in (1024, 1000, 65536):
        kinds = ("shared", "per_sample", "indices")
        cases += [Case(d, batch=3, permutation=kind, pieces=True) for kind in kinds]
    cases += [Case(16384, batch=3, permutation="per_sample", pieces=True)]
    tasks = ("statistics", "pullback", "projection")
    cases += [Case(65536, task=task, batch=3, pieces=True) for task in tasks]
    cases += [Case(992, task="projection", batch=3, pieces=True)]
    cases += [Case(d, batch=3, fill=fill) for d in (1024, 16384, 65536, 1000) for fill in FILLS]
    fills = ("zeros", "tiny", "huge", "nan", "constant")
    cases += [
        Case(d, task="projection", batch=3, fill=fill) for d in (1024, 65536, 992) for fill in fills
    ]
    return cases


def _relatives() -> list[Case]:
    cases = [Case(d, task="projection") for d in (64, 1024, 16384, 32768, 65536, 992, 36864)]
    cases += [Case(1024, task="projection", dtype=t) for t in ("bfloat16", "float16")]
    cases += [Case(65536, task="projection", dtype="bfloat16")]
    cases += [Case(262144, task="projection", batch=1)]
    for d, block in ((1024, 8), (4096, 256), (1000, 10)):
        cases.append(Case(d, task="projection", block_size=block))
    for task in ("value", "gradient", "accumulate"):
        types = ("float32", "bfloat16", "float16", "mixed")
        cases += [Case(4099, task=f"drift {task}", dtype=t) for t in types]
    cases += [Case(50000, task="drift gradient"), Case(50001, task="drift gradient unaligned")]
    cases.append(Case(1001, task="drift lora"))
    for d in (1000, 16384):
        for task in ("path_value", "path_backward", "path_both"):
            cases += [Case(d, task=task, dtype=dtype) for dtype in ("float32", "bfloat16")]
    cases += [Case(16384, task="path_both", permutation="per_sample")]  # sigma per trajectory
    cases += [Case(d, task="permutation") for d in (37, 1000, 16384, 65536)]
    return cases


CASES = tuple(dict.fromkeys([*_losses(), *_options(), *_inputs(), *_relatives()]))
# Each route once, in the sizes that compile fastest, for `make test`.
QUICK = (
    Case(64),
    Case(1024, permutation="per_sample", layout="rows"),
    Case(65536, batch=1),
    Case(65536, batch=4),
    Case(1000, task="pullback"),
    Case(1001),
    Case(64, task="projection"),
    Case(992, task="projection", fill="nan", batch=3),
    Case(4099, task="drift gradient", dtype="mixed"),
    Case(1000, task="path_both"),
    Case(37, task="permutation"),
    Case(1000, task="kl"),
)
# Each kind of call, at the tuned sizes: one sample, or a group of large ones.
COUNTED = (
    *(Case(d, batch=1) for d in (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)),
    *(Case(d, batch=1) for d in (65536, 262144, 36864)),
    *(Case(d, batch=8) for d in (65536, 262144)),
    *(Case(16384, batch=1, task=task) for task in ("value", "statistics", "pullback")),
    Case(16384, batch=1, permutation="per_sample"),
    Case(16384, batch=1, dtype="bfloat16"),
    *(Case(d, batch=1, task="projection") for d in (4096, 16384, 65536, 36864)),
    Case(16384, batch=1, power_weight=0.0),
    Case(50000, task="drift gradient"),
    Case(16384, task="path_both"),
)


def samples(case: Case) -> Tensor:
    """Draw x (batch, D) of a case, its mean and scale off those of a loss's minimum."""
    generator = torch.Generator().manual_seed(case.dimension)
    x = torch.randn(case.batch, case.dimension, generator=generator, dtype=torch.float64)
    x = x * torch.linspace(0.8, 1.3, case.batch, dtype=torch.float64)[:, None] + 0.05
    if case.task in ("kl", "kurtosis", "norm"):
        x = x + 0.3 * x**3  # heavy tails: these losses are differences of terms that nearly cancel
    if case.fill:
        middle = x[1]
        if case.fill in ("nan", "inf"):
            middle[case.dimension // 3] = float(case.fill)
        else:
            factor, offset = {
                "zeros": (0.0, 0.0),
                "tiny": (1e-25, 0.0),
                "small": (1e-12, 0.0),
                "huge": (1e12, 0.0),
                "constant": (0.0, 0.7),
            }[case.fill]
            middle.mul_(factor).add_(offset)
    return x.to(getattr(torch, case.dtype))


def laid_out(x: Tensor, layout: str) -> Tensor:
    """Return x in another layout, with NaN in the memory around it."""
    batch, size = x.shape
    if layout == "plain":
        return x
    if layout == "rows":
        wide = x.new_full((batch, size + 36), float("nan"))
        return wide[:, 4 : 4 + size].copy_(x)
    if layout == "transposed":
        return x.t().contiguous().t()
    if layout == "unaligned":
        return x.new_full((batch * size + 1,), float("nan"))[1:].view(batch, size).copy_(x)
    return x[:1].expand(batch, size)
