"""The one class behind all operators: registration, autograd, and three entrances."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from gaussreg_fast._torch_internals import below_autograd, direct, transformed

_library = torch.library.Library("gaussreg_fast", "DEF")


def _same(*args: Any) -> tuple[Any, ...]:
    return args


def _keep_nothing(ctx: Any, args: tuple, output: Any) -> None:
    pass


class Operator:
    """A function of tensors that torch knows as `torch.ops.gaussreg_fast.<name>`.

    Args:
        name: of the operator.
        schema: its arguments and results, as torch.library writes them.
        compute: the function. Its arguments may be richer than the schema's.
        fake: of the schema's arguments: results without numbers.
        backward: `(ctx, *upstream) -> gradients` by the leading tensors; None: no autograd.
        save: `(ctx, args, output)` keeps for `backward` what it needs; args are `compute`'s.
        tensors: how many leading arguments are tensors that gradients are for.
        flatten: the arguments of `compute` as the schema has them.
        restore: the inverse.
    """

    def __init__(
        self,
        name: str,
        schema: str,
        compute: Callable,
        fake: Callable,
        *,
        backward: Callable | None = None,
        save: Callable = _keep_nothing,
        tensors: int = 1,
        flatten: Callable = _same,
        restore: Callable = _same,
    ):
        self.compute, self._backward, self._save, self.tensors = compute, backward, save, tensors
        self._flatten, self._restore = flatten, restore
        self.op = self._registered(name, schema, fake)
        self.through: Callable = self.op  # where a transform of torch.func is at work
        if backward is not None:
            below = below_autograd(self.op)
            if below is None:  # the same operator, without an autograd kernel
                below = self._registered(f"{name}_below_autograd", schema, fake)
            self.through = self._through(self._function(below))
            self._eager = self._eager_function().apply
            _library.impl(name, self.through, "Autograd")

    def _through(self, function: type[Function]) -> Callable:
        """The autograd function as a call with the schema's arguments."""
        return function.apply

    def _registered(self, name: str, schema: str, fake: Callable) -> Any:
        """Defines an operator; returns its overload."""
        _library.define(name + schema)
        _library.impl(name, self._of_flat, "CompositeExplicitAutograd")
        torch.library.register_fake(f"gaussreg_fast::{name}", fake, lib=_library)
        return getattr(torch.ops.gaussreg_fast, name).default

    def _of_flat(self, *flat: Any) -> Any:
        """`compute` of the schema's arguments, with results as the schema has them."""
        return self.compute(*self._restore(*flat))

    def __call__(self, *args: Any) -> Any:
        """Calls it through the cheapest entrance that is right for its tensors."""
        leading = args[: self.tensors]
        if not all(map(direct, leading)):
            return self._traced(*args)
        if self._backward and torch.is_grad_enabled() and any(x.requires_grad for x in leading):
            return self._eager(*args)
        return self.compute(*args)

    def _traced(self, *args: Any) -> Any:
        """The entrances for compiled code, fake tensors and the like, and for torch.func."""
        return (self.through if transformed() else self.op)(*self._flatten(*args))

    def _function(self, below: Callable) -> type[Function]:
        """Autograd of the operator, for compiled code and torch.func."""
        operator = self

        class Autograd(Function):
            generate_vmap_rule = True

            @staticmethod
            def forward(*flat: Any) -> Any:
                return below(*flat)

            @staticmethod
            def setup_context(ctx: Any, inputs: tuple, output: Any) -> None:
                operator._save(ctx, operator._restore(*inputs), output)

            @staticmethod
            def backward(ctx: Any, *upstream: Any) -> Any:
                return padded(ctx, operator._backward(ctx, *upstream))  # type: ignore[misc]

        return Autograd

    def _eager_function(self) -> type[Function]:
        """The same around `compute`, for eager calls: no trip through the dispatcher."""
        operator = self

        class Eager(Function):
            @staticmethod
            def forward(ctx: Any, *args: Any) -> Any:
                output = operator.compute(*args)
                operator._save(ctx, args, output)
                return output

            @staticmethod
            def backward(ctx: Any, *upstream: Any) -> Any:
                return padded(ctx, operator._backward(ctx, *upstream))  # type: ignore[misc]

        return Eager


def padded(ctx: Any, grads: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    """Gradients by the leading inputs, and none by the others."""
    return (*grads, *[None] * (len(ctx.needs_input_grad) - len(grads)))


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
