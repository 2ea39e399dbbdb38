"""Parameter drift over a list of tensors, written in place: by the kernels, or in plain torch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gaussreg_fast import _torch_internals
from gaussreg_fast.backends import lists
from gaussreg_fast.backends import torch as torch_backend
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
        value = lists.drift(task, (params, base, grads, scales), step, backend, uniform)
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
            dtype = lists.value_dtype([p], [b])  # both are exact in this type
            for piece, to, _ in torch_backend.pieces(p, b, None):
                exact = piece.to(dtype)
                exact.lerp_(to.to(p.device, dtype), shares[i])  # type: ignore[union-attr]
                if exact is not piece:
                    piece.copy_(exact)
        for chosen in alike.values():
            of_a_type = ([one[i] for i in chosen] for one in (params, base, shares))
            _torch_internals.foreach_lerp_(*of_a_type)


def new_like(params: Sequence[Tensor]) -> list[Tensor]:
    """Return new memory for the gradients of params, hidden from autograd."""
    with _torch_internals.unrecorded():
        return list(map(torch.empty_like, params))
