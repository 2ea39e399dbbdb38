"""Parameter drift over a list of tensors: one operator for the value, one for the gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import compress
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from gaussreg_fast import checks, native, reference
from gaussreg_fast.dispatch import resolve
from gaussreg_fast.ops._registry import direct, first_order, library, register, transformed

# Numbers that plain torch takes at a time, so that its temporaries do not grow with the tensors.
_PIECE = 1 << 18


def drift_in_place(
    task: str,
    params: Sequence[Tensor],
    base: Sequence[Tensor],
    grads: Sequence[Tensor],
    scales: Sequence[float],
    step: float | Tensor,
    backend: str,
    plain: bool = False,
) -> Tensor:
    """The sum of scale ||param - base||^2, shape (), and with scale * step * (param - base):

    "value" nothing, "gradient" written to grads, "accumulate" added to them, "decay" taken from
    params (the sum is then 0). An empty `base` stands for zeros. Autograd sees nothing of it, but
    the versions of what is written count up. `plain` says that all are known to be contiguous and
    of one device, and none float64.
    """
    with torch.no_grad():
        value = _run(task, params, base, grads, scales, step, backend, plain)
    if task != "value":
        torch.autograd.graph.increment_version(params if task == "decay" else grads)
    return value


def _run(
    task: str,
    params: Sequence[Tensor],
    base: Sequence[Tensor],
    grads: Sequence[Tensor],
    scales: Sequence[float],
    step: float | Tensor,
    backend: str,
    plain: bool,
) -> Tensor:
    backend = resolve(backend, params[0].device)
    rest: Sequence[int] = range(len(params))
    parts = []
    if backend != "torch":
        lists = params, base, grads, scales
        if plain and all(map(Tensor.is_contiguous, grads)):  # which are new, or checked
            taken = [True]
        else:
            others = base or params, grads or params
            taken = [_flat(*three, backend) for three in zip(params, *others, strict=True)]
        rest = []
        if not all(taken):
            rest = [i for i, fits in enumerate(taken) if not fits]
            lists = tuple(list(compress(one, taken)) for one in lists)  # type: ignore[assignment]
        if lists[0]:
            parts.append(_kernel(task, *lists, step, backend))
    for i in rest:
        triple = params[i], base[i] if base else None, grads[i] if grads else None
        parts.append(scales[i] * _torch(task, *triple, scales[i] * step))
    dtype = torch.float32 if plain else _value_dtype(params, base)
    if len(parts) == 1:
        return parts[0].to(dtype)
    return torch.stack([part.to(dtype) for part in parts]).sum()


def _kernel(
    task: str,
    params: Sequence[Tensor],
    base: Sequence[Tensor],
    grads: Sequence[Tensor],
    scales: Sequence[float],
    step: float | Tensor,
    backend: str,
) -> Tensor:
    """The same by the kernels, for tensors that they take."""
    if backend == "native":
        value = native.drift(task, params, base or None, grads, scales, float(step))
        return torch.tensor(value, dtype=torch.float32, device="cpu")
    from gaussreg_fast import launch

    return launch.drift(task, params, base or None, grads, scales, step)


def plain(params: Sequence[Any], base: Sequence[Any]) -> bool:
    """`checks.plain`, the fastest way."""
    return native.plain(params, base) or checks.plain(params, base)


def new_like(params: Sequence[Tensor]) -> list[Tensor]:
    """Memory for the gradients of params, which autograd does not see."""
    with torch._C._AutoDispatchBelowAutograd():  # half the time of each
        return list(map(torch.empty_like, params))


def _flat(p: Tensor, b: Tensor, g: Tensor, backend: str) -> bool:
    """Whether kernels can take a parameter, its base and its gradient as runs of numbers."""
    numbers = native.DRIFT_NUMBERS
    return (
        p.dtype in numbers
        and b.dtype in numbers
        and g.dtype == p.dtype
        and (b.device == p.device or backend != "native")
        and g.device == p.device
        and p.shape == b.shape
        and p.shape == g.shape
        and (
            (p.is_contiguous() and b.is_contiguous() and g.is_contiguous())
            or (p.stride() == b.stride() == g.stride() and _is_dense(p))
        )
    )


def _is_dense(x: Tensor) -> bool:
    """Whether the numbers of x fill a run of memory, in whatever order (channels_last, ...)."""
    size = 1
    for stride, length in sorted(zip(x.stride(), x.shape, strict=True)):
        if length != 1:
            if stride != size:
                return False
            size *= length
    return True


def _torch(
    task: str, param: Tensor, base: Tensor | None, grad: Tensor | None, factor: float | Tensor
) -> Tensor:
    """The same for one tensor in plain torch, piece by piece: ||param - base||^2."""
    exact = torch.float32 if param.device.type == "mps" else torch.float64
    total = torch.zeros((), dtype=exact, device=param.device)
    for p, b, g in _pieces(param, base, grad):
        d = reference.drift(p, b)
        if task == "gradient" and g is not None:
            g.copy_(factor * d)
        elif task == "accumulate" and g is not None:
            g.copy_(g.to(d.dtype) + factor * d)
        elif task == "decay":
            p.copy_(p.to(d.dtype) - factor * d)
        if task != "decay":
            total += d.square().sum()  # d may be the parameter itself
    return total


def _pieces(
    param: Tensor, base: Tensor | None, grad: Tensor | None
) -> Iterator[tuple[Tensor, Tensor | None, Tensor | None]]:
    """Runs of `_PIECE` numbers, where the tensors are such; else rows, or all of a tensor."""
    there = [t for t in (param, base, grad) if t is not None]
    if param.numel() <= _PIECE:
        yield param, base, grad
    elif all(t.stride() == param.stride() for t in there) and _is_dense(param):
        flat = [
            None if t is None else t.detach().as_strided((t.numel(),), (1,))
            for t in (param, base, grad)
        ]
        for i in range(0, param.numel(), _PIECE):
            p, b, g = (None if t is None else t[i : i + _PIECE] for t in flat)
            yield p, b, g  # type: ignore[misc]
    else:
        for i in range(len(param)):
            b, g = (None if t is None else t[i] for t in (base, grad))
            yield from _pieces(param[i], b, g)


def _value_dtype(params: Sequence[Tensor], base: Sequence[Tensor]) -> torch.dtype:
    double = any(t.dtype == torch.float64 for t in (*params, *base))
    return torch.float64 if double else torch.float32


# ---------------------------------------------------------------- operators


def _value(params: list[Tensor], base: list[Tensor], scales: list[float], backend: str) -> Tensor:
    return drift_in_place("value", params, base, [], scales, 0.0, backend)


def _gradient(
    upstream: Tensor, params: list[Tensor], base: list[Tensor], scales: list[float], backend: str
) -> list[Tensor]:
    grads = new_like(params)
    # A parameter's `.data` may have been replaced since it was found to be plain.
    still = plain(params, base)
    drift_in_place("gradient", params, base, grads, scales, 2 * upstream, backend, still)
    return grads


_value_op = register(
    "parameter_drift",
    "(Tensor[] params, Tensor[] base, float[] scales, str backend) -> Tensor",
    _value,
    lambda params, base, scales, backend: params[0].new_empty((), dtype=_value_dtype(params, base)),
)
_gradient_op = register(
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
    """A gradient for each parameter that wants one."""
    if not any(wanted):
        return [None] * len(params)
    if not all(wanted):
        params, base = list(compress(params, wanted)), list(compress(base, wanted))
        scales = list(compress(scales, wanted))
    made = gradient(upstream, params, base, scales, backend)
    if torch.is_grad_enabled():
        made = [first_order(g, p) for g, p in zip(made, params, strict=True)]
    if len(made) == len(wanted):
        return [*made]
    found = iter(made)
    return [next(found) if want else None for want in wanted]


class _DriftOp(Function):
    """Autograd of the operator, for compiled code and torch.func."""

    generate_vmap_rule = True

    @staticmethod
    def forward(count: int, scales: list[float], backend: str, *tensors: Tensor) -> Tensor:
        with torch._C._AutoDispatchBelowAutograd():
            return _value_op(list(tensors[:count]), list(tensors[count:]), scales, backend)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.options = inputs[:3]
        ctx.save_for_backward(*inputs[3:])

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        count, scales, backend = ctx.options
        tensors, wanted = ctx.saved_tensors, ctx.needs_input_grad[3 : 3 + count]
        params, base = tensors[:count], tensors[count:]
        grads = _gradients(_gradient_op, upstream[0], params, base, scales, backend, wanted)
        return (None, None, None, *grads, *[None] * len(base))


class _DriftEager(Function):
    """The same for eager calls; the base, which has no gradient, is no input of its own."""

    @staticmethod
    def forward(
        ctx: Any,
        base: list[Tensor],
        scales: list[float],
        backend: str,
        plain: bool,
        *params: Tensor,
    ) -> Tensor:
        ctx.options = scales, backend
        ctx.save_for_backward(*params, *base)
        return drift_in_place("value", params, base, [], scales, 0.0, backend, plain)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        tensors, wanted = ctx.saved_tensors, ctx.needs_input_grad[4:]
        params, base = tensors[: len(wanted)], tensors[len(wanted) :]
        scales, backend = ctx.options
        grads = _gradients(_gradient, upstream[0], params, base, scales, backend, wanted)
        return (None, None, None, None, *grads)


def _autograd(
    params: list[Tensor], base: list[Tensor], scales: list[float], backend: str
) -> Tensor:
    return _DriftOp.apply(len(params), scales, backend, *params, *base)


library.impl("parameter_drift", _autograd, "Autograd")


def ordinary(tensors: Sequence[Tensor]) -> bool:
    """Whether all are ordinary tensors in ordinary eager code: see `direct`."""
    return direct(tensors[0]) and checks.ORDINARY.issuperset(map(type, tensors))


def drift(
    params: Sequence[Tensor],
    base: Sequence[Tensor],
    scales: Sequence[float],
    backend: str,
    plain: bool = False,
) -> Tensor:
    """The sum of scale ||param - base||^2, shape (), differentiable by params.

    An empty `base` stands for zeros. Of any sizes, shapes alike; float32, or float64 where a tensor
    is that. For `plain` see `drift_in_place`.
    """
    params, base, scales = list(params), list(base), list(scales)
    if not (direct(params[0]) if plain else ordinary((*params, *base))):
        return (_autograd if transformed() else _value_op)(params, base, scales, backend)
    if torch.is_grad_enabled() and any(p.requires_grad for p in params):
        return _DriftEager.apply(base, scales, backend, plain, *params)
    return drift_in_place("value", params, base, [], scales, 0.0, backend, plain)


def lora_product(left: Sequence[Tensor], right: Sequence[Tensor]) -> Tensor:
    """The sum of ||B A||_F^2 over factors A (r, ...) and B (m, r, ...), by autograd of torch."""
    dtype = _value_dtype(left, right)
    device = left[0].device
    with torch.autocast(device.type, enabled=False):  # the products are float32's at least
        return torch.stack(
            [
                reference.lora_product(a.flatten(1).to(dtype), b.flatten(1).to(dtype))
                for a, b in zip(left, right, strict=True)
            ]
        ).sum()
