"""Drift of lists of tensors: which backend computes which of them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress
from typing import Any

import torch
from torch import Tensor

from gaussreg_fast import checks
from gaussreg_fast.backends import native
from gaussreg_fast.backends import torch as torch_backend
from gaussreg_fast.backends._lists import flat, value_dtype
from gaussreg_fast.backends.choice import choose_for_lists
from gaussreg_fast.spec import DriftTask

__all__ = ["drift", "uniform", "value_dtype"]

Lists = tuple[Sequence[Tensor], Sequence[Tensor], Sequence[Tensor], Sequence[float]]


def drift(
    task: DriftTask, lists: Lists, step: float | Tensor, backend: str, uniform: bool
) -> Tensor:
    """Run the kernels on the tensors that they take, plain torch on the rest; return the sum.

    `lists` are params, base, grads and scales; the task and the step are those of a backend's
    `drift`. `uniform` says that `checks.uniform` holds of params and base.
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


def _run(module: Any, task: DriftTask, lists: Lists, step: float | Tensor) -> Tensor:
    """Run a backend's drift on params, base, grads and scales."""
    params, base, grads, scales = lists
    return module.drift(task, params, base or None, grads, scales, step)


def uniform(params: Sequence[Any], base: Sequence[Any]) -> bool:
    """Return `checks.uniform`, computed in C++ if tensors are in CPU memory."""
    return native.uniform(params, base) or checks.uniform(params, base)
