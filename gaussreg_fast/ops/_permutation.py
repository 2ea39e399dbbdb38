"""Permutations: drawn from a seed, or given and validated."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from gaussreg_fast import checks, native, reference
from gaussreg_fast.dispatch import resolve
from gaussreg_fast.ops._draw import Draw
from gaussreg_fast.ops._registry import direct, register


def _permutation(seed: Tensor, size: int, samples: int, inverse: bool, backend: str) -> Tensor:
    """(size,) where samples is 0, else (samples, size)."""
    backend = resolve(backend, seed.device)
    if backend == "triton":
        from gaussreg_fast import launch

        return launch.permutation(seed, size, samples, inverse)
    many = samples or None
    if backend == "native":
        return native.permutation(int(seed.item()), size, samples=many, inverse=inverse)
    return reference.permutation(seed, size, samples=many, inverse=inverse)


_permutation_op = register(
    "permutation",
    "(Tensor seed, SymInt size, SymInt samples, bool inverse, str backend) -> Tensor",
    _permutation,
    lambda seed, size, samples, inverse, backend: torch.empty(
        (samples, size) if samples else (size,), dtype=torch.int64, device=seed.device
    ),
)


def permutation(seed: Tensor, size: int, samples: int, inverse: bool, backend: str) -> Tensor:
    """Permutation v1: (size,) for samples = 0, else (samples, size), int64."""
    call = _permutation if direct(seed) else _permutation_op
    return call(seed, size, samples, inverse, backend)


def _index(
    seed: Tensor | None,
    index: Tensor | None,
    per_sample: bool,
    batch: int,
    size: int,
    backend: str,
) -> Tensor:
    """The int64 index of a permutation that is drawn from a seed, or given (a copy of it)."""
    if index is not None:
        checks.bijection(index)
        return index.to(torch.int64, copy=True)
    assert seed is not None
    return _permutation(seed, size, batch if per_sample else 0, False, backend)


def _index_fake(
    seed: Tensor | None, index: Tensor | None, per_sample: bool, batch: int, size: int, backend: str
) -> Tensor:
    if index is not None:
        return torch.empty_like(index, dtype=torch.int64)
    assert seed is not None
    shape = (batch, size) if per_sample else (size,)
    return torch.empty(shape, dtype=torch.int64, device=seed.device)


_index_op = register(
    "index",
    "(Tensor? seed, Tensor? index, bool per_sample, SymInt batch, SymInt size, str backend) "
    "-> Tensor",
    _index,
    _index_fake,
)


def index(seed: Tensor | None, index: Tensor | None, *options: Any) -> Tensor | None:
    """The permutation as an index (size,) or (batch, size), None for none; see `_index`."""
    given = index if seed is None else seed
    if given is None:
        return None
    return (_index if direct(given) else _index_op)(seed, index, *options)


def index_for(
    x: Tensor, seed: Tensor | None, index: Tensor | None, per_sample: bool, backend: str
) -> Tensor | None:
    """Within an implementation: the index for the batch x, or None for no permutation."""
    if seed is None and index is None:
        return None
    return _index(seed, index, per_sample, x.shape[0], math.prod(x.shape[1:]), backend)


def permutation_for(seed: Tensor | None, index: Tensor | None, per_sample: bool) -> Any:
    """Within an implementation: the permutation as `launch` takes it."""
    from gaussreg_fast import launch

    if index is not None:
        checks.bijection(index)
    return launch.Permutation(seed, index, per_sample)


def native_permutation(draw: Draw) -> native.Permutation:
    """Within an implementation: the permutation as `native` takes it."""
    index = draw.table
    if index is not None:
        index = index.to(torch.int64, copy=True)  # nobody changes it while C++ reads
        checks.bijection(index)
    return native.Permutation(draw.number(), index, draw.per_sample)
