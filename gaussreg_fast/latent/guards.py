"""What keeps the noise Gaussian while a reward pulls at it: losses beside it, or projections."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gaussreg_fast import functional
from gaussreg_fast.errors import InputError

PROJECTIONS = ("none", "gradient", "both")

# Every loss takes the batch and gives one number per sample. None: no loss beside the reward.
LOSSES: dict[str, Callable[..., Tensor] | None] = {
    "none": None,
    "norm": functional.norm_loss,
    "kl": functional.kl_loss,
    "kurtosis": functional.kurtosis_loss,
    "prno": functional.prno_loss,
    "mpgr": functional.gaussianity_loss,
    "projection": None,
}
_NOT_OPTIONS = {"x", "seed", "generator", "reduction"}


@dataclass(frozen=True)
class Guard:
    """One guard and how it takes part in a step.

    Attributes:
        name: one of `LOSSES`.
        weight: of the loss's gradient beside the reward's.
        rescale: per sample, give the loss's gradient the norm of the reward's before `weight`
            (as MPGR's authors do): the guard's part then does not depend on the reward's scale.
        project: "gradient" replaces the gradient by its white-noise projection (GPER,
            arXiv 2602.08646) before the optimiser sees it; "both" also projects the latent
            after each step; "none".
        options: further arguments of the loss, such as `orders` or `shuffles`.

    Raises:
        InputError: unknown name or projection, negative weight, or an option that the loss
            does not have.
    """

    name: str = "none"
    weight: float = 1.0
    rescale: bool = False
    project: str = "none"
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.name not in LOSSES:
            raise InputError(f"guard must be one of {', '.join(LOSSES)}, got {self.name!r}")
        if self.project not in PROJECTIONS:
            raise InputError(
                f"guard.project must be one of {', '.join(PROJECTIONS)}, got {self.project!r}"
            )
        if (self.name == "projection") == (self.project == "none"):
            raise InputError(
                f"guard.project is for the guard 'projection', which needs 'gradient' or 'both': "
                f"got {self.project!r} for {self.name!r}"
            )
        if not 0 <= self.weight < float("inf"):
            raise InputError(f"guard.weight must be finite and >= 0, got {self.weight}")
        unknown = sorted(set(self.options) - set(self.known_options))
        if unknown:
            known = ", ".join(self.known_options) or "none"
            raise InputError(f"guard {self.name!r} has no option {unknown[0]!r}, its are: {known}")
        if self.options:
            try:
                self.loss_and_gradient(torch.linspace(-2, 2, 4096).view(1, -1), 0)
            except (TypeError, ValueError, RuntimeError) as error:
                raise InputError(f"guard.options: {' '.join(str(error).split())}") from error

    @property
    def known_options(self) -> list[str]:
        """Names that `options` may hold."""
        loss = LOSSES[self.name]
        if loss is None:
            return []
        return [name for name in inspect.signature(loss).parameters if name not in _NOT_OPTIONS]

    def loss_and_gradient(self, x: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """The loss of every sample, (B,), and its gradient, x's shape; zeros without a loss.

        `seed` is that of the random permutations.
        """
        loss = LOSSES[self.name]
        if loss is None:
            return x.new_zeros(len(x)), torch.zeros_like(x)
        if self.name == "mpgr":
            return functional.gaussianity_value_and_grad(
                x, reduction="none", seed=seed, **self.options
            )
        random = {"seed": seed} if self.name == "prno" else {}
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            values = loss(leaf, reduction="none", **random, **self.options)
            (gradient,) = torch.autograd.grad(values.sum(), leaf)
        return values.detach(), gradient

    def direction(self, reward_gradient: Tensor, guard_gradient: Tensor) -> Tensor:
        """What the optimiser is to descend: minus the reward, plus the guard, projected."""
        gradient = -reward_gradient
        if LOSSES[self.name] is not None:
            weight: float | Tensor = self.weight
            if self.rescale:
                ratio = norms(reward_gradient) / norms(guard_gradient).clamp_min(1e-30)
                weight = per_sample(self.weight * ratio, gradient)
            gradient = gradient + weight * guard_gradient
        if self.project != "none":
            # Of nothing there is no direction: its projection would be a step made up.
            moved = per_sample(norms(gradient) > 0, gradient)
            gradient = torch.where(moved, functional.project_white_noise(gradient), 0)
        return gradient

    def after_step(self, x: Tensor) -> Tensor:
        """The latent to go on from."""
        return functional.project_white_noise(x) if self.project == "both" else x


def norms(x: Tensor) -> Tensor:
    """l2 norm of every sample, (B,)."""
    return x.flatten(1).norm(dim=1)


def per_sample(values: Tensor, like: Tensor) -> Tensor:
    """(B,) -> (B, 1, ..., 1), to be multiplied with a batch."""
    return values.view(-1, *[1] * (like.dim() - 1))


def clip(gradient: Tensor, limit: float | None) -> Tensor:
    """Scales every sample down to at most the l2 norm `limit`."""
    if limit is None:
        return gradient
    factor = (limit / norms(gradient).clamp_min(1e-30)).clamp_max(1)
    return gradient * per_sample(factor, gradient)
