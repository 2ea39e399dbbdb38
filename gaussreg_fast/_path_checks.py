"""Validation of paths of samplers, of their schedules and of rewards.

Every error names the argument, what came and what is allowed.
"""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from gaussreg_fast import _torch_internals, checks


def positive(name: str, value: Tensor) -> None:
    """Check finite numbers above 0, if they can be read now; if not, they make inf or NaN later."""
    if not _torch_internals.readable(value) or value.numel() == 0:
        return
    if value.numel() <= 64:  # up to so many numbers, as most schedules have, this is the fastest
        each = value.detach().flatten().tolist()
        if all(0 < v < math.inf for v in each):
            return
    low, high = (v.item() for v in torch.aminmax(value.detach()))
    if not 0 < low <= high < math.inf:
        raise ValueError(
            f"{name} must be finite and above 0, got values from {low} to {high}: a step without "
            f"noise has no finite path KL"
        )


def path_kl(dmu: Any, sigma: Any) -> None:
    """Check dmu (T, B, *shape) and sigma (T,) or (T, B), floating-point, on one device."""
    checks.floating("dmu", dmu)
    checks.floating("sigma", sigma)
    if dmu.dim() < 2:
        raise ValueError(
            f"dmu must have shape (T, B, *shape) with at least two dimensions, got "
            f"{tuple(dmu.shape)}"
        )
    if dmu.device != sigma.device:
        raise ValueError(f"sigma must be on the device of dmu, {dmu.device}, got {sigma.device}")
    allowed = ((dmu.shape[0],), tuple(dmu.shape[:2]))
    if tuple(sigma.shape) not in allowed:
        raise ValueError(
            f"sigma must have shape {allowed[0]} or {allowed[1]} for dmu of shape "
            f"{tuple(dmu.shape)}, got {tuple(sigma.shape)}"
        )


def schedule(
    name: str, value: Any, low: float, high: float, why: str = "", *, closed: bool = False
) -> None:
    """Check a number or a tensor of a sampler's schedule: finite and low < value <= high.

    With `closed` low itself is allowed, too. `why` ends the error for a value that is too low.
    """
    if isinstance(value, Tensor):
        checks.floating(name, value)
        if not _torch_internals.readable(value) or value.numel() == 0:
            return
        ends = [v.item() for v in torch.aminmax(value.detach())]
    elif isinstance(value, (int, float, Real)) and not isinstance(value, bool):
        ends = [checks.as_float(value)]
    else:
        raise TypeError(f"{name} must be a number or a torch.Tensor, got {type(value).__name__}")
    for end in ends:
        below = end < low if closed else end <= low
        if below or not (end <= high and end < math.inf):
            least = "at least" if closed else "above"
            most = f" and at most {high:g}" if high < math.inf else " and finite"
            reason = why if below else ""
            raise ValueError(f"{name} must be {least} {low:g}{most}, got {end}{reason}")


def shapes(difference: Tensor, schedule: dict[str, Any]) -> None:
    """Check that a schedule's values broadcast to the beginning of the shape of `difference`."""
    each = {name: tuple(getattr(value, "shape", ())) for name, value in schedule.items()}
    said = ", ".join(f"{name} of shape {shape}" for name, shape in each.items())
    try:
        shape = tuple(torch.broadcast_shapes(*each.values()))
    except RuntimeError:
        raise ValueError(f"a schedule must have shapes that broadcast, got {said}") from None
    if shape != difference.shape[: len(shape)]:
        raise ValueError(
            f"difference must have a shape that begins with the schedule's, {shape}, got "
            f"{tuple(difference.shape)}; the schedule is {said}"
        )


def rewards(reward: Any, group: Any) -> None:
    """Check reward (N,), floating-point, and group: None or an int tensor (N,) on its device."""
    checks.floating("reward", reward)
    if reward.dim() != 1:
        raise ValueError(f"reward must have shape (N,), got shape {tuple(reward.shape)}")
    if group is None:
        return
    if not isinstance(group, Tensor):
        raise TypeError(f"group must be None or a torch.Tensor, got {type(group).__name__}")
    if group.dtype not in checks.INTEGERS:
        raise TypeError(f"group must have an integer dtype, got {group.dtype}")
    if group.shape != reward.shape:
        raise ValueError(
            f"group must have the shape of reward, {tuple(reward.shape)}, got {tuple(group.shape)}"
        )
    if group.device != reward.device:
        raise ValueError(
            f"group must be on the device of reward, {reward.device}, got {group.device}"
        )
