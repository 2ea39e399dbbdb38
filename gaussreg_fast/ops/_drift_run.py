"""Parameter drift over a list of tensors, written in place: by the kernels, or in plain torch."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress
from typing import Any

import torch
from torch import Tensor

from gaussreg_fast import _torch_internals, checks
from gaussreg_fast.backends import choose_for_lists, native
from gaussreg_fast.backends import torch as plain_torch
from gaussreg_fast.backends._lists import flat, value_dtype


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

    "value" nothing, "gradient" written to grads, "accumulate" added to them. An empty `base` stands
    for zeros. Autograd sees nothing of it, but the versions of what is written count up. `plain`
    says that all are known to be contiguous and of one device, and none float64.
    """
    with torch.no_grad():
        value = _parts(task, (params, base, grads, scales), step, backend, plain)
    if task != "value":
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
            for piece, to, _ in plain_torch.pieces(p, b, None):
                exact = piece.to(dtype)
                exact.lerp_(to.to(p.device, dtype), shares[i])  # type: ignore[union-attr]
                if exact is not piece:
                    piece.copy_(exact)
        for chosen in alike.values():
            lists = ([one[i] for i in chosen] for one in (params, base, shares))
            _torch_internals.foreach_lerp_(*lists)


_Lists = tuple[Sequence[Tensor], Sequence[Tensor], Sequence[Tensor], Sequence[float]]


def _parts(task: str, lists: _Lists, step: float | Tensor, backend: str, plain: bool) -> Tensor:
    """The sum over what kernels take and what plain torch does; params, base, grads, scales."""
    params, base, grads, _ = lists
    kernels = choose_for_lists(backend, params[0].device)
    if kernels is plain_torch:
        return _run(plain_torch, task, lists, step)
    if plain and all(map(Tensor.is_contiguous, grads)):  # which are new, or checked
        return _run(kernels, task, lists, step)
    others = base or params, grads or params
    here = kernels is native
    taken = [flat(*three, here) for three in zip(params, *others, strict=True)]
    if all(taken):
        return _run(kernels, task, lists, step)
    rest = [not each for each in taken]
    parts = []
    for module, chosen in ((kernels, taken), (plain_torch, rest)):
        if any(chosen):
            some = tuple(list(compress(one, chosen)) for one in lists)
            parts.append(_run(module, task, some, step))  # type: ignore[arg-type]
    dtype = value_dtype(params, base)
    return torch.stack([part.to(dtype) for part in parts]).sum()


def _run(module: Any, task: str, lists: _Lists, step: float | Tensor) -> Tensor:
    """A backend's drift; params, base, grads, scales."""
    params, base, grads, scales = lists
    return module.drift(task, params, base or None, grads, scales, step)


def plain(params: Sequence[Any], base: Sequence[Any]) -> bool:
    """`checks.plain`, the fastest way."""
    return native.plain(params, base) or checks.plain(params, base)


def new_like(params: Sequence[Tensor]) -> list[Tensor]:
    """Memory for the gradients of params, which autograd does not see."""
    with _torch_internals.unrecorded():
        return list(map(torch.empty_like, params))
