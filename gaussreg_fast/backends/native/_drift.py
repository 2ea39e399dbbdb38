"""Parameter drift on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor

from gaussreg_fast.backends._lists import NUMBERS
from gaussreg_fast.backends.native import _module
from gaussreg_fast.spec import DriftTask

_dtype, _requires_grad = attrgetter("dtype"), attrgetter("requires_grad")


def uniform(params: Sequence[Any], base: Sequence[Any]) -> bool:
    """Return `checks.uniform` of lists of tensors in CPU memory, in a fraction of its time.

    For tensors on other devices, and if the module or DLPack's exchange API is missing, return
    False.
    """
    if (
        torch.compiler.is_compiling()
        or _module.EXCHANGE is None
        or (native := _module.load()[0]) is None
    ):
        return False
    fits = native.fit(_module.EXCHANGE, _module.TYPES, list(params), list(base))
    return fits and not any(map(_requires_grad, base))


def drift(
    task: DriftTask,
    params: Sequence[Tensor],
    base: Sequence[Tensor] | None,
    grads: Sequence[Tensor],
    scales: Sequence[float],
    step: float | Tensor,
) -> Tensor:
    """Return the sum of scale ||param - base||^2, shape (), float32, and write gradients.

    The gradients are scale * step * (param - base): `GRADIENT` writes them to grads, `ACCUMULATE`
    adds them to grads, `VALUE` writes nothing. All tensors must be in CPU memory, dense and of
    types in `NUMBERS`; a parameter, its base and its gradient must have one shape and the same
    strides. `base=None` stands for zeros.
    """
    value = _drift(task, params, base, grads, scales, float(step))
    return torch.tensor(value, dtype=torch.float32, device="cpu")


def _drift(
    task: DriftTask,
    params: Sequence[Tensor],
    base: Sequence[Tensor] | None,
    grads: Sequence[Tensor],
    scales: Sequence[float],
    step: float,
) -> float:
    threads = torch.get_num_threads()
    if _module.EXCHANGE is not None:
        lists = list(params), list(base or ()), list(grads)
        call = _module.module().drift_tensors
        if (
            value := call(_module.EXCHANGE, _module.TYPES, task, *lists, scales, step, threads)
        ) is not None:
            return value

    # The rest are tensors that are dense in another order, which C++ takes by address.
    def types(tensors: Sequence[Tensor]) -> list[int]:
        return [NUMBERS[dtype] for dtype in map(_dtype, tensors)]

    none = [0] * len(params)
    return _module.module().drift(
        task,
        list(map(Tensor.data_ptr, params)),
        none if base is None else list(map(Tensor.data_ptr, base)),
        list(map(Tensor.data_ptr, grads)),
        list(map(Tensor.numel, params)),
        types(params),
        none if base is None else types(base),
        scales,
        step,
        threads,
    )
