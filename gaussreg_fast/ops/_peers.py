"""Losses of other papers: the O(D^2) covariance loss, and PRNO's."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from gaussreg_fast import _precision, reference
from gaussreg_fast.backends.torch import as_rows
from gaussreg_fast.ops._operator import first_order


def _exact(rows: Tensor) -> Tensor:
    """Return rows in a dtype in which their products keep all digits."""
    return rows.to(_precision.product_dtype(rows.dtype, rows.device))


class _Covariance(Function):
    """The covariance loss with a gradient by hand, because autograd would keep O(D^2) numbers."""

    generate_vmap_rule = True

    @staticmethod
    def forward(xp: Tensor) -> tuple[Tensor, Tensor]:
        with _precision.no_autocast(xp.device):
            return reference.covariance_terms(reference.autocovariance(xp), xp.shape[-1])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(*inputs, output[1])
        ctx.mark_non_differentiable(output[1])

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Tensor:
        xp, grad_c = ctx.saved_tensors
        with torch.no_grad(), _precision.no_autocast(xp.device):
            grad = reference.autocovariance_pullback(xp, grad_c * upstream[0][:, None])
        return first_order(grad, xp)


def covariance(x: Tensor, index: Tensor | None) -> Tensor:
    """Return the circulant covariance loss (B,) of the batch x, permuted by `index`."""
    rows = as_rows(x)
    if x.shape[0] == 0:
        return rows.sum(-1)
    return _Covariance.apply(_exact(reference.gather(rows, index)))[0].to(rows.dtype)


def prno(x: Tensor, shuffles: Tensor | None, factor: int) -> Tensor:
    """Return PRNO's loss (B,) of the batch x with shuffles (S, D), or without if they are None."""
    rows = as_rows(x)
    if x.shape[0] == 0:
        return rows.sum(-1)
    with _precision.no_autocast(x.device):
        return reference.prno_loss(_exact(rows), shuffles, factor).to(rows.dtype)
