"""The class of all operators: registration, autograd, and three entrances."""

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
        name: name of the operator.
        schema: its arguments and results in the notation of torch.library.
        compute: the implementation. Its arguments may be of richer types than the schema's.
        fake: `(*schema's arguments) -> results` without numbers, for tracers.
        backward: `(ctx, *upstream) -> gradients` by the leading tensors; None for no autograd.
        save: `(ctx, args, output)` keeps what `backward` needs; args are those of `compute`.
        tensors: number of leading arguments that are tensors and may have gradients.
        flatten: makes the schema's arguments from those of `compute`.
        restore: the inverse of `flatten`.
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
        self.op = self._register(name, schema, fake)
        self.through: Callable = self.op  # for calls under a transform of torch.func
        if backward is not None:
            below = below_autograd(self.op)
            if below is None:  # register it once more, without an autograd kernel
                below = self._register(f"{name}_below_autograd", schema, fake)
            self.through = self._through(self._function(below))
            self._eager = self._eager_function().apply
            _library.impl(name, self.through, "Autograd")

    def _through(self, function: type[Function]) -> Callable:
        """Return a call of the autograd function with the schema's arguments."""
        return function.apply

    def _register(self, name: str, schema: str, fake: Callable) -> Any:
        """Define an operator, and return its overload."""
        _library.define(name + schema)
        _library.impl(name, self._of_flat, "CompositeExplicitAutograd")
        torch.library.register_fake(f"gaussreg_fast::{name}", fake, lib=_library)
        return getattr(torch.ops.gaussreg_fast, name).default

    def _of_flat(self, *flat: Any) -> Any:
        """Call `compute` with the schema's arguments; the results are the schema's, too."""
        return self.compute(*self._restore(*flat))

    def __call__(self, *args: Any) -> Any:
        """Call the operator through the cheapest entrance that is right for its tensors."""
        leading = args[: self.tensors]
        if not all(map(direct, leading)):
            return self._traced(*args)
        if self._backward and torch.is_grad_enabled() and any(x.requires_grad for x in leading):
            return self._eager(*args)
        return self.compute(*args)

    def _traced(self, *args: Any) -> Any:
        """Call the operator through the entrance for torch.func, or the one for other tracers."""
        return (self.through if transformed() else self.op)(*self._flatten(*args))

    def _function(self, below: Callable) -> type[Function]:
        """Return the autograd of the operator, for compiled code and torch.func."""
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
                return pad_with_none(ctx, operator._backward(ctx, *upstream))  # type: ignore[misc]

        return Autograd

    def _eager_function(self) -> type[Function]:
        """Return the autograd of `compute`, for eager calls: they skip the dispatcher."""
        operator = self

        class Eager(Function):
            @staticmethod
            def forward(ctx: Any, *args: Any) -> Any:
                output = operator.compute(*args)
                operator._save(ctx, args, output)
                return output

            @staticmethod
            def backward(ctx: Any, *upstream: Any) -> Any:
                return pad_with_none(ctx, operator._backward(ctx, *upstream))  # type: ignore[misc]

        return Eager


def pad_with_none(ctx: Any, grads: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    """Return the gradients by the leading inputs, and None for each of the other inputs."""
    return (*grads, *[None] * (len(ctx.needs_input_grad) - len(grads)))


class _NoDoubleBackward(Function):
    """Returns a first-order gradient unchanged, and raises if it is differentiated again."""

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
    """Return the gradient by x; if a graph of it is recorded, tie it to x (create_graph=True).

    Without the tie a second derivative would silently be zero.
    """
    return _NoDoubleBackward.apply(grad, x) if torch.is_grad_enabled() else grad
