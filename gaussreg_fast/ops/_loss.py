"""The loss with its gradient: the one operator behind every public loss of x."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from gaussreg_fast import checks
from gaussreg_fast._torch_internals import (
    direct,
    graph_is_kept,
    quick_apply,
    saved_tensor_hooks,
    unwrapped,
    vmapped_by_autograd,
)
from gaussreg_fast.backends import choose
from gaussreg_fast.ops._operator import Operator, first_order
from gaussreg_fast.ops._permutation import prepare
from gaussreg_fast.spec import Draw, Gradient, LossSpec, draw_from_tensors

# In Python before 3.12 looking up an enum's member costs more than reading a global.
_NO, _KEPT = Gradient.NONE, Gradient.KEPT
_Args = tuple[Tensor, Draw, LossSpec, Gradient, str]


def _compute(
    x: Tensor, draw: Draw, spec: LossSpec, gradient: Gradient, backend: str
) -> tuple[Tensor, Tensor | None]:
    """Return the reduced loss, and a gradient (None for `Gradient.NONE`).

    A gradient of float16 latents is kept in float32, because in float16 it would underflow before
    a gradient scaler's factor reaches it.
    """
    kernels = choose(backend, x)
    batch, reduction = x.shape[0], spec.reduction
    if batch == 0:
        return _results(x, spec, gradient, x.new_zeros)
    dtype = _gradient_dtype(x, gradient)
    scale = 1 / batch if reduction == "mean" else 1.0
    # No `no_grad` here, because it costs as much as a small kernel: backends that need it have it.
    if x.dtype == torch.float64:
        draw = prepare(draw, x, backend)
    loss, grad = kernels.loss(x, draw, spec, gradient=dtype, scale=scale)
    if reduction != "none" and loss.dim():
        loss = loss.view(()) if batch == 1 else loss.mean() if reduction == "mean" else loss.sum()
    return loss, grad


def _gradient_dtype(x: Tensor, gradient: Gradient) -> torch.dtype | None:
    if gradient is _NO:
        return None
    return torch.float32 if gradient is _KEPT and x.dtype == torch.float16 else x.dtype


def _results(
    x: Tensor, spec: LossSpec, gradient: Gradient, new: Any
) -> tuple[Tensor, Tensor | None]:
    """Return tensors made by `new`, of the shapes and dtypes of `_compute`'s results."""
    loss = new((x.shape[0],) if spec.reduction == "none" else (), dtype=checks.result_dtype(x))
    dtype = _gradient_dtype(x, gradient)
    return loss, None if dtype is None else new(x.shape, dtype=dtype)


def _tensors(loss: Tensor, grad: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the results with an empty tensor for None, which an operator cannot return."""
    return loss, loss.new_empty(0) if grad is None else grad


def _flatten(x: Tensor, draw: Draw, spec: LossSpec, gradient: Gradient, backend: str) -> tuple:
    return x, *draw.tensors(x.device), *spec, gradient.value, backend


def _restore(
    x: Tensor,
    seed: Tensor | None,
    index: Tensor | None,
    per_sample: bool,
    orders: list[int],
    form: str,
    power_weight: float,
    block_size: int,
    target: float,
    statistic: str,
    reduction: str,
    gradient: str,
    backend: str,
) -> _Args:
    spec = LossSpec(tuple(orders), form, power_weight, block_size, target, statistic, reduction)
    return x, draw_from_tensors(seed, index, per_sample), spec, Gradient(gradient), backend


def _fake(*flat: Any) -> tuple[Tensor, Tensor]:
    x, _, spec, gradient, _ = _restore(*flat)
    return _tensors(*_results(x, spec, gradient, x.new_empty))


def _save(ctx: Any, args: _Args, output: tuple[Tensor, Tensor]) -> None:
    x, _, spec, _, _ = args
    ctx.save_for_backward(x, output[1])
    ctx.reduction = spec.reduction
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, upstream: Tensor | None, _: Any) -> tuple[Tensor | None]:
    x, grad = ctx.saved_tensors
    if upstream is None:
        return (None,)
    return (first_order(_scale(x, grad, upstream, ctx.reduction, False), x),)


def _last_use(upstream: Tensor) -> bool:
    """Return whether the backward that runs now is not recorded and frees the saved tensors."""
    if torch.is_grad_enabled() or graph_is_kept():
        return False
    return direct(upstream) and not vmapped_by_autograd(upstream)


def _scale(x: Tensor, grad: Tensor, upstream: Tensor, reduction: str, last: bool) -> Tensor:
    """Return the kept gradient times the upstream one, in x's dtype.

    In its `last` use the kept gradient is overwritten, so that backward allocates no memory.
    """
    if reduction == "none":
        upstream = upstream.reshape(grad.shape[0], *[1] * (grad.dim() - 1))
    scaled = grad.mul_(upstream) if last else grad * upstream
    return scaled if scaled.dtype == x.dtype else scaled.to(x.dtype)


def _scales_by_one(upstream: Tensor) -> bool:
    """Return whether the upstream gradient is known to be 1; only on the CPU a look is cheap."""
    return upstream.is_cpu and upstream.dim() == 0 and upstream.item() == 1


class _LossEager(Function):
    """Autograd of eager calls in the fewest steps, at a third of the cost of the operator's.

    The results are one argument, because autograd inspects each argument, forward and backward.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, results: tuple[Tensor, Tensor], reduction: str) -> Tensor:
        loss, grad = results
        ctx.save_for_backward(x, grad)
        ctx.reduction = reduction
        ctx.same_type = grad.dtype == x.dtype
        # A hook would receive the saved gradient, which then must not be overwritten.
        ctx.own = not saved_tensor_hooks(True)
        return loss

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        x, grad = ctx.saved_tensors
        last = ctx.own and _last_use(upstream[0])
        if last and ctx.same_type and _scales_by_one(upstream[0]):
            return grad, None, None
        return first_order(_scale(x, grad, upstream[0], ctx.reduction, last), x), None, None


_apply_eager = quick_apply(_LossEager)


def record(x: Tensor, loss: Tensor, grad: Tensor, reduction: str = "mean") -> Tensor:
    """Return the loss with its graph, for a gradient that was kept for backward."""
    return _apply_eager(x, (loss, grad), reduction)


class _LossOperator(Operator):
    """The loss. Forward makes the gradient, backward scales it, and in its last use in place.

    If x requires grad, the loss is differentiable and the second result must not be used.
    """

    def _of_flat(self, *flat: Any) -> tuple[Tensor, Tensor]:
        return _tensors(*_compute(*_restore(*flat)))

    def __call__(self, x: Tensor, *options: Any) -> tuple[Tensor, Tensor | None]:
        if not direct(x):
            return self._traced(x, *options)
        x = unwrapped(x)
        if x.requires_grad and torch.is_grad_enabled():
            value, grad = _compute(x.detach(), *options)
            assert grad is not None
            return record(x, value, grad, options[1].reduction), None
        return _compute(x, *options)


loss = _LossOperator(
    "loss",
    "(Tensor x, Tensor? seed, Tensor? index, bool per_sample, int[] orders, str form, "
    "float power_weight, int block_size, float target, str statistic, str reduction, "
    "str gradient, str backend) -> (Tensor, Tensor)",
    _compute,
    _fake,
    backward=_backward,
    save=_save,
    flatten=_flatten,
    restore=_restore,
)
