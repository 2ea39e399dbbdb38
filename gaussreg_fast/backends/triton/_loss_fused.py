"""Launches the loss in one kernel, for samples that fit on the chip."""

from __future__ import annotations

import torch
from torch import Tensor

from gaussreg_fast.backends.triton import parameters
from gaussreg_fast.backends.triton._call import Call
from gaussreg_fast.backends.triton._device import arch, compiler, launching, roots
from gaussreg_fast.backends.triton._permutation import Permutation, order_mask
from gaussreg_fast.kernels.loss_fused import fused, index_tables


def launch(call: Call) -> None:
    """Run a call in one launch, or in pieces if each sample has its own tables."""
    x, permutation, task, spec = call.x, call.permutation, call.task, call.spec
    batch, dimension = x.shape
    p = parameters.fused(dimension, arch(x.device))
    r1, r2, r3 = p.radices
    index = permutation.index
    per_sample = permutation.per_sample or (index is not None and index.dim() == 2)
    # Tables of one row per sample are made for pieces of the batch that stay in the cache.
    piece = parameters.table_rows(dimension) if per_sample else batch
    for start in range(0, batch, piece):
        rows, out = x, call.outputs
        if piece < batch:
            rows = x[start : start + piece]
            out = {name: tensor[start : start + piece] for name, tensor in out.items()}
        with launching(x.device, f"fused {task.value}"):
            table = _tables(rows, permutation, start, len(rows) if per_sample else 1, r1)
            fused[(len(rows),)](
                x=rows, loss=out.get("loss", rows), grad=out.get("grad", rows),
                moments=out.get("moments", rows), blocks=out.get("blocks", rows),
                table=rows if table is None else table,
                inverse=rows if table is None else table[:, dimension:],
                roots=roots(dimension, x.device), x_stride=x.stride(0),
                table_stride=2 * dimension if per_sample else 0, power_weight=spec.power_weight,
                target=spec.target, scale=call.scale, TASK=task.value, PERMUTED=table is not None,
                ORDERS=order_mask(spec.orders), FORM=spec.form, STATISTIC=spec.statistic,
                BLOCK=spec.block_size, D=dimension, R1=r1, R2=r2, R3=r3, RELOAD=p.reload,
                RELOAD_ROOTS=p.reload_roots, **compiler(p.num_warps),
            )  # fmt: skip


def _tables(x: Tensor, permutation: Permutation, start: int, count: int, r1: int) -> Tensor | None:
    """Return tables of samples from `start` on, int16 (count, 2 D), None without permutation."""
    seed, index = permutation.seed, permutation.index
    if seed is None and index is None:
        return None
    dimension = x.shape[1]
    table = torch.empty((count, 2 * dimension), dtype=torch.int16, device=x.device)
    given = table
    if index is not None:
        given = index.reshape(-1, dimension)[start : start + count].contiguous()
    tile = parameters.table_tile(dimension)
    index_tables[(count, -(-dimension // tile))](
        seed=table if seed is None else seed,
        given=given,
        table=table,
        inverse=table[:, dimension:],
        given_stride=given.stride(0),
        sample0=start,
        GIVEN=index is not None,
        D=dimension,
        BITS=parameters.permutation_bits(dimension),
        T=dimension // 2 // r1,
        TILE=tile,
        **compiler(4),
    )
    return table
