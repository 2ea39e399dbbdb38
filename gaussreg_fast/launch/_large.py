"""The four launches of large powers of two, over pieces of the batch that stay in the L2 cache."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gaussreg_fast import config
from gaussreg_fast.kernels import large as kernels
from gaussreg_fast.launch._device import arch, compiler, on, roots
from gaussreg_fast.launch._permutation import Permutation, source_of


def launch(
    x: Tensor,
    permutation: Permutation,
    *,
    task: str,
    outputs: dict[str, Tensor],
    orders: int,
    form: str,
    power: bool,
    block_size: int,
    power_weight: float = 0.0,
    target: float = 0.0,
    scale: float = 1.0,
) -> None:
    """Runs a task, as `_fused.launch` does, for block_size 16."""
    batch, dimension = x.shape
    p = config.large(dimension, arch(x.device))
    back = task in ("gradient", "pullback")
    mode, table, table_stride = source_of(permutation, x)
    shape: dict[str, Any] = {"D": dimension, "N1": p.n1, "N2": p.n2}
    column: dict[str, Any] = {**shape, "A": p.column_radix, "W": p.width, "MODE": mode}
    column |= {"ORDERS": orders, "BITS": config.permutation_bits(dimension)}
    row: dict[str, Any] = {**shape, "C1": p.row_radix, "POWER": power}
    tiles, programs = p.n2 // p.width, p.n1 // 32
    chunk = min(batch, config.large_chunk(dimension))
    # One workspace for all pieces: launches of one stream follow one another.
    save = back and mode != "none" and orders != 0
    new: dict[str, Any] = {"dtype": torch.float32, "device": x.device}
    z = torch.empty((chunk, dimension), **new)
    xp = torch.empty((chunk, dimension), **new) if save else x
    sums = torch.empty((chunk, tiles, orders.bit_count() + 1), **new)
    parts = torch.empty((chunk, 2, dimension // 32), **new)
    loss, grad = outputs.get("loss", x), outputs.get("grad", x)
    moments, blocks = outputs.get("moments", x), outputs.get("blocks", x)
    seed = x if permutation.seed is None else permutation.seed
    last = min(1024, dimension // 32)
    for start in range(0, batch, chunk):
        size = min(chunk, batch - start)
        with on(x.device, f"large {task}"):
            w = roots(dimension, x.device)
            kernels.columns[(tiles, size)](
                x, xp, z, sums, table, seed, w, x.stride(0), table_stride, start,
                SAVE=save, **compiler(p.column_warps), **column,
            )  # fmt: skip
            kernels.rows[(programs, size)](
                z, parts, w, SAVE=back, **compiler(p.row_warps), **row
            )  # fmt: skip
            if not back:
                kernels.finish[(size,)](
                    sums, parts, loss, moments, blocks, power_weight, target, start,
                    TASK=task, ORDERS=orders, FORM=form, TILES=tiles, D=dimension, CHUNK=last,
                    **compiler(4),
                )  # fmt: skip
                continue
            kernels.rows_back[(programs, size)](
                z, parts, blocks, w, power_weight, target, scale, start,
                TASK=task, **compiler(p.row_warps), **row,
            )  # fmt: skip
            source = xp if save else x[start:]
            kernels.columns_back[(tiles, size)](
                source, z, sums, parts, loss, grad, moments, table, seed, w,
                source.stride(0), table_stride, power_weight, target, scale, start,
                TASK=task, FORM=form, CHUNK=last, **compiler(p.column_warps), **column,
            )  # fmt: skip
