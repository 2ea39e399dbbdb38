"""The loss with its gradient: the one operator behind every public loss of x."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from gaussreg_fast import native, reference
from gaussreg_fast.dispatch import resolve
from gaussreg_fast.ops._draw import Draw, drawn
from gaussreg_fast.ops._permutation import index_for, native_permutation, permutation_for
from gaussreg_fast.ops._registry import (
    as_rows,
    direct,
    first_order,
    library,
    native_takes,
    only_first,
    register,
    result_dtype,
    transformed,
)


def _loss(
    x: Tensor,
    draw: Draw,
    orders: Sequence[int],
    form: str,
    power_weight: float,
    block_size: int,
    target: float,
    statistic: str,
    reduction: str,
    gradient: str,
    backend: str,
    precision: str,
) -> tuple[Tensor, Tensor | None]:
    """The reduced loss, and a gradient (None for "none").

    "reduced" is the gradient of the reduced loss, in x's type. "kept" is for a backward that
    scales it: that of float16 stays in float32, since it would underflow before a gradient
    scaler's factor reaches it.
    """
    backend = resolve(backend, x.device, x.dtype)
    batch = x.shape[0]
    if batch == 0:
        return _results(x, reduction, gradient, x.new_zeros)
    dtype = _gradient_dtype(x, gradient)
    scale = 1 / batch if reduction == "mean" else 1.0
    if native_takes(x, backend):
        loss, grad = native.loss(
            x,
            native_permutation(draw),
            orders=orders,
            form=form,
            power_weight=power_weight,
            block_size=block_size,
            target=target,
            statistic=statistic,
            gradient=dtype,
            scale=scale,
            scalar=batch == 1 and reduction != "none",
        )
    else:
        terms: dict[str, Any] = {
            "orders": orders,
            "form": form,
            "power_weight": power_weight,
            "block_size": block_size,
            "target": target,
            "statistic": statistic,
        }
        seed, index, per_sample = draw.tensors(x.device)
        with torch.no_grad():
            if backend == "triton":
                from gaussreg_fast import launch

                permutation = permutation_for(seed, index, per_sample)
                loss, grad = launch.loss(x, permutation, **terms, gradient=dtype, scale=scale)
            else:
                index = index_for(x, seed, index, per_sample, backend) if power_weight else None
                loss, grad = reference.loss_and_gradient(
                    as_rows(x), index, **terms, with_gradient=dtype is not None
                )
                if grad is not None:
                    grad = grad if scale == 1 else grad * scale
                    grad = grad.reshape(x.shape).to(dtype).contiguous()
    if reduction != "none" and loss.dim():
        loss = loss.view(()) if batch == 1 else loss.mean() if reduction == "mean" else loss.sum()
    return loss, grad


def _gradient_dtype(x: Tensor, gradient: str) -> torch.dtype | None:
    if gradient == "none":
        return None
    if gradient not in ("kept", "reduced"):  # of a graph that another version made, say
        raise ValueError(f"gradient must be 'none', 'kept' or 'reduced', got {gradient!r}")
    return torch.float32 if gradient == "kept" and x.dtype == torch.float16 else x.dtype


def _results(x: Tensor, reduction: str, gradient: str, new: Any) -> tuple[Tensor, Tensor | None]:
    """`new` tensors like those of `_loss`."""
    loss = new((x.shape[0],) if reduction == "none" else (), dtype=result_dtype(x))
    dtype = _gradient_dtype(x, gradient)
    return loss, None if dtype is None else new(x.shape, dtype=dtype)


def _tensors(loss: Tensor, grad: Tensor | None) -> tuple[Tensor, Tensor]:
    """As the operator returns them: an operator cannot return None."""
    return loss, loss.new_empty(0) if grad is None else grad


def _loss_of_tensors(
    x: Tensor, seed: Tensor | None, index: Tensor | None, per_sample: bool, *options: Any
) -> tuple[Tensor, Tensor]:
    return _tensors(*_loss(x, drawn(seed, index, per_sample), *options))


def _loss_fake(x: Tensor, *options: Any) -> tuple[Tensor, Tensor]:
    *_, reduction, gradient, _, _ = options
    return _tensors(*_results(x, reduction, gradient, x.new_empty))


_loss_op = register(
    "loss",
    "(Tensor x, Tensor? seed, Tensor? index, bool per_sample, int[] orders, str form, "
    "float power_weight, int block_size, float target, str statistic, str reduction, "
    "str gradient, str backend, str precision) -> (Tensor, Tensor)",
    _loss_of_tensors,
    _loss_fake,
)


_REDUCTION = -4  # place of that option


_unwrapped = torch._C._functorch.unwrap_if_dead
_graph_is_kept = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", lambda: True)
_hooks = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", lambda _: True)


def _last_use(upstream: Tensor) -> bool:
    """Whether an ordinary backward runs now, which nobody records, and frees what was saved."""
    if torch.is_grad_enabled() or _graph_is_kept():
        return False
    return direct(upstream) and not torch._C._functorch.is_legacy_batchedtensor(upstream)


def _scale(x: Tensor, grad: Tensor, upstream: Tensor, reduction: str, last: bool) -> Tensor:
    """The kept gradient times the upstream one, in x's dtype.

    In its `last` use the kept one is overwritten: a backward needs no memory of its own.
    """
    if reduction == "none":
        upstream = upstream.reshape(grad.shape[0], *[1] * (grad.dim() - 1))
    scaled = grad.mul_(upstream) if last else grad * upstream
    return scaled if scaled.dtype == x.dtype else scaled.to(x.dtype)


def _scales_by_one(upstream: Tensor) -> bool:
    """Whether nothing is to be done, as for most losses: where a look at that costs nothing."""
    return upstream.device.type == "cpu" and upstream.dim() == 0 and upstream.item() == 1


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
        return only_first(ctx, first_order(_scale(x, grad, upstream[0], ctx.reduction, False), x))


class _LossEager(Function):
    """The same for eager calls, in the fewest steps: a third of what the operator's costs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, options: tuple) -> Tensor:
        loss, grad = _loss(x, *options)
        assert grad is not None
        ctx.save_for_backward(x, grad)
        ctx.reduction = options[_REDUCTION]
        ctx.same_type = grad.dtype == x.dtype
        ctx.own = not _hooks(True)  # that is: nobody else gets to see what is saved
        return loss

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        x, grad = ctx.saved_tensors
        last = ctx.own and _last_use(upstream[0])
        if last and ctx.same_type and _scales_by_one(upstream[0]):
            return grad, None
        return first_order(_scale(x, grad, upstream[0], ctx.reduction, last), x), None


# Past `Function.apply`, which first looks whether a transform of torch.func is at work.
_apply_eager = super(Function, _LossEager).apply


def _save_gradient(ctx: Any, inputs: tuple, grad: Tensor) -> None:
    x, *options = inputs
    ctx.save_for_backward(x, grad)
    ctx.reduction = options[_REDUCTION]
    ctx.mark_non_differentiable(grad)
    ctx.set_materialize_grads(False)


library.impl("loss", _LossOp.apply, "Autograd")


def loss(x: Tensor, draw: Draw, *options: Any) -> tuple[Tensor, Tensor | None]:
    """The reduced loss, and a gradient as `_loss` says.

    Where x requires grad, the loss is differentiable and the second result means nothing.
    """
    if not direct(x):
        tensors = draw.tensors(x.device)
        return (_LossOp.apply if transformed() else _loss_op)(x, *tensors, *options)
    x = _unwrapped(x)  # if it leaked from a transform that has ended
    if x.requires_grad and torch.is_grad_enabled():
        return _apply_eager(x, (draw, *options)), None
    return _loss(x, draw, *options)
