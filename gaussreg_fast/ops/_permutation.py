"""Permutations: drawn from a seed, or given and validated."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gaussreg_fast import checks
from gaussreg_fast.backends import choose
from gaussreg_fast.ops._operator import Operator
from gaussreg_fast.spec import Draw, Source


def _permutation(seed: Tensor, size: int, samples: int, inverse: bool, backend: str) -> Tensor:
    """Return permutation v1, int64: (size,) if samples is 0, else (samples, size)."""
    kernels = choose(backend, seed, "seed")
    return kernels.permutation(seed, size, samples=samples or None, inverse=inverse)


permutation = Operator(
    "permutation",
    "(Tensor seed, SymInt size, SymInt samples, bool inverse, str backend) -> Tensor",
    _permutation,
    lambda seed, size, samples, inverse, backend: torch.empty(
        (samples, size) if samples else (size,), dtype=torch.int64, device=seed.device
    ),
)


def _index(given: Tensor, seeded: bool, per_sample: bool, batch: int, size: int) -> Tensor:
    """Return an int64 index: the permutation of a seed, or a checked copy of a given one."""
    if not seeded:
        checks.bijection(given)
        return given.to(torch.int64, copy=True)
    return _permutation(given, size, batch if per_sample else 0, False, "auto")


def _index_fake(given: Tensor, seeded: bool, per_sample: bool, batch: int, size: int) -> Tensor:
    if not seeded:
        return torch.empty_like(given, dtype=torch.int64)
    shape = (batch, size) if per_sample else (size,)
    return torch.empty(shape, dtype=torch.int64, device=given.device)


_index_op = Operator(
    "index",
    "(Tensor given, bool seeded, bool per_sample, SymInt batch, SymInt size) -> Tensor",
    _index,
    _index_fake,
)


def index(draw: Draw, x: Tensor) -> Tensor | None:
    """Return the index (D,) or (B, D) of a draw for the batch x, or None without permutation."""
    seed, table, per_sample = draw.tensors(x.device)
    given = table if seed is None else seed
    if given is None:
        return None
    return _index_op(given, seed is not None, per_sample, x.shape[0], math.prod(x.shape[1:]))


def prepare(draw: Draw, x: Tensor, backend: str) -> Draw:
    """Return the draw for the batch x with the permutation of a float64 batch already made.

    "auto" computes float64 in plain torch, but a permutation holds integers: the kernels make it.
    """
    if backend != "auto" or x.dtype != torch.float64 or not draw.seeded:
        return draw
    seed, _, per_sample = draw.tensors(x.device)
    samples = x.shape[0] if per_sample else 0
    assert seed is not None
    table = _permutation(seed, math.prod(x.shape[1:]), samples, False, "auto")
    return Draw(Source.TABLE, table=table, valid=True)
