"""The white-noise projection."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gaussreg_fast.backends import choose
from gaussreg_fast.ops._operator import Operator


def _compute(x: Tensor, block_size: int, backend: str) -> Tensor:
    kernels = choose(backend, x)
    if x.shape[0] == 0:
        return x.new_zeros(x.shape)
    with torch.no_grad():
        return kernels.project(x, block_size=block_size)


def _backward(ctx: Any, *upstream: Tensor) -> Any:
    raise RuntimeError(
        "project_white_noise has no gradient; call it under torch.no_grad() or on x.detach()"
    )


project_white_noise = Operator(
    "project_white_noise",
    "(Tensor x, int block_size, str backend) -> Tensor",
    _compute,
    lambda x, block_size, backend: x.new_empty(x.shape),
    backward=_backward,
)
