"""Three launches for large powers of two, over pieces of the batch that stay in the L2 cache."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gaussreg_fast.backends.triton import parameters
from gaussreg_fast.backends.triton._call import Call
from gaussreg_fast.backends.triton._device import arch, compiler, launching, roots
from gaussreg_fast.backends.triton._permutation import Mode, order_mask, source_of
from gaussreg_fast.kernels.loss_large_columns import columns, columns_back, finish
from gaussreg_fast.kernels.loss_large_rows import rows

_NOT_PERMUTED = Mode.NONE.value


def launch(call: Call) -> None:
    """Run a call for block_size 16."""
    x, (batch, dimension) = call.x, call.x.shape
    p = parameters.large(dimension, arch(x.device), few=batch < parameters.FEW)
    tiles = p.n2 // 2 // p.width
    chunk = min(batch, parameters.large_chunk(dimension))
    column = _column_arguments(call, p)
    back = call.task.differentiates
    save = back and column["MODE"] != _NOT_PERMUTED and column["ORDERS"] != 0
    w = workspace(x, p, chunk, tiles, column["ORDERS"])
    w["xp"] = torch.empty_like(w["z"]) if save else x  # the permuted samples
    for start in range(0, batch, chunk):
        size = min(chunk, batch - start)
        with launching(x.device, f"large {call.task.value}"):
            columns[(tiles, size)](
                x=x, xp=w["xp"], z=w["z"], edges=w["edges"], sums=w["sums"], roots=w["roots"],
                x_stride=x.stride(0), sample0=start, SAVE=save, **column,
            )  # fmt: skip
            launch_rows(call, p, w, start, size)
            if back:
                _launch_columns_back(call, w, column, (tiles, size), start)
            else:
                launch_finish(call, p, w, start, size)


def workspace(
    x: Tensor, p: parameters.Large, samples: int, tiles: int, orders: int
) -> dict[str, Tensor]:
    """Return the workspaces of all pieces, and the roots.

    Pieces share them, because launches of one stream follow one another. `tiles` is the number of
    partial sums of a sample, `orders` a bit mask.
    """
    dimension = x.shape[1]
    shapes = {
        "z": (samples, dimension),
        "edges": (samples, dimension // 16),
        "sums": (samples, tiles, orders.bit_count() + 1),
        "gaps": (samples, p.n1 // 32),
    }
    new: dict[str, Any] = {"dtype": torch.float32, "device": x.device}
    found = {name: torch.empty(shape, **new) for name, shape in shapes.items()}
    return {**found, "roots": roots(dimension, x.device)}


def launch_rows(
    call: Call, p: parameters.Large, w: dict[str, Tensor], start: int, size: int
) -> None:
    """Launch `rows` for `size` samples from `start`; z stands in for a lacking output."""
    z, edges, spec = w["z"], w["edges"], call.spec
    c1, c2, c3 = p.row_radices
    rows[(p.n1 // 32, size)](
        z=z, edges=edges, z_back=z, edges_back=edges, gaps=w["gaps"], roots=w["roots"],
        blocks=call.outputs.get("blocks", z), power_weight=spec.power_weight, target=spec.target,
        scale=call.scale, sample0=start, TASK=call.task.value, STATISTIC=spec.statistic,
        D=p.n1 * p.n2, N1=p.n1, N2=p.n2, C1=c1, C2=c2, C3=c3, E1=p.edge_radix, COPIES=p.copies,
        **compiler(p.row_warps),
    )  # fmt: skip


def launch_finish(
    call: Call, p: parameters.Large, w: dict[str, Tensor], start: int, size: int
) -> None:
    """Launch the last kernel of a task without a gradient; sums stand in for a lacking output.

    It has as many warps as `columns_back`, so that both add up the sums in the same order.
    """
    sums, spec = w["sums"], call.spec
    finish[(size,)](
        sums=sums, gaps=w["gaps"], loss=call.outputs.get("loss", sums),
        moments=call.outputs.get("moments", sums), power_weight=spec.power_weight, sample0=start,
        TASK=call.task.value, ORDERS=order_mask(spec.orders), FORM=spec.form, TILES=sums.shape[1],
        D=p.n1 * p.n2, N1=p.n1, **compiler(p.column_warps),
    )  # fmt: skip


def _column_arguments(call: Call, p: parameters.Large) -> dict[str, Any]:
    """Return the arguments that `columns` and `columns_back` share, but for the workspaces."""
    x, seed, dimension = call.x, call.permutation.seed, call.x.shape[1]
    r1, r2, r3 = p.column_radices
    mode, table, table_stride = source_of(call.permutation, x, r1)
    return {
        "table": table, "table_stride": table_stride, "seed": x if seed is None else seed,
        "R1": r1, "R2": r2, "R3": r3, "W": p.width, "D": dimension, "N1": p.n1, "N2": p.n2,
        "MODE": mode.value, "ORDERS": order_mask(call.spec.orders),
        "BITS": parameters.permutation_bits(dimension), **compiler(p.column_warps),
    }  # fmt: skip


def _launch_columns_back(
    call: Call, w: dict[str, Tensor], column: dict[str, Any], grid: tuple[int, int], start: int
) -> None:
    """Launch the last kernel of a task with a gradient; x stands in for outputs that it lacks."""
    x, outputs = call.x, call.outputs
    source = x[start:] if w["xp"] is x else w["xp"]
    columns_back[grid](
        xp=source, z=w["z"], edges=w["edges"], sums=w["sums"], gaps=w["gaps"], roots=w["roots"],
        loss=outputs.get("loss", x), grad=outputs["grad"], moments=outputs.get("moments", x),
        xp_stride=source.stride(0), power_weight=call.spec.power_weight, scale=call.scale,
        sample0=start, TASK=call.task.value, FORM=call.spec.form, **column,
    )  # fmt: skip
