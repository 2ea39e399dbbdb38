"""Parameter drift over a list of tensors, written in place: by the kernels, or in plain torch."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress
from typing import Any

import torch
from torch import Tensor

from gaussreg_fast import _torch_internals, checks
from gaussreg_fast.backends import choose_for_lists, native
from gaussreg_fast.backends import torch as torch_backend
from gaussreg_fast.backends._lists import flat, value_dtype
from gaussreg_fast.spec import DriftTask


def drift_in_place(
    task: DriftTask,
    params: Sequence[Tensor],
    base: Sequence[Tensor],
    grads: Sequence[Tensor],
    scales: Sequence[float],
    step: float | Tensor,
    backend: str,
    uniform: bool = False,
) -> Tensor:
    """Return the sum of scale ||param - base||^2, shape (), and write gradients by the task.

    The gradients are scale * step * (param - base): `GRADIENT` writes them to grads, `ACCUMULATE`
    adds them to grads, `VALUE` writes nothing. An empty `base` stands for zeros. Autograd records
    nothing, but the version counters of written tensors are increased. `uniform` says that
    `checks.uniform` holds of params and base.
    """
    with torch.no_grad():
        value = _parts(task, (params, base, grads, scales), step, backend, uniform)
    if task is not DriftTask.VALUE:
        torch.autograd.graph.increment_version(grads)
    return value


def move_towards(params: Sequence[Tensor], base: Sequence[Tensor], shares: Sequence[float]) -> None:
    """Move each of params a share of the way to its base, in place; types may differ.

    Plain torch does it: for all tensors of a type in one call, which moves no more memory than a
    kernel would.
    """
    alike: dict[torch.dtype, list[int]] = {}
    with torch.no_grad():
        for i, (p, b) in enumerate(zip(params, base, strict=True)):
            if p.dtype == b.dtype and p.device == b.device:
                alike.setdefault(p.dtype, []).append(i)
                continue
            dtype = value_dtype([p], [b])  # both are exact in this type
            for piece, to, _ in torch_backend.pieces(p, b, None):
                exact = piece.to(dtype)
                exact.lerp_(to.to(p.device, dtype), shares[i])  # type: ignore[union-attr]
                if exact is not piece:
                    piece.copy_(exact)
        for chosen in alike.values():
            lists = ([one[i] for i in chosen] for one in (params, base, shares))
            _torch_internals.foreach_lerp_(*lists)


_Lists = tuple[Sequence[Tensor], Sequence[Tensor], Sequence[Tensor], Sequence[float]]


def _parts(
    task: DriftTask, lists: _Lists, step: float | Tensor, backend: str, uniform: bool
) -> Tensor:
    """Run the kernels on the tensors that they take, plain torch on the rest; return the sum.

    `lists` are params, base, grads and scales.
    """
    params, base, grads, _ = lists
    kernels = choose_for_lists(backend, params[0].device)
    if kernels is torch_backend:
        return _run(torch_backend, task, lists, step)
    if uniform and all(map(Tensor.is_contiguous, grads)):  # types and shapes are those of params
        return _run(kernels, task, lists, step)
    others = base or params, grads or params
    same_device = kernels is native  # the Triton backend streams a base from the CPU
    fits = [flat(*three, same_device) for three in zip(params, *others, strict=True)]
    if all(fits):
        return _run(kernels, task, lists, step)
    dtype = value_dtype(params, base)
    if backend != "auto":  # compiled code comes here unchecked
        choose_for_lists(backend, params[0].device, dtype)
    rest = [not each for each in fits]
    parts = []
    for module, chosen in ((kernels, fits), (torch_backend, rest)):
        if any(chosen):
            part_lists = tuple(list(compress(one, chosen)) for one in lists)
            parts.append(_run(module, task, part_lists, step))  # type: ignore[arg-type]
    return torch.stack([part.to(dtype) for part in parts]).sum()


def _run(module: Any, task: DriftTask, lists: _Lists, step: float | Tensor) -> Tensor:
    """Run a backend's drift on params, base, grads and scales."""
    params, base, grads, scales = lists
    return module.drift(task, params, base or None, grads, scales, step)


def uniform(params: Sequence[Any], base: Sequence[Any]) -> bool:
    """Return `checks.uniform`, computed in C++ if tensors are in CPU memory."""
    return native.uniform(params, base) or checks.uniform(params, base)


def new_like(params: Sequence[Tensor]) -> list[Tensor]:
    """Return new memory for the gradients of params, hidden from autograd."""
    with _torch_internals.unrecorded():
        return list(map(torch.empty_like, params))
