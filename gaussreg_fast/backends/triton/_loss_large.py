"""Three launches for large powers of two, over pieces of the batch that stay in the L2 cache."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gaussreg_fast.backends.triton import parameters
from gaussreg_fast.backends.triton._device import arch, compiler, launching, roots
from gaussreg_fast.backends.triton._permutation import Mode, Permutation, order_mask, source_of
from gaussreg_fast.kernels.loss_large_columns import columns, columns_back, finish
from gaussreg_fast.kernels.loss_large_rows import rows
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
    """Run a task, as `_loss_fused.launch` does, for block_size 16."""
    batch, dimension = x.shape
    p = parameters.large(dimension, arch(x.device))
    shape = {"D": dimension, "N1": p.n1, "N2": p.n2}
    tiles, programs = p.n2 // 2 // p.width, p.n1 // 32
    chunk = min(batch, parameters.large_chunk(dimension))
    column = _column_arguments(x, permutation, p, order_mask(spec.orders)) | shape
    save = task.differentiates and column["MODE"] != Mode.NONE.value and column["ORDERS"] != 0
    # One workspace for all pieces: launches of one stream follow one another.
    work = _workspace(x, (chunk, tiles, programs), column["ORDERS"], save)
    column["roots"] = roots(dimension, x.device)
    row = _row_arguments(task, outputs.get("blocks", x), spec, scale, work, p)
    row |= shape | {"roots": column["roots"]}
    last = _last_arguments(task, outputs, spec, scale, x, work, column)
    for start in range(0, batch, chunk):
        size = min(chunk, batch - start)
        with launching(x.device, f"large {task.value}"):
            columns[(tiles, size)](
                x=x, xp=work["xp"], z=work["z"], edges=work["edges"], sums=work["sums"],
                x_stride=x.stride(0), sample0=start, SAVE=save, **column,
            )  # fmt: skip
            rows[(programs, size)](sample0=start, **row)
            if task.differentiates:
                source = work["xp"] if save else x[start:]
                columns_back[(tiles, size)](
                    xp=source, xp_stride=source.stride(0), sample0=start, **last
                )
            else:
                finish[(size,)](sample0=start, TILES=tiles, **last)


def _column_arguments(
    x: Tensor, permutation: Permutation, p: parameters.Large, orders: int
) -> dict[str, Any]:
    """Return the arguments that `columns` and `columns_back` share, but for the roots."""
    mode, table, table_stride = source_of(permutation, x)
    r1, r2, r3 = p.column_radices
    return {
        "table": table, "table_stride": table_stride,
        "seed": x if permutation.seed is None else permutation.seed,
        "R1": r1, "R2": r2, "R3": r3, "W": p.width, "MODE": mode.value, "ORDERS": orders,
        "BITS": parameters.permutation_bits(x.shape[1]), **compiler(p.column_warps),
    }  # fmt: skip


def _row_arguments(
    task: Task,
    blocks: Tensor,
    spec: LossSpec,
    scale: float,
    work: dict[str, Tensor],
    p: parameters.Large,
) -> dict[str, Any]:
    """Return the arguments of `rows` that are the same for all pieces of the batch."""
    z, edges = work["z"], work["edges"]
    c1, c2, c3 = p.row_radices
    return {
        "z": z, "edges": edges, "z_back": z, "edges_back": edges, "gaps": work["gaps"],
        "blocks": blocks, "power_weight": spec.power_weight, "target": spec.target,
        "scale": scale, "TASK": task.value, "STATISTIC": spec.statistic,
        "C1": c1, "C2": c2, "C3": c3, "COPIES": p.copies, **compiler(p.row_warps),
    }  # fmt: skip


def _workspace(
    x: Tensor, counts: tuple[int, int, int], orders: int, save: bool
) -> dict[str, Tensor]:
    """Return the workspace of a piece; `counts` are its samples, and tiles and programs of each.

    With `save` it keeps the permuted samples; without, x stands in for them.
    """
    (chunk, tiles, programs), dimension = counts, x.shape[1]
    new: dict[str, Any] = {"dtype": torch.float32, "device": x.device}
    return {
        "z": torch.empty((chunk, dimension), **new),
        "edges": torch.empty((chunk, dimension // 16), **new),
        "xp": torch.empty((chunk, dimension), **new) if save else x,
        "sums": torch.empty((chunk, tiles, orders.bit_count() + 1), **new),
        "gaps": torch.empty((chunk, programs), **new),
    }


def _last_arguments(
    task: Task,
    outputs: dict[str, Tensor],
    spec: LossSpec,
    scale: float,
    stand_in: Tensor,
    work: dict[str, Tensor],
    column: dict[str, Any],
) -> dict[str, Any]:
    """Return the arguments of the last launch that are the same for all pieces of the batch.

    That is `columns_back`, or `finish` if there is no gradient. No kernel touches `stand_in`.
    """
    last = {
        "sums": work["sums"], "gaps": work["gaps"], "power_weight": spec.power_weight,
        "loss": outputs.get("loss", stand_in), "moments": outputs.get("moments", stand_in),
        "TASK": task.value, "FORM": spec.form,
    }  # fmt: skip
    if task.differentiates:
        last |= {"z": work["z"], "edges": work["edges"], "scale": scale, **column}
        last["grad"] = outputs["grad"]
        return last
    # `finish` has as many warps as `columns_back`, so that both add the sums in one order.
    shared = "ORDERS", "D", "N1", *compiler(1)
    return last | {name: column[name] for name in shared}
