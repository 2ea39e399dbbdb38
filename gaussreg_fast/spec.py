"""Options of a loss, of statistics and of a permutation: one value each, down to the kernels.

They are named tuples, because every call looks its options up, and tuples are hashed and compared
in C.
"""

from __future__ import annotations

import enum
import threading
from typing import Any, NamedTuple

import torch
from torch import Tensor

_LOW, _HIGH = -(2**63), 2**63 - 1


class LossSpec(NamedTuple):
    """Options of a loss of samples, explained at `gaussianity_loss`.

    `target` is a number, where the public argument is a name. A `power_weight` of 0 leaves the
    spectrum out; an empty `orders` leaves the moments out.
    """

    orders: tuple[int, ...]
    form: str
    power_weight: float
    block_size: int
    target: float
    statistic: str
    reduction: str


class StatisticsSpec(NamedTuple):
    """Options of moments and block amplitudes, explained at `permuted_statistics`."""

    orders: tuple[int, ...]
    block_size: int
    statistic: str


class Gradient(enum.Enum):
    """Which gradient comes with a loss."""

    NONE = "none"
    KEPT = "kept"  # for a backward that scales it
    REDUCED = "reduced"  # the final gradient, of the reduced loss, in x's type

    @classmethod
    def _missing_(cls, value: object) -> Any:  # a graph of another version may hold one
        raise ValueError(f"gradient must be 'none', 'kept' or 'reduced', got {value!r}")


class Task(str, enum.Enum):
    """Which results the kernels of a loss write."""

    VALUE = "value"
    GRADIENT = "gradient"  # gradient and value
    STATISTICS = "statistics"
    PULLBACK = "pullback"  # the gradient by x, from the gradients by the statistics

    @property
    def differentiates(self) -> bool:
        """Whether the task writes a gradient by x."""
        return self in (Task.GRADIENT, Task.PULLBACK)


class DriftTask(str, enum.Enum):
    """Which results parameter drift has beside its value."""

    VALUE = "value"  # no other result
    GRADIENT = "gradient"  # the gradient is written
    ACCUMULATE = "accumulate"  # the gradient is added to an existing one


class Source(enum.Enum):
    """Where the permutation of a sample comes from."""

    NONE = "none"  # samples stay as they are
    SHARED = "shared"  # a seed gives one for the batch
    PER_SAMPLE = "per_sample"  # a seed gives one for each sample
    TABLE = "table"  # an integer tensor


# In Python before 3.12 looking up an enum's member costs more than reading a global.
_NONE, _SHARED, _PER_SAMPLE, _TABLE = Source


class Draw(NamedTuple):
    """The permutation of a call, before a seed is drawn for it."""

    source: Source = _NONE
    seed: int | Tensor | None = None  # None: drawn from `generator`, or from torch's default one
    generator: torch.Generator | None = None
    table: Tensor | None = None  # (D,) or (B, D)
    valid: bool = False  # the table is known to hold permutations

    @property
    def seeded(self) -> bool:
        """Whether a seed gives the permutation."""
        return self.source is _SHARED or self.source is _PER_SAMPLE

    @property
    def per_sample(self) -> bool:
        """Whether a seed gives one permutation for each sample."""
        return self.source is _PER_SAMPLE

    def tensors(self, device: torch.device) -> tuple[Tensor | None, Tensor | None, bool]:
        """Return the arguments of operators: seed, index, and whether each sample has its own."""
        if not self.seeded:
            return None, self.table, False
        return seed_tensor(self.seed, self.generator, device), None, self.per_sample

    def number(self) -> int | None:
        """Return the seed of `tensors` as an int, for the CPU, in half the time."""
        if self.source is _NONE or self.source is _TABLE:
            return None
        if self.seed is None:
            seed = scratch.seed.random_(_LOW, _HIGH, generator=self.generator)
            return seed.item()  # type: ignore[return-value]
        return int(self.seed.item()) if isinstance(self.seed, Tensor) else int(self.seed)


NONE, SHARED, PER_SAMPLE = Draw(), Draw(_SHARED), Draw(_PER_SAMPLE)


def draw(
    permutation: str | Tensor, seed: int | Tensor | None, generator: torch.Generator | None
) -> Draw:
    """Return the permutation that a public function's arguments describe, without drawing it."""
    if isinstance(permutation, Tensor):
        return Draw(_TABLE, table=permutation)
    if permutation == "none":
        return NONE
    if seed is None and generator is None:
        return SHARED if permutation == "shared" else PER_SAMPLE
    return Draw(Source(permutation), seed, generator)


def draw_from_tensors(seed: Tensor | None, index: Tensor | None, per_sample: bool) -> Draw:
    """Return the permutation that `Draw.tensors` made these tensors from."""
    if seed is not None:
        return Draw(_PER_SAMPLE if per_sample else _SHARED, seed)
    return NONE if index is None else Draw(_TABLE, table=index)


class _Scratch(threading.local):
    """A tensor per thread that seeds are drawn into, so that no draw allocates one."""

    def __init__(self) -> None:
        with torch.inference_mode(False):  # outside of it an inference tensor cannot be written to
            self.seed = torch.empty((1,), dtype=torch.int64, device="cpu")


scratch = _Scratch()


def seed_tensor(seed: Any, generator: torch.Generator | None, device: torch.device) -> Tensor:
    """Return the seed as an int64 tensor on the device; draw it there if it is None."""
    if isinstance(seed, Tensor):
        return seed
    if seed is not None:
        return torch.full((1,), int(seed), dtype=torch.int64, device=device)
    return torch.randint(_LOW, _HIGH, (1,), dtype=torch.int64, device=device, generator=generator)
