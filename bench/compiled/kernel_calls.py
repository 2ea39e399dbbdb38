"""The calls whose kernels are compiled and counted.

Each entry is a call of `backends.triton.launch` with tensors on the CPU, in front of a driver that
claims to be a GPU of the architecture; the kernels that it would launch are compiled. Triton's own
binder makes types and alignments, parameters.py the launch parameters; launches are noted, not run.
So a new kernel or parameter needs no entry here, but a new kind of call does. (Launch code may tell
devices apart by `arch` and `shared_memory` alone, which are answered here.)

A compilation takes up to 20 s, nearly all of it in Triton's own layout pass, so that not every call
is compiled for every architecture. sm_90, where the kernels are tuned and measured, has every D,
every option at a small D, and those that cost registers at 16384, the largest D that must not
spill. The other architectures share Triton's front end, so that they have every kernel in three or
four sizes only: the smallest, a small one with options, the largest that fits gfx942, a large one.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch

from gaussreg_fast.backends.triton import parameters
from gaussreg_fast.spec import Draw, DriftTask, LossSpec, Source, StatisticsSpec


@dataclass(frozen=True)
class KernelCall:
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
    batch: int = 2

    def __str__(self) -> str:
        extra = [
            f"{field.name}={getattr(self, field.name)}".replace(" ", "")
            for field in fields(self)[2:]
            if getattr(self, field.name) != field.default
        ]
        return " ".join([self.task, f"D={self.dimension}", *extra])

    def run(self, batch: int | None = None) -> None:
        """Allocate the inputs and launch the call's kernels, for another batch if one is given."""
        from gaussreg_fast.backends.triton import launch

        batch = batch or self.batch
        seed = torch.zeros(1, dtype=torch.int64)
        if self.task.startswith("drift"):
            self._drift()
            return
        if self.task == "permutation":
            launch.permutation(seed, self.dimension)
            return
        if self.task.startswith("path_"):
            self._path_kl(launch, batch)
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

    def _path_kl(self, launch: Any, batch: int) -> None:
        """Launch path KL of 50 steps: "path_value", "path_backward", or "path_both" in one pass."""
        dmu = torch.zeros(50, batch, self.dimension, dtype=getattr(torch, self.dtype))
        sigma = torch.ones(50, 1)
        if self.task == "path_backward":
            launch.path_kl_pullback(dmu, sigma, torch.empty(batch))
        else:
            launch.path_kl(dmu, sigma, gradient=self.task == "path_both")

    def _drift(self) -> None:
        """Launch drift of two tensors; with "mixed" types one has a bfloat16 base."""
        from gaussreg_fast.backends.triton import launch

        dtype = torch.float32 if self.dtype == "mixed" else getattr(torch, self.dtype)
        params = [torch.zeros(self.dimension, dtype=dtype) for _ in range(2)]
        base = [torch.zeros_like(p) for p in params]
        if self.dtype == "mixed":
            base[1] = base[1].bfloat16()
        task = DriftTask(self.task.removeprefix("drift "))
        step = torch.ones(()) if task is DriftTask.GRADIENT else 2.0
        grads = [] if task is DriftTask.VALUE else [torch.zeros_like(p) for p in params]
        launch.drift(task, params, base, grads, [1.0, 1.0], step)


ALL_ORDERS = tuple(range(1, 9))
# Every kernel, in sizes that take different routes and with the options that change most.
EVERYWHERE = (
    *(KernelCall(dimension) for dimension in (64, 1024, 16384, 65536)),
    KernelCall(65536, batch=8),
    *(KernelCall(1024, task=task) for task in ("statistics", "pullback")),
    *(KernelCall(1024, permutation=kind) for kind in ("index", "per_sample")),
    KernelCall(1024, dtype="bfloat16"),
    KernelCall(65536, task="statistics"),
    *(KernelCall(36864, task=task) for task in ("gradient", "statistics")),
    KernelCall(16384, power_weight=0.0),
    *(KernelCall(dimension, task="permutation") for dimension in (16384, 65536)),
    *(KernelCall(16384, task=task) for task in ("path_value", "path_backward", "path_both")),
    KernelCall(16384, task="path_both", dtype="bfloat16"),
    *(KernelCall(16384, task=f"drift {task}") for task in ("value", "gradient")),
    *(KernelCall(dimension, task="projection") for dimension in (1024, 36864, 65536)),
    KernelCall(4096, task="projection", block_size=256),
)
SM_90 = (
    *(KernelCall(dimension) for dimension in (*parameters.FUSED, *parameters.LARGE)),
    *(KernelCall(dimension, batch=8) for dimension in parameters.LARGE),
    KernelCall(1024, task="value"),
    KernelCall(1024, permutation="none"),
    KernelCall(1024, dtype="float16"),
    KernelCall(1024, statistic="power"),
    KernelCall(1024, orders=ALL_ORDERS),
    KernelCall(16384, task="pullback"),
    KernelCall(16384, permutation="per_sample"),
    KernelCall(16384, dtype="bfloat16"),
    KernelCall(16384, orders=ALL_ORDERS),
    KernelCall(65536, task="pullback"),
    KernelCall(65536, task="pullback", batch=8),
    KernelCall(65536, permutation="per_sample", batch=8),
    KernelCall(36864, task="pullback"),
    KernelCall(36864, permutation="per_sample"),
    KernelCall(36864, dtype="bfloat16"),
    KernelCall(16384, block_size=12),
    KernelCall(1000),
    KernelCall(3 * 2**20),
    KernelCall(2**20, power_weight=0.0),
    KernelCall(16384, task="drift accumulate"),
    KernelCall(16384, task="drift gradient", dtype="bfloat16"),
    KernelCall(16384, task="drift gradient", dtype="mixed"),
    KernelCall(2**28, task="drift value"),
    *(KernelCall(size, task="projection") for size in (4096, 16384, 32768, 262144, 2**22)),
    KernelCall(1024, task="projection", dtype="bfloat16"),
    KernelCall(1024, task="projection", block_size=8),
)


def calls(arch: str) -> list[KernelCall]:
    """Return the calls that are compiled for an architecture."""
    return list(dict.fromkeys([*EVERYWHERE, *(SM_90 if arch == "sm_90" else ())]))
