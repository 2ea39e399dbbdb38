"""Parameter drift over a list of tensors: one operator for the value, one for the gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import compress
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from gaussreg_fast import _precision, checks, reference
from gaussreg_fast._torch_internals import direct, writable
from gaussreg_fast.backends.lists import uniform, value_dtype
from gaussreg_fast.ops._drift_run import drift_in_place, new_like
from gaussreg_fast.ops._operator import Operator, first_order
from gaussreg_fast.spec import DriftTask


def _value(params: list[Tensor], base: list[Tensor], scales: list[float], backend: str) -> Tensor:
    return drift_in_place(DriftTask.VALUE, params, base, [], scales, 0.0, backend)


def _gradient(
    upstream: Tensor, params: list[Tensor], base: list[Tensor], scales: list[float], backend: str
) -> list[Tensor]:
    grads = new_like(params)
    # Not the answer of the forward pass: a parameter's `.data` may have been replaced since.
    alike = uniform(params, base)
    drift_in_place(DriftTask.GRADIENT, params, base, grads, scales, 2 * upstream, backend, alike)
    return grads


_gradient_op = Operator(
    "parameter_drift_gradient",
    "(Tensor upstream, Tensor[] params, Tensor[] base, float[] scales, str backend) -> Tensor[]",
    _gradient,
    lambda upstream, params, base, scales, backend: [torch.empty_like(p) for p in params],
)


def _gradients(
    gradient: Callable[..., list[Tensor]],
    upstream: Tensor,
    params: Sequence[Tensor],
    base: Sequence[Tensor],
    scales: Sequence[float],
    backend: str,
    wanted: Sequence[bool],
) -> list[Tensor | None]:
    """Return a gradient for each parameter that needs one, None for the others."""
    if not any(wanted):
        return [None] * len(params)
    if not all(wanted):
        params, base = list(compress(params, wanted)), list(compress(base, wanted))
        scales = list(compress(scales, wanted))
    grads = gradient(upstream, params, base, scales, backend)
    if torch.is_grad_enabled():
        grads = [first_order(g, p) for g, p in zip(grads, params, strict=True)]
    if len(grads) == len(wanted):
        return [*grads]
    remaining = iter(grads)
    return [next(remaining) if want else None for want in wanted]


class _DriftOperator(Operator):
    """An operator of lists of tensors, which autograd needs as separate inputs.

    For compiled code and torch.func the inputs of its function are the number of parameters, the
    options and then all tensors. For eager calls the base, which has no gradient, is an option.
    """

    def __call__(
        self,
        params: list[Tensor],
        base: list[Tensor],
        scales: list[float],
        backend: str,
        uniform: bool = False,
    ) -> Tensor:
        if not (direct(params[0]) if uniform else ordinary((*params, *base))):
            return self._traced(params, base, scales, backend)
        if torch.is_grad_enabled() and any(p.requires_grad for p in params):
            return self._eager(base, scales, backend, uniform, *params)
        return drift_in_place(DriftTask.VALUE, params, base, [], scales, 0.0, backend, uniform)

    def _through(self, function: type[Function]) -> Callable:
        def through(
            params: list[Tensor], base: list[Tensor], scales: list[float], backend: str
        ) -> Tensor:
            return function.apply(len(params), scales, backend, *params, *base)

        return through

    def _function(self, below: Callable) -> type[Function]:
        class Autograd(Function):
            generate_vmap_rule = True

            @staticmethod
            def forward(count: int, scales: list[float], backend: str, *tensors: Tensor) -> Tensor:
                return below(list(tensors[:count]), list(tensors[count:]), scales, backend)

            @staticmethod
            def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
                ctx.options = inputs[:3]
                ctx.save_for_backward(*inputs[3:])

            @staticmethod
            def backward(ctx: Any, *upstream: Tensor) -> Any:
                count, scales, backend = ctx.options
                tensors, wanted = ctx.saved_tensors, ctx.needs_input_grad[3 : 3 + count]
                params, base = tensors[:count], tensors[count:]
                call = _gradient_op.op
                grads = _gradients(call, upstream[0], params, base, scales, backend, wanted)
                return (None, None, None, *grads, *[None] * len(base))

        return Autograd

    def _eager_function(self) -> type[Function]:
        class Eager(Function):
            @staticmethod
            def forward(
                ctx: Any,
                base: list[Tensor],
                scales: list[float],
                backend: str,
                uniform: bool,
                *params: Tensor,
            ) -> Tensor:
                ctx.options = scales, backend
                ctx.save_for_backward(*params, *base)
                return drift_in_place(
                    DriftTask.VALUE, params, base, [], scales, 0.0, backend, uniform
                )

            @staticmethod
            def backward(ctx: Any, *upstream: Tensor) -> Any:
                tensors, wanted = ctx.saved_tensors, ctx.needs_input_grad[4:]
                params, base = tensors[: len(wanted)], tensors[len(wanted) :]
                scales, backend = ctx.options
                grads = _gradients(_gradient, upstream[0], params, base, scales, backend, wanted)
                return (None, None, None, None, *grads)

        return Eager


_drift_op = _DriftOperator(
    "parameter_drift",
    "(Tensor[] params, Tensor[] base, float[] scales, str backend) -> Tensor",
    _value,
    lambda params, base, scales, backend: params[0].new_empty((), dtype=value_dtype(params, base)),
    backward=_gradients,
)


def ordinary(tensors: Sequence[Tensor]) -> bool:
    """Return whether all are ordinary tensors in eager code: see `writable`."""
    return writable(tensors[0]) and checks.ORDINARY.issuperset(map(type, tensors))


def drift(
    params: Sequence[Tensor],
    base: Sequence[Tensor],
    scales: Sequence[float],
    backend: str,
    uniform: bool = False,
) -> Tensor:
    """Return the sum of scale ||param - base||^2, shape (), differentiable by params.

    A parameter and its base have one shape; an empty `base` stands for zeros. The sum is float32,
    or float64 if any tensor is. For `uniform` see `drift_in_place`.
    """
    return _drift_op(list(params), list(base), list(scales), backend, uniform)


def lora_product(left: Sequence[Tensor], right: Sequence[Tensor]) -> Tensor:
    """Return the sum of ||B A||_F^2 over factors A (r, ...) and B (m, r, ...), in plain torch."""
    dtype = value_dtype(left, right)
    device = left[0].device
    exact = _precision.product_dtype(dtype, device)
    with _precision.no_autocast(device):
        parts = [
            reference.lora_product(a.flatten(1).to(exact), b.flatten(1).to(exact))
            for a, b in zip(left, right, strict=True)
        ]
        return torch.stack(parts).sum().to(dtype)
