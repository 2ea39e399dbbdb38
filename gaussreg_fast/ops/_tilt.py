"""Surrogate rewards: numbers, one a sample, so there is nothing to fuse and torch computes them.

They are operators for torch.compile's sake: groups and root finding depend on data.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from gaussreg_fast import reference
from gaussreg_fast.ops._registry import library, register, transformed


def _group_sum(x: Tensor, group: Tensor | None) -> Tensor:
    """(N,) -> (N,): the sum over each sample's group."""
    groups = reference.Groups(group, len(x), x.device)
    return groups.unsort(groups.spread(groups.reduce(groups.sort(x), "sum")))


_group_sum_op = register(
    "group_sum", "(Tensor x, Tensor? group) -> Tensor", _group_sum, lambda x, _: x.new_empty(len(x))
)


class _GroupSum(Function):
    """Its matrix is symmetric: backward is forward."""

    generate_vmap_rule = True

    @staticmethod
    def forward(*args: Any) -> Tensor:
        with torch._C._AutoDispatchBelowAutograd():
            return _group_sum_op(*args)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        (group,) = ctx.saved_tensors
        return _sum(upstream[0], group), None


library.impl("group_sum", _GroupSum.apply, "Autograd")


def _sum(x: Tensor, group: Tensor | None) -> Tensor:
    return (_GroupSum.apply if transformed() else _group_sum_op)(x, group)


def _tilt(reward: Tensor, group: Tensor | None, kind: str, alpha: float, gamma: float) -> Tensor:
    if len(reward) == 0:
        return reward.new_empty(0, dtype=torch.float64)
    groups = reference.Groups(group, len(reward), reward.device)
    return reference.tilt(reward.detach().double(), groups, kind, alpha, gamma)


_tilt_op = register(
    "tilt",
    "(Tensor reward, Tensor? group, str kind, float alpha, float gamma) -> Tensor",
    _tilt,
    lambda reward, *rest: reward.new_empty(len(reward), dtype=torch.float64),
)


class _Tilt(Function):
    """The gradient through lambda by the implicit function theorem.

    With w' = dw/dr at fixed lambda, mean(w) = 1 makes dlambda = sum(w' dr) / sum(w') over a group.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(*args: Any) -> Tensor:
        with torch._C._AutoDispatchBelowAutograd():
            return _tilt_op(*args)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        reward, group, *ctx.options = inputs
        ctx.save_for_backward(output, group)
        ctx.dtype = reward.dtype

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        log_weight, group = ctx.saved_tensors
        kind, alpha, gamma = ctx.options
        weight = log_weight.exp()
        slope = reference.weight_slope(weight, kind, gamma)
        pulled = slope * upstream[0]
        share = weight * slope
        grad = pulled - share / _sum(share, group) * _sum(pulled, group)
        return (grad / alpha).to(ctx.dtype), None, None, None, None


library.impl("tilt", _Tilt.apply, "Autograd")


def tilt(reward: Tensor, group: Tensor | None, kind: str, alpha: float, gamma: float) -> Tensor:
    """Logarithms of the tilted weights, float64 (N,); see `reference.tilt`. Differentiable."""
    return (_Tilt.apply if transformed() else _tilt_op)(reward, group, kind, alpha, gamma)
