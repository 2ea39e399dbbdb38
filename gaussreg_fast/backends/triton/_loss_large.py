"""The three launches of large powers of two, over pieces of the batch that stay in the L2 cache."""

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
    """Runs a task, as `_loss_fused.launch` does, for block_size 16."""
    batch, dimension = x.shape
    p = parameters.large(dimension, arch(x.device))
    back = task.differentiates
    mode, table, table_stride = source_of(permutation, x)
    orders, power_weight = order_mask(spec.orders), spec.power_weight
    shape: dict[str, Any] = {"D": dimension, "N1": p.n1, "N2": p.n2}
    r1, r2, r3 = p.column_radices
    c1, c2, c3 = p.row_radices
    column: dict[str, Any] = {
        **shape,
        "R1": r1,
        "R2": r2,
        "R3": r3,
        "W": p.width,
        "MODE": mode.value,
    }
    column |= {"ORDERS": orders, "BITS": parameters.permutation_bits(dimension)}
    tiles, programs = p.n2 // 2 // p.width, p.n1 // 32
    chunk = min(batch, parameters.large_chunk(dimension))
    # One workspace for all pieces: launches of one stream follow one another.
    save = back and mode is not Mode.NONE and orders != 0
    new: dict[str, Any] = {"dtype": torch.float32, "device": x.device}
    z = torch.empty((chunk, dimension), **new)
    edges = torch.empty((chunk, dimension // 16), **new)
    xp = torch.empty((chunk, dimension), **new) if save else x
    sums = torch.empty((chunk, tiles, orders.bit_count() + 1), **new)
    gaps = torch.empty((chunk, programs), **new)
    loss, grad = outputs.get("loss", x), outputs.get("grad", x)
    moments, blocks = outputs.get("moments", x), outputs.get("blocks", x)
    seed = x if permutation.seed is None else permutation.seed
    w = roots(dimension, x.device)
    for start in range(0, batch, chunk):
        size = min(chunk, batch - start)
        with launching(x.device, f"large {task.value}"):
            columns[(tiles, size)](
                x=x, xp=xp, z=z, edges=edges, sums=sums, table=table, seed=seed, roots=w,
                x_stride=x.stride(0), table_stride=table_stride, sample0=start,
                SAVE=save, **compiler(p.column_warps), **column,
            )  # fmt: skip
            rows[(programs, size)](
                z=z, edges=edges, z_back=z, edges_back=edges, gaps=gaps, blocks=blocks, roots=w,
                power_weight=power_weight, target=spec.target, scale=scale, sample0=start,
                TASK=task.value, STATISTIC=spec.statistic, C1=c1, C2=c2, C3=c3, COPIES=p.copies,
                **compiler(p.row_warps), **shape,
            )  # fmt: skip
            if back:
                source = xp if save else x[start:]
                columns_back[(tiles, size)](
                    xp=source, z=z, edges=edges, sums=sums, gaps=gaps, loss=loss, grad=grad,
                    moments=moments, table=table, seed=seed, roots=w,
                    xp_stride=source.stride(0), table_stride=table_stride,
                    power_weight=power_weight, scale=scale, sample0=start,
                    TASK=task.value, FORM=spec.form, **compiler(p.column_warps), **column,
                )  # fmt: skip
            else:
                # As many warps as columns_back has: it adds up the same sums, in the same order.
                finish[(size,)](
                    sums=sums, gaps=gaps, loss=loss, moments=moments, power_weight=power_weight,
                    sample0=start,
                    TASK=task.value, ORDERS=orders, FORM=spec.form, TILES=tiles, D=dimension,
                    N1=p.n1, **compiler(p.column_warps),
                )  # fmt: skip
