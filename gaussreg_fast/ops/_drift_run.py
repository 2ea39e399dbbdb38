"""Parameter drift over a list of tensors, written in place: by the kernels, or in plain torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import compress
from typing import Any

import torch
from torch import Tensor

from gaussreg_fast import checks, native, reference
from gaussreg_fast.dispatch import resolve

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
        value = _parts(task, (params, base, grads, scales), step, backend, plain)
    if task != "value":
        torch.autograd.graph.increment_version(params if task == "decay" else grads)
    return value


_Lists = tuple[Sequence[Tensor], Sequence[Tensor], Sequence[Tensor], Sequence[float]]


def _parts(task: str, lists: _Lists, step: float | Tensor, backend: str, plain: bool) -> Tensor:
    """The sum over what kernels take and what plain torch does; params, base, grads, scales."""
    params, base, grads, scales = lists
    backend = resolve(backend, params[0].device)
    rest: Sequence[int] = range(len(params))
    parts = []
    if backend != "torch":
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
            parts.append(_kernel(task, lists, step, backend))
    for i in rest:
        triple = params[i], base[i] if base else None, grads[i] if grads else None
        parts.append(scales[i] * _torch(task, *triple, scales[i] * step))
    dtype = torch.float32 if plain else value_dtype(params, base)
    if len(parts) == 1:
        return parts[0].to(dtype)
    return torch.stack([part.to(dtype) for part in parts]).sum()


def _kernel(task: str, lists: _Lists, step: float | Tensor, backend: str) -> Tensor:
    """The same by the kernels, for tensors that they take."""
    params, base, grads, scales = lists
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
    """Runs of `_PIECE` numbers, where the tensors are such; else slices of at most as many."""
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
        across = next(i for i, length in enumerate(param.shape) if length > 1)
        length = param.shape[across]
        step = max(1, length * _PIECE // param.numel())
        for i in range(0, length, step):
            p, b, g = (
                None if t is None else t.narrow(across, i, min(step, length - i))
                for t in (param, base, grad)
            )
            yield from _pieces(p, b, g)  # type: ignore[arg-type]


def value_dtype(params: Sequence[Tensor], base: Sequence[Tensor]) -> torch.dtype:
    """Of the sum: float64 where a tensor is that."""
    double = any(t.dtype == torch.float64 for t in (*params, *base))
    return torch.float64 if double else torch.float32
