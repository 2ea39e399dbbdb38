"""Surrogate rewards, one number per sample: there is nothing to fuse, and torch computes them.

They are operators because torch.compile cannot trace them: groups and root finding depend on data.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from gaussreg_fast import reference
from gaussreg_fast.ops._operator import Operator


def _group_sum(x: Tensor, group: Tensor | None) -> Tensor:
    """Return the sum over each sample's group: (N,) -> (N,)."""
    groups = reference.Groups(group, len(x), x.device)
    return groups.unsort(groups.spread(groups.reduce(groups.sort(x), "sum")))


def _save_group(ctx: Any, args: tuple, output: Tensor) -> None:
    ctx.save_for_backward(args[1])


def _group_sum_backward(ctx: Any, upstream: Tensor) -> tuple[Tensor]:
    """Return the gradient: the operator's matrix is symmetric, so backward is forward."""
    (group,) = ctx.saved_tensors
    return (_group_sum_op(upstream, group),)


_group_sum_op = Operator(
    "group_sum",
    "(Tensor x, Tensor? group) -> Tensor",
    _group_sum,
    lambda x, _: x.new_empty(len(x)),
    backward=_group_sum_backward,
    save=_save_group,
)


def _tilt(reward: Tensor, group: Tensor | None, kind: str, alpha: float, gamma: float) -> Tensor:
    """Return the logarithms of the tilted weights, (N,), in reward's type; see `reference.tilt`."""
    if len(reward) == 0:
        return reward.new_empty(0)
    groups = reference.Groups(group, len(reward), reward.device)
    return reference.tilt(reward.detach(), groups, kind, alpha, gamma)


def _save(ctx: Any, args: tuple, output: Tensor) -> None:
    _, group, *ctx.options = args
    ctx.save_for_backward(output, group)


def _backward(ctx: Any, upstream: Tensor) -> tuple[Tensor]:
    """Return the gradient by the reward, through lambda by the implicit function theorem.

    With w' = dw/dr at fixed lambda, mean(w) = 1 gives dlambda = sum(w' dr) / sum(w') over a group.
    """
    log_weight, group = ctx.saved_tensors
    kind, alpha, gamma = ctx.options
    weight = log_weight.exp()
    slope = reference.weight_slope(weight, kind, gamma)
    pulled = slope * upstream
    share = weight * slope
    grad = pulled - share / _group_sum_op(share, group) * _group_sum_op(pulled, group)
    return (grad / alpha,)


tilt = Operator(
    "tilt",
    "(Tensor reward, Tensor? group, str kind, float alpha, float gamma) -> Tensor",
    _tilt,
    lambda reward, *rest: reward.new_empty(len(reward)),
    backward=_backward,
    save=_save,
)
