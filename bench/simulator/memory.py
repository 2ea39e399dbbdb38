"""Guarded memory: tensors between red zones, with a note of every byte that nobody has written."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from bench.simulator.core import Region

GUARD = 4096  # bytes on either side that belong to no argument of a launch
POISON = 0xFF  # floating-point numbers of such bytes are NaN


class Memory:
    """The tensors of one simulation."""

    def __init__(self) -> None:
        # Address -> bytes not written yet. Tensors are kept, so that no address is used twice.
        self._unwritten: dict[int, tuple[np.ndarray, Tensor]] = {}
        self._kept: list[Tensor] = []
        self._guarded: list[tuple[int, int]] = []
        # Whether kernels read addresses from memory: they may touch any tensor of here then.
        self.indirect = False

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """An uninitialised tensor: reading it before a kernel or the host wrote it is an error."""
        tensor, whole = self._new(shape, dtype)
        if tensor.numel():
            size = tensor.numel() * tensor.element_size()
            self._unwritten[tensor.data_ptr()] = (np.ones(size, np.uint8), whole)
        return tensor

    def placed(self, x: Tensor) -> Tensor:
        """A contiguous copy of an input between red zones."""
        return self._new(tuple(x.shape), x.dtype)[0].copy_(x)

    def _new(self, shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """A tensor at a multiple of 256 bytes, as CUDA's allocator gives, and all bytes around."""
        size = math.prod(shape) * dtype.itemsize
        whole = torch.full((size + 2 * GUARD + 256,), POISON, dtype=torch.uint8, device="cpu")
        start = -whole.data_ptr() % 256 + GUARD
        begin = whole.data_ptr() + start
        self._kept.append(whole)
        self._guarded.append((begin, begin + size))
        return whole[start : start + size].view(dtype).view(shape), whole

    def regions(self, arguments: Iterable[Any]) -> list[Region]:
        """What a launch with these arguments may touch, in the order of addresses."""
        extents = {_extent(a) for a in arguments if isinstance(a, Tensor) and a.numel()}
        if self.indirect:
            extents |= {(begin, end) for begin, end in self._guarded if begin < end}
        merged: list[list[int]] = []
        for begin, end in sorted(extents):
            if merged and begin < merged[-1][1]:
                merged[-1][1] = max(merged[-1][1], end)
            else:
                merged.append([begin, end])
        return [Region(begin, end - begin, self._noted(begin, end)) for begin, end in merged]

    def _noted(self, begin: int, end: int) -> np.ndarray | None:
        """The note of the bytes from `begin` to `end`, less what the host has written since."""
        for at, (unwritten, whole) in self._unwritten.items():
            if at <= begin and end <= at + len(unwritten):
                offset = at - whole.data_ptr()
                unwritten &= whole.numpy()[offset : offset + len(unwritten)] == POISON
                return unwritten[begin - at : end - at]
        return None

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Within, `torch.empty`, `empty_like` and `new_empty` give tensors of this memory."""
        empty, like, new = torch.empty, torch.empty_like, torch.Tensor.new_empty

        def on_cpu(device: Any) -> bool:
            return device is None or torch.device(device).type == "cpu"

        def empty_here(*size: Any, dtype: Any = None, device: Any = None, **rest: Any) -> Tensor:
            if rest or not on_cpu(device):
                return empty(*size, dtype=dtype, device=device, **rest)
            return self.empty(_shape(size), dtype or torch.get_default_dtype())

        def like_here(x: Tensor, *, dtype: Any = None, device: Any = None, **rest: Any) -> Tensor:
            if set(rest) - {"memory_format"} or not x.is_contiguous() or not on_cpu(device):
                return like(x, dtype=dtype, device=device, **rest)
            return self.empty(tuple(x.shape), dtype or x.dtype)

        def new_here(x: Tensor, *size: Any, dtype: Any = None, **rest: Any) -> Tensor:
            if rest or not on_cpu(x.device):
                return new(x, *size, dtype=dtype, **rest)
            return self.empty(_shape(size), dtype or x.dtype)

        with (
            mock.patch.object(torch, "empty", empty_here),
            mock.patch.object(torch, "empty_like", like_here),
            mock.patch.object(torch.Tensor, "new_empty", new_here),
        ):
            yield


def _shape(size: tuple[Any, ...]) -> tuple[int, ...]:
    """(2, 3), ((2, 3),) and (torch.Size((2, 3)),) are the same size."""
    return tuple(size[0]) if len(size) == 1 and not isinstance(size[0], int) else size


def _extent(x: Tensor) -> tuple[int, int]:
    """The first byte of a view with elements, and the one after its last."""
    last = sum((n - 1) * stride for n, stride in zip(x.shape, x.stride(), strict=True))
    return x.data_ptr(), x.data_ptr() + (last + 1) * x.element_size()
