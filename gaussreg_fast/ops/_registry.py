"""Registration of operators, and what all of them share."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function, forward_ad

library = torch.library.Library("gaussreg_fast", "DEF")


def register(name: str, schema: str, impl: Callable, fake: Callable) -> Any:
    """Defines an operator; returns its overload."""
    library.define(name + schema)
    library.impl(name, impl, "CompositeExplicitAutograd")
    torch.library.register_fake(f"gaussreg_fast::{name}", fake, lib=library)
    return getattr(torch.ops.gaussreg_fast, name).default


def transformed() -> bool:
    """Whether a torch.func transform (grad, vmap, jvp, ...) is at work."""
    return torch._C._are_functorch_transforms_active()


def direct(x: Tensor) -> bool:
    """Whether x is an ordinary tensor in ordinary eager code, that nobody records or fakes."""
    return (
        not torch.compiler.is_compiling()
        and torch._C._len_torch_dispatch_stack() == 0
        and torch._C._get_tracing_state() is None
        and type(x) in (Tensor, torch.nn.Parameter)
        and forward_ad._current_level < 0
        and not transformed()
    )


def enter(
    x: Tensor,
    options: tuple[Any, ...],
    impl: Callable,
    op: Callable,
    function: type[Function],
    eager: Callable,
) -> Any:
    """Calls an operator through the cheapest entrance that is right for x.

    Args:
        x: the tensor that gradients are for.
        options: the operator's other arguments.
        impl: its implementation.
        op: its registered overload.
        function: the autograd of the overload.
        eager: the same around the implementation, called as that is.
    """
    if not direct(x):
        return (function.apply if transformed() else op)(x, *options)
    if x.requires_grad and torch.is_grad_enabled():
        return eager(x, *options)
    return impl(x, *options)


def as_rows(x: Tensor) -> Tensor:
    """(B, *latent) of any float type -> (B, D) in the type it is computed in."""
    rows = x.reshape(x.shape[0], math.prod(x.shape[1:])).contiguous()
    return rows if x.dtype == torch.float64 else rows.float()


def native_takes(x: Tensor, backend: str) -> bool:
    """Whether the compiled kernels do it: they compute in float32, float64 is left to torch."""
    return backend == "native" and x.dtype != torch.float64


def result_dtype(x: Tensor) -> torch.dtype:
    """Of losses and statistics: what they are computed in."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


class _NoDoubleBackward(Function):
    """Passes a first-order gradient on; raises where a second order is asked of it."""

    generate_vmap_rule = True

    @staticmethod
    def forward(grad: Tensor, x: Tensor) -> Tensor:
        return grad.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        raise RuntimeError("double backward through the losses of gaussreg_fast is not supported")


def first_order(grad: Tensor, x: Tensor) -> Tensor:
    """The gradient by x, tied to x where a graph of it is wanted (create_graph=True).

    Without the tie a second derivative would silently come out as zero.
    """
    return _NoDoubleBackward.apply(grad, x) if torch.is_grad_enabled() else grad


def only_first(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
    """What a backward returns: a gradient by x, the first input, and none by the options."""
    return (grad, *[None] * (len(ctx.needs_input_grad) - 1))
