"""The permutation of samples in the form that the kernels take, and permutation tables."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gaussreg_fast import checks
from gaussreg_fast.backends.triton import parameters
from gaussreg_fast.backends.triton._device import compiler, launching
from gaussreg_fast.kernels.permutation import permutation_table
from gaussreg_fast.spec import Draw


class Mode(enum.Enum):
    """How a kernel finds the permutation of its sample; the values are the kernels' names."""

    NONE = "none"
    SEED = "seed"  # the kernel computes it from a seed
    TABLE = "table"  # the kernel reads it from a table
    COLUMNS = "columns"  # from a table of its matrix by columns


@dataclass(frozen=True)
class Permutation:
    """A seed (one permutation shared by the batch, or one per sample), an index, or none.

    `seed` is int64 with one element, `index` an integer tensor (D,) or (B, D), already checked.
    """

    seed: Tensor | None = None
    index: Tensor | None = None
    per_sample: bool = False

    @property
    def shared(self) -> bool:
        """Whether all samples have the same permutation."""
        if self.index is not None:
            return self.index.dim() == 1
        return self.seed is not None and not self.per_sample

    @staticmethod
    def of(draw: Draw, device: torch.device) -> Permutation:
        """Return the permutation of a draw; a table is checked."""
        seed, index, per_sample = draw.tensors(device)
        if index is not None and not draw.valid:
            checks.bijection(index)
        return Permutation(seed, index, per_sample)


def order_mask(orders: Sequence[int]) -> int:
    """Return a set of orders as the kernels' bit mask: bit n stands for order n."""
    return sum(1 << n for n in orders)


def permutation(
    seed: Tensor, size: int, *, samples: int | None = None, inverse: bool = False
) -> Tensor:
    """Return permutation v1 of a seed (1,), int64: (size,), or (samples, size)."""
    out = torch.empty((samples or 1, size), dtype=torch.int64, device=seed.device)
    write_table(seed, out, inverse)
    return out[0] if samples is None else out


def source_of(permutation: Permutation, x: Tensor, rows: int = 1) -> tuple[Mode, Tensor, int]:
    """Return how a kernel finds the permutation of rows x: mode, table, the table's row stride.

    With `rows` the table of a shared permutation is that of a matrix of so many rows, by columns.
    """
    seed, index = permutation.seed, permutation.index
    if permutation.shared:
        mode = Mode.TABLE if rows == 1 else Mode.COLUMNS
        return mode, _shared_table(permutation, x.shape[1], rows), 0
    if index is not None:
        index = index.contiguous()
        return Mode.TABLE, index, index.stride(0)
    return (Mode.NONE if seed is None else Mode.SEED), x, 0


def _shared_table(permutation: Permutation, dimension: int, rows: int) -> Tensor:
    """Return a shared permutation (D,), by columns of a matrix of so many rows."""
    if permutation.index is not None:
        return permutation.index.reshape(rows, -1).t().contiguous()
    assert permutation.seed is not None
    out = torch.empty((1, dimension), dtype=torch.int32, device=permutation.seed.device)
    write_table(permutation.seed, out, False, rows)
    return out


def write_table(seed: Tensor, out: Tensor, inverse: bool, rows: int = 1) -> None:
    """Write the permutation of each sample into its row of `out` (samples, D).

    It is taken as a matrix of so many rows, and written by columns.
    """
    samples, dimension = out.shape
    tile = parameters.table_tile(dimension)
    with launching(seed.device, "permutation"):
        permutation_table[(-(-dimension // tile) * samples,)](
            seed=seed,
            out=out,
            D=dimension,
            BITS=parameters.permutation_bits(dimension),
            INVERSE=inverse,
            TILE=tile,
            ROWS=rows,
            **compiler(4),
        )
