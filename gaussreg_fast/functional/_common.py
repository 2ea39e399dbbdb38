"""Arguments that the public functions share."""

from __future__ import annotations

import torch
from torch import Tensor

from gaussreg_fast import checks, spec
from gaussreg_fast.backends import require

Seed = int | Tensor | None


def check_backend(backend: str, x: Tensor) -> None:
    """A backend's name, and that it can run on x."""
    checks.one_of("backend", backend, checks.BACKENDS)
    require(backend, x)


def checked_draw(
    permutation: str | Tensor,
    seed: Seed,
    generator: torch.Generator | None,
    x: Tensor,
    dimension: int,
) -> spec.Draw:
    """Validates `permutation=`, `seed=` and `generator=`; nothing is drawn yet."""
    checks.permutation(permutation, x, dimension)
    if seed is not None or generator is not None:
        checks.seed(seed, generator, x.device)
    return spec.draw(permutation, seed, generator)


def reduce(loss: Tensor, reduction: str) -> Tensor:
    """(B,) by `reduction`; 0 for the mean of an empty batch."""
    if reduction == "none":
        return loss
    if reduction == "sum" or len(loss) == 0:
        return loss.sum()
    return loss.mean()
