"""Path KL: its value, its value with the gradient in one pass, and its backward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gaussreg_fast import _path_checks, checks, reference
from gaussreg_fast.backends import choose
from gaussreg_fast.backends.torch import path_rows
from gaussreg_fast.ops._operator import Operator


def _shapes(
    dmu: Tensor, sigma: Tensor, gradient: bool, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Return empty tensors of the results' shapes and dtypes."""
    steps, batch = dmu.shape[:2]
    dtype = checks.result_dtype(dmu)
    grad = dmu.new_empty(dmu.shape if gradient else 0)
    return dmu.new_empty(batch, dtype=dtype), dmu.new_empty((steps, batch), dtype=dtype), grad


def _compute(
    dmu: Tensor, sigma: Tensor, gradient: bool, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Return values (B,), their terms (T, B), and the gradient of the values' sum.

    Without `gradient` the gradient is an empty tensor.
    """
    _path_checks.positive("sigma", sigma)
    kernels = choose(backend, dmu, "dmu")
    if dmu.numel() == 0:
        kl, costs, grad = _shapes(dmu, sigma, gradient, backend)
        return kl.zero_(), costs.zero_(), grad
    with torch.no_grad():
        kl, costs, grad = kernels.path_kl(dmu, sigma, gradient=gradient)
    return kl, costs, dmu.new_empty(0) if grad is None else grad


def _pullback(dmu: Tensor, sigma: Tensor, upstream: Tensor, backend: str) -> Tensor:
    """Return the gradient by dmu for upstream gradients (B,)."""
    kernels = choose(backend, dmu, "dmu")
    if dmu.numel() == 0:
        return dmu.new_zeros(dmu.shape)
    with torch.no_grad():
        return kernels.path_kl_pullback(dmu, sigma, upstream)


_pullback_op = Operator(
    "path_kl_backward",
    "(Tensor dmu, Tensor sigma, Tensor upstream, str backend) -> Tensor",
    _pullback,
    lambda dmu, sigma, upstream, backend: dmu.new_empty(dmu.shape),
    tensors=3,
)


def _save(ctx: Any, args: tuple, output: tuple[Tensor, Tensor, Tensor]) -> None:
    dmu, sigma, _, ctx.backend = args
    _, costs, grad = output
    ctx.save_for_backward(dmu, sigma, costs)
    ctx.mark_non_differentiable(costs, grad)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, upstream: Tensor | None, *_: Any) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients by dmu and sigma; if they are to be differentiated, in plain torch."""
    dmu, sigma, costs = ctx.saved_tensors
    if upstream is None:
        return None, None
    if torch.is_grad_enabled():
        return _recorded(dmu, sigma, upstream)
    by_dmu, by_sigma, *_ = ctx.needs_input_grad
    grad_dmu = _pullback_op(dmu, sigma, upstream, ctx.backend) if by_dmu else None
    if not by_sigma:
        return grad_dmu, None
    grad_sigma = reference.path_kl_by_sigma(costs, sigma.to(costs.dtype), upstream)
    return grad_dmu, grad_sigma.to(sigma.dtype)


def _recorded(dmu: Tensor, sigma: Tensor, upstream: Tensor) -> tuple[Tensor, Tensor]:
    """Return the same gradients, computed by operations that can be differentiated again."""
    rows, deviations = path_rows(dmu, sigma)
    grad_dmu = reference.path_kl_pullback(rows, deviations, upstream)
    _, costs = reference.path_kl(rows, deviations)
    grad_sigma = reference.path_kl_by_sigma(costs, deviations, upstream)
    return grad_dmu.reshape(dmu.shape).to(dmu.dtype), grad_sigma.to(sigma.dtype)


path_kl = Operator(
    "path_kl",
    "(Tensor dmu, Tensor sigma, bool gradient, str backend) -> (Tensor, Tensor, Tensor)",
    _compute,
    _shapes,
    backward=_backward,
    save=_save,
    tensors=2,
)
