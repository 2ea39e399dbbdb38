"""From tensors to kernels: outputs are allocated, launch parameters picked, kernels launched.

No mathematics here. The only place that imports the Triton kernels, and imported only where the
triton backend is used: `dispatch` says whether it can be.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import torch
from torch import Tensor

from gaussreg_fast import config
from gaussreg_fast.launch import _fused, _general, _large, _projection
from gaussreg_fast.launch._device import shared_memory
from gaussreg_fast.launch._drift import drift
from gaussreg_fast.launch._path import path_kl
from gaussreg_fast.launch._permutation import Permutation, permutation

__all__ = [
    "Permutation",
    "drift",
    "loss",
    "path_kl",
    "permutation",
    "project",
    "pullback",
    "statistics",
]

_PATHS: dict[str, ModuleType] = {"fused": _fused, "large": _large, "general": _general}


def _rows(x: Tensor) -> Tensor:
    """(B, *latent) -> rows (B, D), each contiguous; a copy only where it must be one."""
    rows = x.flatten(1)
    return rows if rows.stride(1) == 1 or rows.shape[1] == 1 else rows.contiguous()


def _mask(orders: Sequence[int]) -> int:
    """The kernels' form of orders, without an order."""
    return sum(1 << n for n in orders)


def _path(rows: Tensor, block_size: int) -> ModuleType:
    return _PATHS[config.path(rows.shape[1], block_size, shared_memory(rows.device))]


def loss(
    x: Tensor,
    permutation: Permutation,
    *,
    orders: Sequence[int],
    form: str,
    power_weight: float,
    block_size: int,
    target: float,
    statistic: str,
    gradient: torch.dtype | None,
    scale: float = 1.0,
) -> tuple[Tensor, Tensor | None]:
    """Losses (B,) of x (B, *latent) and `scale` times their gradients by x, in the given dtype."""
    rows = _rows(x)
    out = {"loss": torch.empty(len(x), dtype=torch.float32, device=x.device)}
    if gradient is not None:
        out["grad"] = torch.empty(rows.shape, dtype=gradient, device=x.device)
    block_size = block_size if power_weight else 0
    _path(rows, block_size).launch(
        rows,
        permutation,
        task="value" if gradient is None else "gradient",
        outputs=out,
        orders=_mask(orders),
        form=form,
        power=statistic == "power",
        block_size=block_size,
        power_weight=power_weight,
        target=target,
        scale=scale,
    )
    return out["loss"], out["grad"].view(x.shape) if gradient is not None else None


def statistics(
    x: Tensor, permutation: Permutation, *, orders: Sequence[int], block_size: int, statistic: str
) -> tuple[Tensor, Tensor]:
    """Moments (B, K) and block amplitudes (B, P) of x (B, *latent)."""
    rows = _rows(x)
    batch, dimension = rows.shape
    blocks = -(-(dimension // 2) // block_size)
    out = {
        "moments": torch.empty((batch, len(orders)), dtype=torch.float32, device=x.device),
        "blocks": torch.empty((batch, blocks), dtype=torch.float32, device=x.device),
    }
    _path(rows, block_size).launch(
        rows,
        permutation,
        task="statistics",
        outputs=out,
        orders=_mask(orders),
        form="root",
        power=statistic == "power",
        block_size=block_size,
    )
    if list(orders) == sorted(orders):
        return out["moments"], out["blocks"]
    rank = [sorted(orders).index(n) for n in orders]
    return torch.stack([out["moments"][:, k] for k in rank], 1), out["blocks"]


def pullback(
    x: Tensor,
    permutation: Permutation,
    grad_moments: Tensor,
    grad_blocks: Tensor,
    *,
    orders: Sequence[int],
    block_size: int,
    statistic: str,
) -> Tensor:
    """The gradient by x, in x's shape and dtype, of `statistics` for gradients by its outputs."""
    rows = _rows(x)
    ascending = sorted(range(len(orders)), key=lambda k: orders[k])
    if ascending != list(range(len(orders))):
        grad_moments = torch.stack([grad_moments[:, k] for k in ascending], 1)
    out = {
        "moments": grad_moments.float().contiguous(),
        "blocks": grad_blocks.float().contiguous(),
        "grad": torch.empty(rows.shape, dtype=x.dtype, device=x.device),
    }
    _path(rows, block_size).launch(
        rows,
        permutation,
        task="pullback",
        outputs=out,
        orders=_mask(orders),
        form="root",
        power=statistic == "power",
        block_size=block_size,
    )
    return out["grad"].view(x.shape)


def project(x: Tensor, block_size: int) -> Tensor:
    """The white-noise projection of x (B, *latent), in its shape and dtype."""
    rows = _rows(x)
    out = torch.empty(rows.shape, dtype=x.dtype, device=x.device)
    _projection.launch(rows, out, block_size)
    return out.view(x.shape)
