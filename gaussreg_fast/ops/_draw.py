"""Which permutation a call asks for, before a seed is drawn for it."""

from __future__ import annotations

import threading
from typing import Any, NamedTuple

import torch
from torch import Tensor

_LOW, _HIGH = -(2**63), 2**63 - 1


class Draw(NamedTuple):
    """A permutation by a seed, one that is given, or (neither `seeded` nor a `table`) none."""

    seeded: bool = False
    per_sample: bool = False
    seed: int | Tensor | None = None  # None: the generator's next, or that of torch's own
    generator: torch.Generator | None = None
    table: Tensor | None = None  # (D,) or (B, D)

    def tensors(self, device: torch.device) -> tuple[Tensor | None, Tensor | None, bool]:
        """As operators take it: seed, index, one for each sample?"""
        if not self.seeded:
            return None, self.table, False
        return seed_tensor(self.seed, self.generator, device), None, self.per_sample

    def number(self) -> int | None:
        """The seed as an int, for the CPU. The same that `tensors` draws, in half the time."""
        if not self.seeded:
            return None
        if self.seed is None:
            drawn = _scratch.seed.random_(_LOW, _HIGH, generator=self.generator)
            return drawn.item()  # type: ignore[return-value]
        return int(self.seed.item()) if isinstance(self.seed, Tensor) else int(self.seed)


NONE, SHARED, PER_SAMPLE = Draw(), Draw(seeded=True), Draw(seeded=True, per_sample=True)


class _Scratch(threading.local):
    """A place for a seed that is read at once."""

    def __init__(self) -> None:
        with torch.inference_mode(False):  # or nobody could write to it elsewhere
            self.seed = torch.empty((1,), dtype=torch.int64, device="cpu")


_scratch = _Scratch()


def drawn(seed: Tensor | None, index: Tensor | None, per_sample: bool) -> Draw:
    """The inverse of `Draw.tensors`."""
    return Draw(seed is not None, per_sample, seed, None, index)


def seed_tensor(seed: Any, generator: torch.Generator | None, device: torch.device) -> Tensor:
    """The seed as an int64 tensor on the device; drawn there if none was given."""
    if isinstance(seed, Tensor):
        return seed
    if seed is not None:
        return torch.full((1,), int(seed), dtype=torch.int64, device=device)
    return torch.randint(_LOW, _HIGH, (1,), device=device, generator=generator)
