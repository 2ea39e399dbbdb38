"""The one-launch kernel."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gaussreg_fast import config
from gaussreg_fast.kernels.fused import fused, index_tables
from gaussreg_fast.launch._device import arch, on, roots
from gaussreg_fast.launch._permutation import Permutation


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
    """Runs a task of `kernels.fused` on rows x (B, D) into (or from) `outputs`."""
    batch, dimension = x.shape
    parameters = config.fused(dimension, arch(x.device))
    r1, r2, r3 = parameters.radices
    bits = config.permutation_bits(dimension)
    with on(x.device, f"fused {task}"):
        mode, table, stride = _tables(x, permutation, r1, bits)
        fused[(batch,)](
            x,
            outputs.get("loss", x),
            outputs.get("grad", x),
            outputs.get("moments", x),
            outputs.get("blocks", x),
            table,
            table[..., dimension:],
            permutation.seed if mode == "seed" else x,
            roots(dimension, x.device),
            x.stride(0),
            stride,
            power_weight,
            target,
            scale,
            TASK=task,
            PERMUTATION=mode,
            ORDERS=orders,
            FORM=form,
            POWER=power,
            BLOCK=block_size,
            D=dimension,
            BITS=bits,
            R1=r1,
            R2=r2,
            R3=r3,
            RELOAD=parameters.reload,
            num_warps=parameters.num_warps,
        )


def _tables(x: Tensor, permutation: Permutation, r1: int, bits: int) -> tuple[str, Tensor, int]:
    """How the kernel finds its permutation, the two tables (rows, 2 D), their row stride."""
    seed, index = permutation.seed, permutation.index
    if seed is None and index is None:
        return "none", x, 0
    if permutation.per_sample and index is None:
        return "seed", x, 0
    dimension = x.shape[1]
    rows = 1 if index is None or index.dim() == 1 else index.shape[0]
    table = torch.empty((rows, 2 * dimension), dtype=torch.int16, device=x.device)
    tile = config.table_tile(dimension)
    arguments: dict[str, Any] = {
        "GIVEN": index is not None,
        "D": dimension,
        "BITS": bits,
        "T": dimension // 2 // r1,
        "TILE": tile,
    }
    given = index.reshape(rows, dimension).contiguous() if index is not None else table
    index_tables[(rows, -(-dimension // tile))](
        x if seed is None else seed,
        given,
        table,
        table[:, dimension:],
        dimension,
        **arguments,
    )
    return "table", table, 0 if rows == 1 else 2 * dimension
