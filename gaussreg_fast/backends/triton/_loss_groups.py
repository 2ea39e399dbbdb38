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
    chunk = max(1, parameters.large_chunk(dimension) // p.width) * p.width
    orders = order_mask(spec.orders)
    w = _workspace(x, p, -(-min(batch, chunk) // p.width) * p.width, orders.bit_count())
    r1, r2, r3 = p.column_radices
    _, table, _ = source_of(permutation, x, r1)
    straight: dict[str, Any] = {
        "x": x, "mixed": w["mixed"], "x_stride": x.stride(0), "samples": batch, "D": dimension,
        "G": p.width, "TILE": min(parameters.INTERLEAVED, dimension), **compiler(4),
    }  # fmt: skip
    column: dict[str, Any] = {
        "table": table, "roots": roots(dimension, x.device), "ORDERS": orders, "D": dimension,
        "N1": p.n1, "N2": p.n2, "R1": r1, "R2": r2, "R3": r3, "G": p.width,
        **{name: w[name] for name in ("mixed", "z", "edges", "sums")}, **compiler(p.column_warps),
    }  # fmt: skip
    slopes = outputs.get("moments", w["sums"])  # by the moments, which a pullback is given
    if task is Task.GRADIENT:
        slopes = x.new_empty((batch, orders.bit_count()), dtype=torch.float32)
    for start in range(0, batch, chunk):
        size = min(chunk, batch - start)
        groups = -(-size // p.width)
        with launching(x.device, f"large {task.value}"):
            interleave[(dimension // straight["TILE"], groups)](sample0=start, **straight)
            group_columns[(p.n2 // 2, groups)](V=p.neighbours, **column)
            launch_rows(p, w, column["roots"], task, outputs, spec, scale, start, size)
            if task.differentiates:
                _launch_back(groups, start, w, slopes, column, straight, task, outputs, spec, scale)
            else:
                launch_finish(p, w["sums"], w["gaps"], task, outputs, spec, start, size)


def _workspace(x: Tensor, p: parameters.Large, samples: int, orders: int) -> dict[str, Tensor]:
    """Return the workspaces of all pieces: launches of one stream follow one another."""
    dimension = x.shape[1]
    shapes = {
        "mixed": (samples, dimension),
        "z": (samples, dimension),
        "edges": (samples, dimension // 16),
        "sums": (samples, p.n2 // 2, orders + 1),
        "gaps": (samples, p.n1 // 32),
    }
    new: dict[str, Any] = {"dtype": torch.float32, "device": x.device}
    return {name: torch.empty(shape, **new) for name, shape in shapes.items()}


def _launch_back(
    groups: int,
    start: int,
    w: dict[str, Tensor],
    slopes: Tensor,
    column: dict[str, Any],
    straight: dict[str, Any],
    task: Task,
    outputs: dict[str, Tensor],
    spec: LossSpec,
    scale: float,
) -> None:
    """Launch the last two kernels of a task with a gradient; gaps stand in for a lacking loss."""
    columns, tiles = column["N2"] // 2, straight["D"] // straight["TILE"]
    group_columns_back[(columns, groups)](
        gaps=w["gaps"], loss=outputs.get("loss", w["gaps"]), slopes=slopes,
        power_weight=spec.power_weight, scale=scale, sample0=start, samples=straight["samples"],
        TASK=task.value, FORM=spec.form, TILES=columns, **column,
    )  # fmt: skip
    deinterleave[(tiles, groups)](
        grad=outputs["grad"], slopes=slopes, sample0=start, ORDERS=column["ORDERS"], **straight
    )
