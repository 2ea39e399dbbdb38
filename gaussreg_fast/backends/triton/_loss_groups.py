"""Launches for large samples that share a permutation: groups of them side by side."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gaussreg_fast.backends.triton import parameters
from gaussreg_fast.backends.triton._call import Call
from gaussreg_fast.backends.triton._device import arch, compiler, launching
from gaussreg_fast.backends.triton._loss_large import launch_finish, launch_rows, workspace
from gaussreg_fast.backends.triton._permutation import order_mask, source_of
from gaussreg_fast.kernels.loss_large_groups import (
    deinterleave,
    group_columns,
    group_columns_back,
    interleave,
)
from gaussreg_fast.spec import Task


def launch(call: Call) -> None:
    """Run a call for block_size 16 and a shared permutation."""
    x, (batch, dimension) = call.x, call.x.shape
    p = parameters.large(dimension, arch(x.device))
    chunk = max(1, parameters.large_chunk(dimension) // p.width) * p.width
    orders = order_mask(call.spec.orders)
    w = workspace(x, p, -(-min(batch, chunk) // p.width) * p.width, p.n2 // 2, orders)
    mixed = torch.empty_like(w["z"])
    r1, r2, r3 = p.column_radices
    _, table, _ = source_of(call.permutation, x, r1)
    straight: dict[str, Any] = {
        "x": x, "mixed": mixed, "x_stride": x.stride(0), "samples": batch, "D": dimension,
        "G": p.width, "TILE": min(parameters.INTERLEAVED, dimension), **compiler(4),
    }  # fmt: skip
    column: dict[str, Any] = {
        "mixed": mixed, "table": table, "ORDERS": orders, "D": dimension, "N1": p.n1, "N2": p.n2,
        "R1": r1, "R2": r2, "R3": r3, "G": p.width, **compiler(p.column_warps),
        **{name: w[name] for name in ("z", "edges", "sums", "roots")},
    }  # fmt: skip
    slopes = call.outputs.get("moments", w["sums"])  # by the moments, which a pullback is given
    if call.task is Task.GRADIENT:
        slopes = x.new_empty((batch, orders.bit_count()), dtype=torch.float32)
    for start in range(0, batch, chunk):
        size = min(chunk, batch - start)
        groups = -(-size // p.width)
        with launching(x.device, f"large {call.task.value}"):
            interleave[(dimension // straight["TILE"], groups)](sample0=start, **straight)
            group_columns[(p.n2 // 2, groups)](V=p.neighbours, **column)
            launch_rows(call, p, w, start, size)
            if call.task.differentiates:
                _launch_back(call, w["gaps"], slopes, column, straight, groups, start)
            else:
                launch_finish(call, p, w, start, size)


def _launch_back(
    call: Call,
    gaps: Tensor,
    slopes: Tensor,
    column: dict[str, Any],
    straight: dict[str, Any],
    groups: int,
    start: int,
) -> None:
    """Launch the last two kernels of a task with a gradient; gaps stand in for a lacking loss."""
    columns, tiles = column["N2"] // 2, straight["D"] // straight["TILE"]
    group_columns_back[(columns, groups)](
        gaps=gaps, loss=call.outputs.get("loss", gaps), slopes=slopes,
        power_weight=call.spec.power_weight, scale=call.scale, sample0=start,
        samples=straight["samples"], TASK=call.task.value, FORM=call.spec.form, TILES=columns,
        **column,
    )  # fmt: skip
    deinterleave[(tiles, groups)](
        grad=call.outputs["grad"], slopes=slopes, sample0=start, ORDERS=column["ORDERS"], **straight
    )
