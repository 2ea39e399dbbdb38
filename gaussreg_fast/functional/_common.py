"""Arguments that the public functions share."""

from __future__ import annotations

import torch
from torch import Tensor

from gaussreg_fast import checks, dispatch

Seed = int | Tensor | None


def check_backend(backend: str, x: Tensor) -> None:
    """A backend's name, and that it can run on x."""
    checks.one_of("backend", backend, checks.BACKENDS)
    dispatch.require(backend, x)


def seed_tensor(seed: Seed, generator: torch.Generator | None, device: torch.device) -> Tensor:
    """The seed as an int64 tensor on the device; drawn there if none was given."""
    if isinstance(seed, Tensor):
        return seed
    if seed is not None:
        return torch.full((1,), int(seed), dtype=torch.int64, device=device)
    return torch.randint(-(2**63), 2**63 - 1, (1,), device=device, generator=generator)


def draw(
    permutation: str | Tensor,
    seed: Seed,
    generator: torch.Generator | None,
    device: torch.device,
) -> tuple[Tensor | None, Tensor | None, bool]:
    """`permutation=` and its seeds -> (seed, explicit index, one permutation per sample?)."""
    if isinstance(permutation, Tensor):
        return None, permutation, False
    if permutation == "none":
        return None, None, False
    return seed_tensor(seed, generator, device), None, permutation == "per_sample"


def reduce(loss: Tensor, reduction: str) -> Tensor:
    """(B,) by `reduction`; 0 for the mean of an empty batch."""
    if reduction == "none":
        return loss
    if reduction == "sum" or len(loss) == 0:
        return loss.sum()
    return loss.mean()
