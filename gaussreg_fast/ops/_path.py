"""Path KL: its value, its value with the gradient in one pass, and its backward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from gaussreg_fast import checks, native, reference
from gaussreg_fast.dispatch import resolve
from gaussreg_fast.ops._registry import (
    direct,
    library,
    native_takes,
    register,
    result_dtype,
    transformed,
)


def _path_kl(
    dmu: Tensor, sigma: Tensor, gradient: bool, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Values (B,), their terms (T, B), and the gradient of the values' sum, empty if unwanted."""
    checks.positive("sigma", sigma)
    backend = resolve(backend, dmu.device, dmu.dtype)
    kl, costs, grad = _path_kl_fake(dmu, sigma, gradient, backend)
    if dmu.numel() == 0:
        return kl.zero_(), costs.zero_(), grad
    out = grad if gradient else None
    with torch.no_grad():
        if native_takes(dmu, backend):
            out = native.path_kl(dmu, sigma, kl=kl, costs=costs, gradient=gradient)
            return kl, costs, grad if out is None else out
        if backend == "triton":
            from gaussreg_fast import launch

            launch.path_kl(dmu, sigma, kl=kl, costs=costs, grad=out)
            return kl, costs, grad
        rows, deviations = _rows(dmu, sigma)
        kl, costs = reference.path_kl(rows, deviations)
        if gradient:
            pullback = reference.path_kl_pullback(rows, deviations, torch.ones_like(kl))
            grad = pullback.reshape(dmu.shape).to(dmu.dtype)
    return kl, costs, grad


def _rows(dmu: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """dmu as (T, B, D), and sigma, in the type they are computed in."""
    dtype = result_dtype(dmu)
    return dmu.reshape(*dmu.shape[:2], -1).to(dtype), sigma.to(dtype)


def _path_kl_fake(
    dmu: Tensor, sigma: Tensor, gradient: bool, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    steps, batch = dmu.shape[:2]
    dtype = result_dtype(dmu)
    grad = dmu.new_empty(dmu.shape if gradient else 0)
    return dmu.new_empty(batch, dtype=dtype), dmu.new_empty((steps, batch), dtype=dtype), grad


_path_kl_op = register(
    "path_kl",
    "(Tensor dmu, Tensor sigma, bool gradient, str backend) -> (Tensor, Tensor, Tensor)",
    _path_kl,
    _path_kl_fake,
)


def _backward(dmu: Tensor, sigma: Tensor, upstream: Tensor, backend: str) -> Tensor:
    """The gradient by dmu for upstream gradients (B,)."""
    backend = resolve(backend, dmu.device, dmu.dtype)
    if dmu.numel() == 0:
        return dmu.new_zeros(dmu.shape)
    with torch.no_grad():
        if native_takes(dmu, backend):
            grad = native.path_kl(dmu, sigma, upstream=upstream, gradient=True)
            assert grad is not None
            return grad
        if backend == "triton":
            from gaussreg_fast import launch

            grad = dmu.new_empty(dmu.shape)
            launch.path_kl(dmu, sigma, upstream=upstream, grad=grad)
            return grad
        grad = reference.path_kl_pullback(*_rows(dmu, sigma), upstream)
    return grad.reshape(dmu.shape).to(dmu.dtype)


_backward_op = register(
    "path_kl_backward",
    "(Tensor dmu, Tensor sigma, Tensor upstream, str backend) -> Tensor",
    _backward,
    lambda dmu, sigma, upstream, backend: dmu.new_empty(dmu.shape),
)


class _PathOp(Function):
    """Autograd by dmu and sigma; twice differentiable, in plain torch from the second time on."""

    generate_vmap_rule = True

    @staticmethod
    def forward(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
        with torch._C._AutoDispatchBelowAutograd():
            return _path_kl_op(*args)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor, Tensor]) -> None:
        dmu, sigma, _, ctx.backend = inputs
        _, costs, grad = output
        ctx.save_for_backward(dmu, sigma, costs)
        ctx.mark_non_differentiable(costs, grad)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor | None) -> Any:
        dmu, sigma, costs = ctx.saved_tensors
        if upstream[0] is None:
            return None, None, None, None
        by_dmu, by_sigma, *_ = ctx.needs_input_grad
        pull = _recorded if torch.is_grad_enabled() else _unrecorded
        return *pull(dmu, sigma, costs, upstream[0], by_dmu, by_sigma, ctx.backend), None, None


def _unrecorded(
    dmu: Tensor,
    sigma: Tensor,
    costs: Tensor,
    upstream: Tensor,
    by_dmu: bool,
    by_sigma: bool,
    backend: str,
) -> tuple[Tensor | None, Tensor | None]:
    call = _backward if direct(dmu) and direct(upstream) else _backward_op
    grad_dmu = call(dmu, sigma, upstream, backend) if by_dmu else None
    if not by_sigma:
        return grad_dmu, None
    grad_sigma = reference.path_kl_by_sigma(costs, sigma.to(costs.dtype), upstream)
    return grad_dmu, grad_sigma.to(sigma.dtype)


def _recorded(
    dmu: Tensor, sigma: Tensor, costs: Tensor, upstream: Tensor, *rest: Any
) -> tuple[Tensor, Tensor]:
    """The same in operations that can be differentiated again."""
    rows, deviations = _rows(dmu, sigma)
    grad_dmu = reference.path_kl_pullback(rows, deviations, upstream)
    _, costs = reference.path_kl(rows, deviations)
    grad_sigma = reference.path_kl_by_sigma(costs, deviations, upstream)
    return grad_dmu.reshape(dmu.shape).to(dmu.dtype), grad_sigma.to(sigma.dtype)


class _PathEager(Function):
    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
        output = _path_kl(*args)
        _PathOp.setup_context(ctx, args, output)
        return output

    backward = _PathOp.backward


library.impl("path_kl", _PathOp.apply, "Autograd")


def path_kl(
    dmu: Tensor, sigma: Tensor, gradient: bool, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Values, terms and a gradient, see `_path_kl`; the values are differentiable by both."""
    if not (direct(dmu) and direct(sigma)):
        return (_PathOp.apply if transformed() else _path_kl_op)(dmu, sigma, gradient, backend)
    if torch.is_grad_enabled() and (dmu.requires_grad or sigma.requires_grad):
        return _PathEager.apply(dmu, sigma, gradient, backend)
    return _path_kl(dmu, sigma, gradient, backend)
