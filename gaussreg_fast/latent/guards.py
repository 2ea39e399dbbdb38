"""Guards keep the noise Gaussian while a reward pulls at it: by a loss or by a projection."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gaussreg_fast import _ambient, functional
from gaussreg_fast.errors import InputError, of_machine
from gaussreg_fast.functional._options import check_options
from gaussreg_fast.latent.number_types import Number

PROJECTIONS = ("none", "gradient", "both")
_NOT_OPTIONS = {"x", "seed", "generator", "reduction"}
_NESTEROV = {"name": "sgd", "momentum": 0.9, "nesterov": True}
_MPGR = {"optimizer": {**_NESTEROV, "lr": 5.0, "clip": 0.01}, "iterations": 500}


@dataclass(frozen=True)
class Kind:
    """The loss or projection behind a guard's name, and its published settings.

    Attributes:
        title: the guard's name in tables and pictures.
        loss: (B, ...) -> (B,), called with `reduction="none"`; None if the guard has no loss.
        value_and_grad: the loss and its gradient in one call, if there is such a function.
        random: whether the loss takes the seed of its permutations.
        projects: whether the gradient, and perhaps the latent, is projected.
        preset: the settings of a run that its authors published, nested as in
            `settings.RunConfig`.
        preset_of_flux: the settings that differ for FLUX.
    """

    title: str
    loss: Callable[..., Tensor] | None = None
    value_and_grad: Callable[..., tuple[Tensor, Tensor]] | None = None
    random: bool = False
    projects: bool = False
    preset: Mapping[str, Any] = field(default_factory=dict)
    preset_of_flux: Mapping[str, Any] = field(default_factory=dict)


# All guards: help texts, errors, tables and experiments take their names from here. The presets are
# the published ones of ReNO (arXiv 2406.04312), PRNO (arXiv 2405.18881), MPGR (arXiv 2509.07027)
# and GPER (arXiv 2602.08646). Losses without published settings share MPGR's. Its learning rate is
# ReNO's, because MPGR's text gives none.
GUARDS: dict[str, Kind] = {
    "none": Kind("none", preset=_MPGR),
    "norm": Kind(
        "norm",
        functional.norm_loss,
        preset={
            "guard": {"weight": 0.01},
            "optimizer": {**_NESTEROV, "lr": 5.0, "clip": 0.1},
            "iterations": 50,
        },
    ),
    "kl": Kind("KL", functional.kl_loss, preset={**_MPGR, "guard": {"rescale": True}}),
    "kurtosis": Kind(
        "kurtosis", functional.kurtosis_loss, preset={**_MPGR, "guard": {"rescale": True}}
    ),
    "prno": Kind(
        "PRNO",
        functional.prno_loss,
        random=True,
        preset={
            "guard": {"options": {"shuffles": 100}},
            "optimizer": {"name": "adamw", "lr": 0.01},
            "iterations": 100,
        },
    ),
    "mpgr": Kind(
        "MPGR",
        functional.gaussianity_loss,
        functional.gaussianity_value_and_grad,
        random=True,
        preset={**_MPGR, "guard": {"rescale": True, "options": {"power_weight": 25.0}}},
    ),
    "projection": Kind(
        "projection",
        projects=True,
        preset={
            "guard": {"project": "gradient"},
            "optimizer": {"name": "adam", "lr": 0.1, "clip": 0.03},
            "iterations": 100,
        },
        preset_of_flux={"optimizer": {"lr": 0.02}},
    ),
}


def kind_of(name: Any) -> Kind:
    """Return the kind of guard that a name stands for.

    Raises:
        InputError: no guard has that name.
    """
    if not isinstance(name, str) or name not in GUARDS:
        raise InputError(f"guard must be one of {', '.join(GUARDS)}, got {name!r}")
    return GUARDS[name]


@dataclass(frozen=True)
class Guard:
    """One guard and how it takes part in a step.

    Attributes:
        name: one of `GUARDS`.
        weight: weight of the loss's gradient beside the reward's.
        rescale: per sample, give the loss's gradient the norm of the reward's before `weight`
            (as MPGR's authors do), so that the guard's share does not depend on the reward's scale.
        project: "gradient" replaces the gradient by its white-noise projection (GPER,
            arXiv 2602.08646) before the optimiser sees it; "both" also projects the latent
            after each step; "none" projects nothing.
        options: further arguments of the loss, such as `orders` or `shuffles`.

    Raises:
        InputError: the name or projection is unknown, the weight negative or not finite, the loss
            has no such option, or an option is out of range for latents of every size. What depends
            on the latents is checked by `check`.
    """

    name: str = field(
        default="none",
        metadata={
            "help": "Guard that keeps the noises Gaussian. "
            f"One of {', '.join(GUARDS)}. By default mpgr."
        },
    )
    weight: Number = field(
        default=1.0, metadata={"help": "Weight of the guard's gradient beside the reward's."}
    )
    rescale: bool = field(
        default=False,
        metadata={
            "help": "Scale the guard's gradient to the norm of the reward's, before its weight."
        },
    )
    project: str = field(
        default="none",
        metadata={
            "help": "Project the gradient, or both the gradient and the noise, with the guard "
            f"`projection`. One of {', '.join(PROJECTIONS)}."
        },
    )
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        kind = kind_of(self.name)
        if self.project not in PROJECTIONS:
            raise InputError(
                f"guard.project must be one of {', '.join(PROJECTIONS)}, got {self.project!r}"
            )
        if kind.projects == (self.project == "none"):
            raise InputError(
                f"guard.project must be 'gradient' or 'both' for the guard 'projection' and 'none' "
                f"for any other, got {self.project!r} for {self.name!r}"
            )
        if not 0 <= self.weight < float("inf"):
            raise InputError(f"guard.weight must be finite and >= 0, got {self.weight}")
        unknown = sorted(set(self.options) - set(self.known_options))
        if unknown:
            known = ", ".join(self.known_options) or "none"
            raise InputError(f"guard.options of {self.name!r} may hold {known}, got {unknown[0]!r}")
        if kind.loss is not None:
            with _refusing("guard.options"):
                check_options(kind.loss, self.options)

    def check(self, x: Tensor) -> None:
        """Check that the guard can take latents (B, ...) of x's size, dtype and device.

        Raises:
            InputError: it cannot, because of its options or by its nature.
        """
        where = f"guard {self.name!r} cannot take latents of shape {tuple(x.shape[1:])}"
        empty = x[:0]  # the losses check it like any other, and compute nothing
        with _refusing(where):
            self.loss_and_gradient(empty, 0)
            if self.project != "none":
                functional.project_white_noise(empty)

    @property
    def known_options(self) -> list[str]:
        """The names that `options` may hold."""
        loss = GUARDS[self.name].loss
        if loss is None:
            return []
        return [name for name in inspect.signature(loss).parameters if name not in _NOT_OPTIONS]

    def loss_and_gradient(self, x: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """Compute the loss of every sample and its gradient; zeros for a guard without a loss.

        Args:
            x: (B, ...) floating.
            seed: seed of the random permutations.

        Returns:
            The loss, (B,), and its gradient, of x's shape, both detached.
        """
        kind = GUARDS[self.name]
        if kind.loss is None:
            return x.new_zeros(len(x)), torch.zeros_like(x)
        options = {**self.options, **({"seed": seed} if kind.random else {})}
        if kind.value_and_grad is not None:
            return kind.value_and_grad(x, reduction="none", **options)
        with _ambient.recordable(), torch.enable_grad():
            leaf = (x.clone() if x.is_inference() else x).detach().requires_grad_()
            values = kind.loss(leaf, reduction="none", **options)
            (gradient,) = torch.autograd.grad(values.sum(), leaf)
        return values.detach(), gradient

    def direction(self, reward_gradient: Tensor, guard_gradient: Tensor) -> Tensor:
        """Combine two gradients (B, ...) into the one that the optimiser descends.

        It is minus the reward's plus the weighted guard's, projected if the guard projects.
        """
        gradient = -reward_gradient
        if GUARDS[self.name].loss is not None:
            weight: float | Tensor = self.weight
            if self.rescale:
                ratio = norms(reward_gradient) / norms(guard_gradient).clamp_min(1e-30)
                weight = per_sample(self.weight * ratio, gradient)
            gradient = gradient + weight * guard_gradient
        if self.project != "none":
            # A zero gradient has no direction; projecting it would invent a step.
            moved = per_sample(norms(gradient) > 0, gradient)
            gradient = torch.where(moved, functional.project_white_noise(gradient), 0)
        return gradient

    def after_step(self, x: Tensor) -> Tensor:
        """Project the latents (B, ...) after a step if the guard does so."""
        return functional.project_white_noise(x) if self.project == "both" else x


@contextmanager
def _refusing(argument: str) -> Iterator[None]:
    """Make an `InputError` of a loss's error, unless the machine caused it."""
    try:
        yield
    except (TypeError, ValueError, RuntimeError) as error:
        if of_machine(error):
            raise
        raise InputError(f"{argument}: {' '.join(str(error).split())}") from error


def norms(x: Tensor) -> Tensor:
    """Return the l2 norm of every sample, (B, ...) -> (B,)."""
    return x.flatten(1).norm(dim=1)


def per_sample(values: Tensor, like: Tensor) -> Tensor:
    """Reshape (B,) to (B, 1, ..., 1), to multiply a batch with it."""
    return values.view(-1, *[1] * (like.dim() - 1))


def clip(gradient: Tensor, limit: float | None) -> Tensor:
    """Scale every sample of (B, ...) down to at most the l2 norm `limit`; None sets no limit."""
    if limit is None:
        return gradient
    factor = (limit / norms(gradient).clamp_min(1e-30)).clamp_max(1)
    return gradient * per_sample(factor, gradient)
