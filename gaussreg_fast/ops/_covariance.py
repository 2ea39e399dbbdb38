"""The O(n^2) covariance loss."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from gaussreg_fast import reference
from gaussreg_fast.ops._registry import first_order, no_autocast


class _Covariance(Function):
    """`reference.covariance_terms` with the gradient by hand: autograd would keep O(D^2)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(xp: Tensor) -> tuple[Tensor, Tensor]:
        with no_autocast(xp):
            return reference.covariance_terms(reference.autocovariance(xp), xp.shape[-1])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(*inputs, output[1])
        ctx.mark_non_differentiable(output[1])

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Tensor:
        xp, grad_c = ctx.saved_tensors
        with torch.no_grad(), no_autocast(xp):
            grad = reference.autocovariance_pullback(xp, grad_c * upstream[0][:, None])
        return first_order(grad, xp)


def covariance(xp: Tensor) -> Tensor:
    """The circulant covariance loss of permuted rows (B, D) -> (B,)."""
    return _Covariance.apply(xp)[0]
