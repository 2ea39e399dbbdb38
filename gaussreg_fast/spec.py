"""Options of a loss, of statistics and of a permutation: one value each, down to the kernels.

They are named tuples: hashed and compared in C, because every call looks its options up.
"""

from __future__ import annotations

import enum
import threading
from typing import Any, NamedTuple

import torch
from torch import Tensor

_LOW, _HIGH = -(2**63), 2**63 - 1


class LossSpec(NamedTuple):
    """A loss of samples: `gaussianity_loss` says what its options mean.

    `target` is the number that the name of a target stands for; a `power_weight` of 0 leaves the
    spectrum out, and no orders leave the moments out.
    """

    orders: tuple[int, ...]
    form: str
    power_weight: float
    block_size: int
    target: float
    statistic: str
    reduction: str


class StatisticsSpec(NamedTuple):
    """Moments and block amplitudes: `permuted_statistics` says what the options mean."""

    orders: tuple[int, ...]
    block_size: int
    statistic: str


class Gradient(enum.Enum):
    """Which gradient comes with a loss."""

    NONE = "none"
    KEPT = "kept"  # for a backward that scales it
    REDUCED = "reduced"  # of the reduced loss, in x's type

    @classmethod
    def _missing_(cls, value: object) -> Any:  # of a graph that another version made, say
        raise ValueError(f"gradient must be 'none', 'kept' or 'reduced', got {value!r}")


class Task(str, enum.Enum):
    """Which results the kernels of a loss write."""

    VALUE = "value"
    GRADIENT = "gradient"  # the value, too
    STATISTICS = "statistics"
    PULLBACK = "pullback"  # the gradient, from those by the statistics

    @property
    def differentiates(self) -> bool:
        """Whether a gradient by x is written."""
        return self in (Task.GRADIENT, Task.PULLBACK)


class DriftTask(str, enum.Enum):
    """Which results parameter drift has beside its value."""

    VALUE = "value"  # none
    GRADIENT = "gradient"  # written
    ACCUMULATE = "accumulate"  # added to a gradient that is there


class Source(enum.Enum):
    """Where the permutation of a sample comes from."""

    NONE = "none"  # samples stay as they are
    SHARED = "shared"  # a seed gives one for the batch
    PER_SAMPLE = "per_sample"  # a seed gives one for each sample
    TABLE = "table"  # an integer tensor


# Looking a member up costs more than a global, in Python before 3.12.
_NONE, _SHARED, _PER_SAMPLE, _TABLE = Source


class Draw(NamedTuple):
    """The permutation that a call asks for, before a seed is drawn for it."""

    source: Source = _NONE
    seed: int | Tensor | None = None  # None: the generator's next, or that of torch's own
    generator: torch.Generator | None = None
    table: Tensor | None = None  # (D,) or (B, D)
    valid: bool = False  # the table is known to hold permutations

    @property
    def seeded(self) -> bool:
        """Whether a seed gives the permutation."""
        return self.source is _SHARED or self.source is _PER_SAMPLE

    @property
    def per_sample(self) -> bool:
        """Whether a seed gives one for each sample."""
        return self.source is _PER_SAMPLE

    def tensors(self, device: torch.device) -> tuple[Tensor | None, Tensor | None, bool]:
        """As operators take it: seed, index, one for each sample?"""
        if not self.seeded:
            return None, self.table, False
        return seed_tensor(self.seed, self.generator, device), None, self.per_sample

    def number(self) -> int | None:
        """The seed as an int, for the CPU. The same that `tensors` draws, in half the time."""
        if self.source is _NONE or self.source is _TABLE:
            return None
        if self.seed is None:
            drawn = _scratch.seed.random_(_LOW, _HIGH, generator=self.generator)
            return drawn.item()  # type: ignore[return-value]
        return int(self.seed.item()) if isinstance(self.seed, Tensor) else int(self.seed)


NONE, SHARED, PER_SAMPLE = Draw(), Draw(_SHARED), Draw(_PER_SAMPLE)


def draw(
    permutation: str | Tensor, seed: int | Tensor | None, generator: torch.Generator | None
) -> Draw:
    """The permutation that the arguments of a public function ask for; nothing is drawn yet."""
    if isinstance(permutation, Tensor):
        return Draw(_TABLE, table=permutation)
    if permutation == "none":
        return NONE
    if seed is None and generator is None:
        return SHARED if permutation == "shared" else PER_SAMPLE
    return Draw(Source(permutation), seed, generator)


def draw_from_tensors(seed: Tensor | None, index: Tensor | None, per_sample: bool) -> Draw:
    """The inverse of `Draw.tensors`."""
    if seed is not None:
        return Draw(_PER_SAMPLE if per_sample else _SHARED, seed)
    return NONE if index is None else Draw(_TABLE, table=index)


class _Scratch(threading.local):
    """A place for a seed that is read at once."""

    def __init__(self) -> None:
        with torch.inference_mode(False):  # or nobody could write to it elsewhere
            self.seed = torch.empty((1,), dtype=torch.int64, device="cpu")


_scratch = _Scratch()


def seed_tensor(seed: Any, generator: torch.Generator | None, device: torch.device) -> Tensor:
    """The seed as an int64 tensor on the device; drawn there if none was given."""
    if isinstance(seed, Tensor):
        return seed
    if seed is not None:
        return torch.full((1,), int(seed), dtype=torch.int64, device=device)
    return torch.randint(_LOW, _HIGH, (1,), device=device, generator=generator)
