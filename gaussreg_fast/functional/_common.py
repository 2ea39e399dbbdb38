"""Arguments that the public functions share."""

from __future__ import annotations

import torch
from torch import Tensor

from gaussreg_fast import checks, spec
from gaussreg_fast.backends import require

Seed = int | Tensor | None


def check_backend(backend: str, x: Tensor, name: str = "x") -> None:
    """Check a backend's name, and that the backend can run on x, the argument `name`."""
    checks.one_of("backend", backend, checks.BACKENDS)
    require(backend, x, name)


def check_draw(
    permutation: str | Tensor,
    seed: Seed,
    generator: torch.Generator | None,
    x: Tensor,
    dimension: int,
) -> spec.Draw:
    """Check `permutation=`, `seed=` and `generator=`, and return the permutation, not drawn yet."""
    checks.permutation(permutation, x, dimension)
    if seed is not None or generator is not None:
        checks.seed(seed, generator, x.device)
    return spec.draw(permutation, seed, generator)


def reduce(loss: Tensor, reduction: str) -> Tensor:
    """Reduce losses (B,) by "none", "mean" or "sum"; the mean of an empty batch is 0."""
    if reduction == "none":
        return loss
    if reduction == "sum" or len(loss) == 0:
        return loss.sum()
    return loss.mean()
