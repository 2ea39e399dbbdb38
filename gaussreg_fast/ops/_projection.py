"""The white-noise projection."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from gaussreg_fast import native, reference
from gaussreg_fast.dispatch import resolve
from gaussreg_fast.ops._registry import as_rows, enter, library, native_takes, register


def _project(x: Tensor, block_size: int, backend: str) -> Tensor:
    backend = resolve(backend, x.device, x.dtype)
    if x.shape[0] == 0:
        return x.new_zeros(x.shape)
    with torch.no_grad():
        if native_takes(x, backend):
            return native.project_white_noise(x, block_size)
        if backend == "triton":
            from gaussreg_fast import launch

            return launch.project(x, block_size)
        return reference.project_white_noise(as_rows(x), block_size).reshape(x.shape).to(x.dtype)


_project_op = register(
    "project_white_noise",
    "(Tensor x, int block_size, str backend) -> Tensor",
    _project,
    lambda x, block_size, backend: x.new_empty(x.shape),
)


class _Project(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(*args: Any) -> Tensor:
        with torch._C._AutoDispatchBelowAutograd():
            return _project_op(*args)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        raise RuntimeError(
            "project_white_noise has no gradient; call it under torch.no_grad() or on x.detach()"
        )


library.impl("project_white_noise", _Project.apply, "Autograd")


def project_white_noise(x: Tensor, block_size: int, backend: str) -> Tensor:
    """The projection; backward through it raises."""
    return enter(x, (block_size, backend), _project, _project_op, _Project, _Project.apply)
