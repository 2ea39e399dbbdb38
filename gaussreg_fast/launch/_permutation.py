"""How samples are permuted, as the kernels take it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gaussreg_fast import config
from gaussreg_fast.kernels.permutation import permutation_table
from gaussreg_fast.launch._device import compiler, on


@dataclass(frozen=True)
class Permutation:
    """A seed (one permutation shared by the batch, or one per sample), an index, or none.

    `seed` is int64 with one element, `index` an integer tensor (D,) or (B, D), validated.
    """

    seed: Tensor | None = None
    index: Tensor | None = None
    per_sample: bool = False


def permutation(seed: Tensor, dimension: int, samples: int, inverse: bool) -> Tensor:
    """Permutation v1, int64: (D,) where samples is 0, else (samples, D)."""
    out = torch.empty((max(samples, 1), dimension), dtype=torch.int64, device=seed.device)
    write_table(seed, out, inverse)
    return out if samples else out[0]


def shared_table(seed: Tensor, dimension: int) -> Tensor:
    """The shared permutation, int32 (1, D)."""
    out = torch.empty((1, dimension), dtype=torch.int32, device=seed.device)
    write_table(seed, out, False)
    return out


def source_of(permutation: Permutation, x: Tensor) -> tuple[str, Tensor, int]:
    """How a kernel finds the permutation of rows x: its MODE, the table, the table's row stride."""
    seed, index = permutation.seed, permutation.index
    if index is not None:
        index = index.contiguous()
        return "table", index, 0 if index.dim() == 1 else index.stride(0)
    if seed is None:
        return "none", x, 0
    if permutation.per_sample:
        return "seed", x, 0
    return "table", shared_table(seed, x.shape[1]), 0


def write_table(seed: Tensor, out: Tensor, inverse: bool) -> None:
    """Permutations of the rows' samples into `out` (samples, D)."""
    samples, dimension = out.shape
    tile = config.table_tile(dimension)
    with on(seed.device, "permutation"):
        permutation_table[(-(-dimension // tile) * samples,)](
            seed=seed,
            out=out,
            D=dimension,
            BITS=config.permutation_bits(dimension),
            INVERSE=inverse,
            TILE=tile,
            **compiler(4),
        )
