"""Launches of the white-noise projection."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gaussreg_fast.backends.triton import parameters
from gaussreg_fast.backends.triton._device import arch, compiler, launching, roots, shared_memory
from gaussreg_fast.backends.triton._permutation import Mode
from gaussreg_fast.kernels.loss_large_columns import columns_back
from gaussreg_fast.kernels.projection_fused import project
from gaussreg_fast.kernels.projection_general import project_spectrum, scaled
from gaussreg_fast.kernels.projection_large import project_columns, project_rows


def launch(x: Tensor, out: Tensor, block_size: int) -> None:
    """Project rows x (B, D) into rows of `out`, which is contiguous and of x's dtype."""
    route = parameters.projection_route(x.shape[1], block_size, shared_memory(x.device))
    with launching(x.device, f"{route} projection"):
        {"fused": _fused, "large": _large, "general": _general}[route](x, out, block_size)


def _fused(x: Tensor, out: Tensor, block_size: int) -> None:
    """Project in one launch."""
    dimension = x.shape[1]
    p = parameters.fused(dimension, arch(x.device))
    r1, r2, r3 = p.radices
    project[(len(x),)](
        x=x, out=out, roots=roots(dimension, x.device), x_stride=x.stride(0),
        BLOCK=block_size, D=dimension, R1=r1, R2=r2, R3=r3, **compiler(p.num_warps),
    )  # fmt: skip


def _large(x: Tensor, out: Tensor, block_size: int) -> None:
    """Project in three launches, over pieces of the batch that stay in the L2 cache."""
    batch, dimension = x.shape
    p = parameters.large(dimension, arch(x.device))
    shape: dict[str, Any] = {"D": dimension, "N1": p.n1, "N2": p.n2, "W": p.width}
    r1, r2, r3 = p.column_radices
    column: dict[str, Any] = {"R1": r1, "R2": r2, "R3": r3, **compiler(p.column_warps), **shape}
    c1, c2, c3 = p.row_radices
    tiles, programs = p.n2 // 2 // p.width, p.n1 // 32
    chunk = min(batch, parameters.large_chunk(dimension))
    new: dict[str, Any] = {"dtype": torch.float32, "device": x.device}
    z = torch.empty((chunk, dimension), **new)
    edges = torch.empty((chunk, dimension // 16), **new)
    sizes = torch.empty((chunk, tiles), **new)
    w = roots(dimension, x.device)
    for start in range(0, batch, chunk):
        size = min(chunk, batch - start)
        project_columns[(tiles, size)](
            x=x,
            z=z,
            edges=edges,
            sizes=sizes,
            roots=w,
            x_stride=x.stride(0),
            sample0=start,
            **column,
        )
        project_rows[(programs, size)](
            z=z, edges=edges, z_back=z, edges_back=edges, sizes=sizes, roots=w,
            C1=c1, C2=c2, C3=c3, E1=p.edge_radix, COPIES=p.copies, **compiler(p.row_warps), **shape,
        )  # fmt: skip
        # The last launch of a loss, here without moments and losses: their stand-ins are not read.
        columns_back[(tiles, size)](
            xp=x, z=z, edges=edges, sums=x, gaps=x, loss=x, grad=out, moments=x, table=x, seed=x,
            roots=w, xp_stride=0, table_stride=0, power_weight=0.0, scale=1.0, sample0=start,
            TASK="pullback", MODE=Mode.NONE.value, ORDERS=0, FORM="root",
            BITS=parameters.permutation_bits(dimension), **column,
        )  # fmt: skip


def _general(x: Tensor, out: Tensor, block_size: int) -> None:
    """torch's FFTs, a scaling pass before them and the projection between them."""
    dimension = x.shape[1]
    passes = parameters.general(dimension)
    split, size, loop = parameters.projected_blocks(dimension // 2, block_size)
    chunk = parameters.chunk(dimension, len(x))
    for start in range(0, len(x), chunk):
        rows = x[start : start + chunk]
        peaks = torch.linalg.vector_norm(rows, ord=torch.inf, dim=1)
        unit = torch.empty(rows.shape, dtype=torch.float32, device=x.device)
        scaled[(len(rows) * passes.parts,)](
            x=rows, peaks=peaks, out=unit, x_stride=rows.stride(0),
            D=dimension, TILE=passes.tile, PARTS=passes.parts, STEPS=passes.steps,
            **compiler(passes.num_warps),
        )  # fmt: skip
        half = torch.fft.rfft(unit)
        project_spectrum[(len(rows) * split.parts,)](
            half=half.view(torch.int64),
            BLOCK=block_size, D=dimension, LOOP=loop, ROWS=split.tile, SIZE=size,
            PARTS=split.parts, STEPS=split.steps, **compiler(split.num_warps),
        )  # fmt: skip
        # norm="forward" does not scale the inverse: `project_spectrum` has scaled already.
        out[start : start + chunk] = torch.fft.irfft(half, n=dimension, norm="forward")
