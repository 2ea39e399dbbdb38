"""Launches for large samples that share a permutation: groups of them side by side."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gaussreg_fast.backends.triton import parameters
from gaussreg_fast.backends.triton._device import arch, compiler, launching, roots
from gaussreg_fast.backends.triton._loss_large import launch_finish, launch_rows
from gaussreg_fast.backends.triton._permutation import Permutation, order_mask, source_of
from gaussreg_fast.kernels.loss_large_groups import (
    deinterleave,
    group_columns,
    group_columns_back,
    interleave,
)
from gaussreg_fast.spec import LossSpec, Task


def launch(
    x: Tensor,
    permutation: Permutation,
    *,
    task: Task,
    outputs: dict[str, Tensor],
    spec: LossSpec,
    scale: float = 1.0,
) -> None:
    """Run a task, as `_loss_fused.launch` does, for block_size 16 and a shared permutation."""
    batch, dimension = x.shape
    p = parameters.large(dimension, arch(x.device))
    tile = min(parameters.INTERLEAVED, dimension)
    orders, tiles, columns = order_mask(spec.orders), dimension // tile, p.n2 // 2
    chunk = max(1, parameters.large_chunk(dimension) // p.width) * p.width
    groups = -(-min(batch, chunk) // p.width)
    # One workspace for all pieces: launches of one stream follow one another.
    new: dict[str, Any] = {"dtype": torch.float32, "device": x.device}
    mixed, z = torch.empty((2, groups * p.width, dimension), **new)
    edges = torch.empty((groups * p.width, dimension // 16), **new)
    sums = torch.empty((groups * p.width, columns, orders.bit_count() + 1), **new)
    gaps = torch.empty((groups * p.width, p.n1 // 32), **new)
    slopes = outputs.get("moments", sums)
    if task is Task.GRADIENT:
        slopes = torch.empty((batch, orders.bit_count()), **new)
    r1, r2, r3 = p.column_radices
    _, table, _ = source_of(permutation, x, r1)
    w = roots(dimension, x.device)
    straight: dict[str, Any] = {
        "x": x, "mixed": mixed, "x_stride": x.stride(0), "samples": batch, "D": dimension,
        "G": p.width, "TILE": tile, **compiler(4),
    }  # fmt: skip
    column: dict[str, Any] = {
        "mixed": mixed, "z": z, "edges": edges, "sums": sums, "table": table, "roots": w,
        "ORDERS": orders, "D": dimension, "N1": p.n1, "N2": p.n2, "R1": r1, "R2": r2, "R3": r3,
        "G": p.width, **compiler(p.column_warps),
    }  # fmt: skip
    for start in range(0, batch, chunk):
        size = min(chunk, batch - start)
        groups = -(-size // p.width)
        with launching(x.device, f"large {task.value}"):
            interleave[(tiles, groups)](sample0=start, **straight)
            group_columns[(columns, groups)](V=p.neighbours, **column)
            launch_rows(p, z, edges, gaps, w, task, outputs, spec, scale, start, size)
            if not task.differentiates:
                launch_finish(p, sums, gaps, task, outputs, spec, start, size)
                continue
            group_columns_back[(columns, groups)](
                gaps=gaps, loss=outputs.get("loss", x), slopes=slopes,
                power_weight=spec.power_weight, scale=scale, sample0=start, samples=batch,
                TASK=task.value, FORM=spec.form, TILES=columns, **column,
            )  # fmt: skip
            deinterleave[(tiles, groups)](
                grad=outputs["grad"], slopes=slopes, sample0=start, ORDERS=orders, **straight
            )
