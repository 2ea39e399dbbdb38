"""The functions of the backend: they allocate outputs and pick the kernels of a route.

There is no mathematics here. Only this module and those beside it import the Triton kernels;
`backends.choice` imports it when the backend is used, and says whether it can be.
"""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

from gaussreg_fast.backends.triton import (
    _loss_fused,
    _loss_general,
    _loss_groups,
    _loss_large,
    _projection,
    parameters,
)
from gaussreg_fast.backends.triton._call import Call
from gaussreg_fast.backends.triton._device import arch, shared_memory
from gaussreg_fast.backends.triton._drift import drift
from gaussreg_fast.backends.triton._path_kl import path_kl, path_kl_pullback
from gaussreg_fast.backends.triton._permutation import Permutation, permutation
from gaussreg_fast.spec import Draw, LossSpec, StatisticsSpec, Task

__all__ = [
    "drift",
    "loss",
    "path_kl",
    "path_kl_pullback",
    "permutation",
    "project",
    "pullback",
    "statistics",
]

_ROUTES: dict[str, ModuleType] = {
    "fused": _loss_fused,
    "large": _loss_large,
    "groups": _loss_groups,
    "general": _loss_general,
}


def _rows(x: Tensor) -> Tensor:
    """Return (B, *latent) as contiguous rows (B, D), copied only if necessary."""
    rows = x.flatten(1)
    return rows if rows.stride(1) == 1 or rows.shape[1] == 1 else rows.contiguous()


def _launch(
    rows: Tensor,
    draw: Draw,
    task: Task,
    outputs: dict[str, Tensor],
    spec: LossSpec,
    scale: float = 1.0,
) -> None:
    """Run a task on the route of the samples; `scale` multiplies a loss's gradient."""
    batch, dimension = rows.shape
    permutation = Permutation.of(draw, rows.device)
    route = parameters.loss_route(
        dimension, spec.block_size, shared_memory(rows.device), arch(rows.device),
        batch=batch, shared=permutation.shared,
    )  # fmt: skip
    _ROUTES[route].launch(Call(rows, permutation, task, outputs, spec, scale))


def _as_loss(spec: StatisticsSpec) -> LossSpec:
    """Return statistics in the form that the kernels take: a loss without weights."""
    return LossSpec(spec.orders, "root", 0.0, spec.block_size, 0.0, spec.statistic, "none")


@torch.no_grad()
def loss(
    x: Tensor,
    draw: Draw,
    spec: LossSpec,
    *,
    gradient: torch.dtype | None,
    scale: float = 1.0,
) -> tuple[Tensor, Tensor | None]:
    """Return losses (B,) of x (B, *latent), and `scale` times their gradients by x.

    The gradients have the dtype `gradient`; if that is None, there are none.
    """
    rows = _rows(x)
    out = {"loss": torch.empty(len(x), dtype=torch.float32, device=x.device)}
    if gradient is not None:
        out["grad"] = torch.empty(rows.shape, dtype=gradient, device=x.device)
    spec = spec if spec.power_weight else spec._replace(block_size=0)
    _launch(rows, draw, Task.VALUE if gradient is None else Task.GRADIENT, out, spec, scale)
    return out["loss"], out["grad"].view(x.shape) if gradient is not None else None


def statistics(x: Tensor, draw: Draw, spec: StatisticsSpec) -> tuple[Tensor, Tensor]:
    """Return moments (B, K) and block amplitudes (B, P) of x (B, *latent)."""
    rows, orders = _rows(x), spec.orders
    batch, dimension = rows.shape
    blocks = -(-(dimension // 2) // spec.block_size)
    out = {
        "moments": torch.empty((batch, len(orders)), dtype=torch.float32, device=x.device),
        "blocks": torch.empty((batch, blocks), dtype=torch.float32, device=x.device),
    }
    _launch(rows, draw, Task.STATISTICS, out, _as_loss(spec))
    if list(orders) == sorted(orders):
        return out["moments"], out["blocks"]
    rank = [sorted(orders).index(n) for n in orders]
    return torch.stack([out["moments"][:, k] for k in rank], 1), out["blocks"]


def pullback(
    x: Tensor, draw: Draw, spec: StatisticsSpec, *, grad_moments: Tensor, grad_blocks: Tensor
) -> Tensor:
    """Return the gradient by x, in x's shape and dtype, for gradients by `statistics`'s results."""
    rows = _rows(x)
    ascending = sorted(range(len(spec.orders)), key=lambda k: spec.orders[k])
    if ascending != list(range(len(spec.orders))):
        grad_moments = torch.stack([grad_moments[:, k] for k in ascending], 1)
    out = {
        "moments": grad_moments.float().contiguous(),
        "blocks": grad_blocks.float().contiguous(),
        "grad": torch.empty(rows.shape, dtype=x.dtype, device=x.device),
    }
    _launch(rows, draw, Task.PULLBACK, out, _as_loss(spec))
    return out["grad"].view(x.shape)


def project(x: Tensor, *, block_size: int) -> Tensor:
    """Return the white-noise projection of x (B, *latent), in its shape and dtype."""
    rows = _rows(x)
    out = torch.empty(rows.shape, dtype=x.dtype, device=x.device)
    _projection.launch(rows, out, block_size)
    return out.view(x.shape)
