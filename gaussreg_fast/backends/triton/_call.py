"""What a launcher of the loss is asked for, the same for every route."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from gaussreg_fast.backends.triton._permutation import Permutation
from gaussreg_fast.spec import LossSpec, Task


@dataclass(frozen=True)
class Call:
    """A task of `kernels.loss_fused` on rows x (B, D), into (or from) `outputs`.

    `scale` multiplies a loss's gradient.
    """

    x: Tensor
    permutation: Permutation
    task: Task
    outputs: dict[str, Tensor]
    spec: LossSpec
    scale: float = 1.0
