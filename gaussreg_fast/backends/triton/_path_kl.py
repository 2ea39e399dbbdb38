"""Launches of path KL: a pass over dmu, and one over the sums of its parts."""

from __future__ import annotations

import torch
from torch import Tensor

from gaussreg_fast.backends.triton import parameters
from gaussreg_fast.backends.triton._device import compiler, launching
from gaussreg_fast.kernels.path_kl import path_rows, path_sums


def path_kl(dmu: Tensor, sigma: Tensor, *, gradient: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return KL (B,) and costs (T, B), float32, of dmu (T, B, *shape) and sigma (T, 1) or (T, B).

    With `gradient` the third result is the gradient of their sum by dmu, in its shape and dtype.
    """
    steps, batch = dmu.shape[:2]
    kl = dmu.new_empty(batch, dtype=torch.float32)
    costs = dmu.new_empty((steps, batch), dtype=torch.float32)
    grad = dmu.new_empty(dmu.shape) if gradient else None
    _fill(dmu, sigma, kl=kl, costs=costs, grad=grad)
    return kl, costs, grad


def path_kl_pullback(dmu: Tensor, sigma: Tensor, upstream: Tensor) -> Tensor:
    """Return the gradient by dmu, in its shape and dtype, for upstream gradients (B,)."""
    grad = dmu.new_empty(dmu.shape)
    _fill(dmu, sigma, upstream=upstream, grad=grad)
    return grad


def _fill(
    dmu: Tensor,
    sigma: Tensor,
    *,
    kl: Tensor | None = None,
    costs: Tensor | None = None,
    upstream: Tensor | None = None,
    grad: Tensor | None = None,
) -> None:
    """Fill kl (B,), costs (T, B), both float32, and grad (like dmu, contiguous), unless None.

    The gradient is for the upstream gradients (B,), which are 1 if None.
    """
    steps, batch = dmu.shape[:2]
    rows = dmu.contiguous()
    deviations = sigma.float().contiguous()
    size = dmu[0, 0].numel()
    split = parameters.general(size)
    device = dmu.device
    partials = deviations  # a stand-in that no kernel touches
    if kl is not None:
        partials = torch.empty((steps, batch, split.parts), dtype=torch.float32, device=device)
    with launching(device, "path_kl"):
        path_rows[(steps * batch * split.parts,)](
            dmu=rows, sigma=deviations,
            upstream=deviations if upstream is None else upstream.float().contiguous(),
            partials=partials, grad=rows if grad is None else grad, batch=batch,
            VALUE=kl is not None, GRADIENT=grad is not None, UPSTREAM=upstream is not None,
            PER_SAMPLE=sigma.shape[1] == batch, D=size, TILE=split.tile, PARTS=split.parts,
            STEPS=split.steps, **compiler(split.num_warps),
        )  # fmt: skip
        if kl is not None:
            padded, tile, warps = parameters.path_sums(steps, split.parts)
            path_sums[(batch,)](
                partials=partials, costs=costs, kl=kl, batch=batch, steps=steps, D=size,
                PARTS=split.parts, PADDED=padded, TILE=tile, **compiler(warps),
            )  # fmt: skip
