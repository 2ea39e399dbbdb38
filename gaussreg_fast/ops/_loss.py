"""The loss with its gradient: the one operator behind every public loss of x."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from gaussreg_fast import reference
from gaussreg_fast.dispatch import resolve
from gaussreg_fast.ops._permutation import index_for
from gaussreg_fast.ops._registry import (
    as_rows,
    enter,
    first_order,
    library,
    only_first,
    register,
    result_dtype,
)


def _loss(
    x: Tensor,
    seed: Tensor | None,
    index: Tensor | None,
    per_sample: bool,
    orders: Sequence[int],
    form: str,
    power_weight: float,
    block_size: int,
    target: float,
    statistic: str,
    reduction: str,
    with_gradient: bool,
    backend: str,
    precision: str,
) -> tuple[Tensor, Tensor]:
    """The reduced loss, and the gradient of the *unreduced* one (empty if not asked for).

    The gradient stays unreduced and in the type of the computation: in half precision it would
    underflow before a gradient scaler's factor reaches it.
    """
    backend = resolve(backend, x.device)
    if x.shape[0] == 0:
        shape = (0,) if reduction == "none" else ()
        empty = x.new_zeros(x.shape if with_gradient else 0, dtype=result_dtype(x))
        return x.new_zeros(shape, dtype=result_dtype(x)), empty
    with torch.no_grad():
        loss, grad = reference.loss_and_gradient(
            as_rows(x),
            index_for(x, seed, index, per_sample, backend) if power_weight else None,
            orders=orders,
            form=form,
            power_weight=power_weight,
            block_size=block_size,
            target=target,
            statistic=statistic,
            with_gradient=with_gradient,
        )
        if reduction != "none":
            loss = loss.mean() if reduction == "mean" else loss.sum()
        if grad is None:
            return loss, loss.new_empty(0)
        return loss, grad.reshape(x.shape).contiguous()


def _loss_fake(x: Tensor, *options: Any) -> tuple[Tensor, Tensor]:
    *_, reduction, with_gradient, _, _ = options
    loss = x.new_empty((x.shape[0],) if reduction == "none" else (), dtype=result_dtype(x))
    return loss, x.new_empty(x.shape if with_gradient else 0, dtype=result_dtype(x))


_loss_op = register(
    "loss",
    "(Tensor x, Tensor? seed, Tensor? index, bool per_sample, int[] orders, str form, "
    "float power_weight, int block_size, float target, str statistic, str reduction, "
    "bool with_gradient, str backend, str precision) -> (Tensor, Tensor)",
    _loss,
    _loss_fake,
)


def _scale(x: Tensor, grad: Tensor, upstream: Tensor, reduction: str) -> Tensor:
    """The stored per-sample gradient times the upstream one, in x's dtype."""
    batch = grad.shape[0]
    if reduction == "none":
        upstream = upstream.reshape(batch, *[1] * (grad.dim() - 1))
    elif reduction == "mean" and batch > 1:
        upstream = upstream / batch
    return (grad * upstream).to(x.dtype)


class _LossOp(Function):
    """Autograd of the operator, for compiled code and torch.func."""

    generate_vmap_rule = True

    @staticmethod
    def forward(*args: Any) -> tuple[Tensor, Tensor]:
        with torch._C._AutoDispatchBelowAutograd():
            return _loss_op(*args)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
        _save_gradient(ctx, inputs, output[1])

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor | None) -> Any:
        x, grad = ctx.saved_tensors
        if upstream[0] is None:
            return only_first(ctx, None)
        return only_first(ctx, first_order(_scale(x, grad, upstream[0], ctx.reduction), x))


class _LossEager(Function):
    """The same for eager calls, without the dispatcher and setup_context (20 us less)."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, Tensor]:
        loss, grad = _loss(*args)
        _save_gradient(ctx, args, grad)
        return loss, grad

    backward = _LossOp.backward


def _save_gradient(ctx: Any, inputs: tuple, grad: Tensor) -> None:
    x, *_, reduction, _, _, _ = inputs
    ctx.save_for_backward(x, grad)
    ctx.reduction = reduction
    ctx.mark_non_differentiable(grad)
    ctx.set_materialize_grads(False)


library.impl("loss", _LossOp.apply, "Autograd")


def loss(x: Tensor, *options: Any) -> tuple[Tensor, Tensor]:
    """The reduced loss, differentiable, and the gradient of the unreduced one; see `_loss`."""
    return enter(x, options, _loss, _loss_op, _LossOp, _LossEager)
