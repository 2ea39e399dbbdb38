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

_NOT_PERMUTED = Mode.NONE.value


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
    p = parameters.large(dimension, arch(x.device), few=batch < parameters.FEW)
    shape = {"D": dimension, "N1": p.n1, "N2": p.n2}
    tiles, programs = p.n2 // 2 // p.width, p.n1 // 32
    chunk = min(batch, parameters.large_chunk(dimension))
    column = _column_arguments(x, permutation, p, order_mask(spec.orders), shape)
    back = task.differentiates
    save = back and column["MODE"] != _NOT_PERMUTED and column["ORDERS"] != 0
    # One workspace for all pieces: launches of one stream follow one another.
    work = _workspace(x, (chunk, tiles, programs), column["ORDERS"], save)
    z, edges, xp, sums, gaps = work
    column["roots"] = w = roots(dimension, x.device)
    for start in range(0, batch, chunk):
        size = min(chunk, batch - start)
        with launching(x.device, f"large {task.value}"):
            columns[(tiles, size)](
                x=x, xp=xp, z=z, edges=edges, sums=sums, x_stride=x.stride(0), sample0=start,
                SAVE=save, **column,
            )  # fmt: skip
            spaces = {"z": z, "edges": edges, "gaps": gaps}
            launch_rows(p, spaces, w, task, outputs, spec, scale, start, size)
            if back:
                grid = (tiles, size)
                _launch_columns_back(x, start, grid, work, column, task, outputs, spec, scale)
            else:
                launch_finish(p, sums, gaps, task, outputs, spec, start, size)


def launch_rows(
    p: parameters.Large,
    w: dict[str, Tensor],
    roots_of_d: Tensor,
    task: Task,
    outputs: dict[str, Tensor],
    spec: LossSpec,
    scale: float,
    start: int,
    size: int,
) -> None:
    """Launch the second kernel for `size` samples from `start`, in the workspaces w.

    z stands in for a lacking output.
    """
    z, edges, gaps = w["z"], w["edges"], w["gaps"]
    c1, c2, c3 = p.row_radices
    rows[(p.n1 // 32, size)](
        z=z, edges=edges, z_back=z, edges_back=edges, gaps=gaps, roots=roots_of_d,
        blocks=outputs.get("blocks", z), power_weight=spec.power_weight, target=spec.target,
        scale=scale, sample0=start, TASK=task.value, STATISTIC=spec.statistic, D=p.n1 * p.n2,
        N1=p.n1, N2=p.n2, C1=c1, C2=c2, C3=c3, E1=p.edge_radix, COPIES=p.copies,
        **compiler(p.row_warps),
    )  # fmt: skip


def _column_arguments(
    x: Tensor,
    permutation: Permutation,
    p: parameters.Large,
    orders: int,
    shape: dict[str, int],
) -> dict[str, Any]:
    """Return the arguments that `columns` and `columns_back` share, but for the roots."""
    r1, r2, r3 = p.column_radices
    mode, table, table_stride = source_of(permutation, x, r1)
    return {
        "table": table, "table_stride": table_stride,
        "seed": x if permutation.seed is None else permutation.seed,
        "R1": r1, "R2": r2, "R3": r3, "W": p.width, "MODE": mode.value, "ORDERS": orders,
        "BITS": parameters.permutation_bits(x.shape[1]), **compiler(p.column_warps), **shape,
    }  # fmt: skip


def _workspace(
    x: Tensor, counts: tuple[int, int, int], orders: int, save: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return z, edges, xp, sums and gaps for pieces of the batch.

    `counts` are the samples of a piece, and the tiles and programs of a sample. With `save` the
    permuted samples are kept in xp; without, xp is x.
    """
    (chunk, tiles, programs), dimension = counts, x.shape[1]
    new: dict[str, Any] = {"dtype": torch.float32, "device": x.device}
    return (
        torch.empty((chunk, dimension), **new),
        torch.empty((chunk, dimension // 16), **new),
        torch.empty((chunk, dimension), **new) if save else x,
        torch.empty((chunk, tiles, orders.bit_count() + 1), **new),
        torch.empty((chunk, programs), **new),
    )


def _launch_columns_back(
    x: Tensor,
    start: int,
    grid: tuple[int, int],
    work: tuple[Tensor, Tensor, Tensor, Tensor, Tensor],
    column: dict[str, Any],
    task: Task,
    outputs: dict[str, Tensor],
    spec: LossSpec,
    scale: float,
) -> None:
    """Launch the last kernel of a task with a gradient; x stands in for outputs that it lacks."""
    z, edges, xp, sums, gaps = work
    source = x[start:] if xp is x else xp
    columns_back[grid](
        xp=source, z=z, edges=edges, sums=sums, gaps=gaps, loss=outputs.get("loss", x),
        grad=outputs["grad"], moments=outputs.get("moments", x), xp_stride=source.stride(0),
        power_weight=spec.power_weight, scale=scale, sample0=start, TASK=task.value,
        FORM=spec.form, **column,
    )  # fmt: skip


def launch_finish(
    p: parameters.Large,
    sums: Tensor,
    gaps: Tensor,
    task: Task,
    outputs: dict[str, Tensor],
    spec: LossSpec,
    start: int,
    size: int,
) -> None:
    """Launch the last kernel of a task without a gradient; sums stand in for a lacking output.

    It has as many warps as `columns_back`, so that both add up the sums in the same order.
    """
    finish[(size,)](
        sums=sums, gaps=gaps, loss=outputs.get("loss", sums),
        moments=outputs.get("moments", sums), power_weight=spec.power_weight, sample0=start,
        TASK=task.value, ORDERS=order_mask(spec.orders), FORM=spec.form, TILES=sums.shape[1],
        D=p.n1 * p.n2, N1=p.n1, **compiler(p.column_warps),
    )  # fmt: skip
