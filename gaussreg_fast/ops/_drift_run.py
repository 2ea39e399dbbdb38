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
    """The sum of scale ||param - base||^2, shape (), and with scale * step * (param - base):

    `VALUE` writes nothing, `GRADIENT` writes to grads, `ACCUMULATE` adds to them. An empty `base`
    stands for zeros. Autograd records nothing, but the versions of the tensors written count up.
    `uniform` says that `checks.uniform` holds of params and base.
    """
    with torch.no_grad():
        value = _parts(task, (params, base, grads, scales), step, backend, uniform)
    if task is not DriftTask.VALUE:
        torch.autograd.graph.increment_version(grads)
    return value


def move_towards(params: Sequence[Tensor], base: Sequence[Tensor], shares: Sequence[float]) -> None:
    """Each of params goes a share of the way to its base, in place; what differs from it is cast.

    By torch: it reads and writes what a kernel would, in one call for all tensors of a type.
    """
    alike: dict[torch.dtype, list[int]] = {}
    with torch.no_grad():
        for i, (p, b) in enumerate(zip(params, base, strict=True)):
            if p.dtype == b.dtype and p.device == b.device:
                alike.setdefault(p.dtype, []).append(i)
                continue
            dtype = value_dtype([p], [b])  # in which both are exact
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
    """The sum over what kernels take and what plain torch does; params, base, grads, scales."""
    params, base, grads, _ = lists
    kernels = choose_for_lists(backend, params[0].device)
    if kernels is torch_backend:
        return _run(torch_backend, task, lists, step)
    if uniform and all(map(Tensor.is_contiguous, grads)):  # which are new, or checked
        return _run(kernels, task, lists, step)
    others = base or params, grads or params
    here = kernels is native
    taken = [flat(*three, here) for three in zip(params, *others, strict=True)]
    if all(taken):
        return _run(kernels, task, lists, step)
    rest = [not each for each in taken]
    parts = []
    for module, chosen in ((kernels, taken), (torch_backend, rest)):
        if any(chosen):
            part_lists = tuple(list(compress(one, chosen)) for one in lists)
            parts.append(_run(module, task, part_lists, step))  # type: ignore[arg-type]
    dtype = value_dtype(params, base)
    return torch.stack([part.to(dtype) for part in parts]).sum()


def _run(module: Any, task: DriftTask, lists: _Lists, step: float | Tensor) -> Tensor:
    """A backend's drift; params, base, grads, scales."""
    params, base, grads, scales = lists
    return module.drift(task, params, base or None, grads, scales, step)


def uniform(params: Sequence[Any], base: Sequence[Any]) -> bool:
    """`checks.uniform`, in C++ where tensors lie in CPU memory."""
    return native.uniform(params, base) or checks.uniform(params, base)


def new_like(params: Sequence[Tensor]) -> list[Tensor]:
    """Memory for the gradients of params, which autograd does not see."""
    with _torch_internals.unrecorded():
        return list(map(torch.empty_like, params))
