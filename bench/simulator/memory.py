"""Guarded memory: tensors between red zones, with a note of every byte that nobody has written."""

from __future__ import annotations

import contextlib
import math
import numbers
import operator
from collections.abc import Iterable, Iterator
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from bench.simulator.core import Region

GUARD = 4096  # bytes on either side that belong to no argument of a launch
NAN_BYTE, INTEGER_BYTE = 0xFF, 0xA5  # of new tensors: a NaN, and numbers that nobody counts to


class Memory:
    """The tensors of one simulation."""

    def __init__(self) -> None:
        # Address -> bytes not written yet.
        self._unwritten: dict[int, tuple[np.ndarray, Tensor]] = {}
        self._versions: dict[int, int] = {}
        self._guarded: list[tuple[int, int]] = []
        self._kept: list[Tensor] = []
        # Whether kernels read addresses from memory: they may touch any tensor of here then.
        self.indirect = False

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """An uninitialised tensor: reading it before a kernel or the host wrote it is an error."""
        tensor = self._new(shape, dtype)
        if tensor.numel():
            size = tensor.numel() * tensor.element_size()
            self._unwritten[tensor.data_ptr()] = (np.ones(size, np.uint8), tensor)
            self._versions[tensor.data_ptr()] = tensor._version
        return tensor

    def placed(self, x: Tensor) -> Tensor:
        """A contiguous copy of an input between red zones."""
        return self._new(tuple(x.shape), x.dtype).copy_(x)

    def holds(self, x: Tensor) -> bool:
        """Whether a tensor lies here."""
        return any(begin <= x.data_ptr() < end for begin, end in self._guarded)

    def moved(self, x: Tensor) -> Tensor:
        """An input that is given as it is: kernels run where it lies."""
        return x

    def _new(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A tensor at a multiple of 256 bytes, as CUDA's allocator gives."""
        size = math.prod(shape) * dtype.itemsize
        whole = torch.full(
            (size + 2 * GUARD + 256,), _poison(dtype), dtype=torch.uint8, device="cpu"
        )
        self._kept.append(whole)  # so that no address is used twice
        start = -whole.data_ptr() % 256 + GUARD
        begin = whole.data_ptr() + start
        self._guarded.append((begin, begin + size))
        return whole[start : start + size].view(dtype).view(shape)

    def regions(self, arguments: Iterable[Any]) -> list[Region]:
        """What a launch with these arguments may touch, in the order of addresses."""
        extents = {extent(a) for a in arguments if isinstance(a, Tensor) and a.numel()}
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
        for at, (unwritten, tensor) in self._unwritten.items():
            if at <= begin and end <= at + len(unwritten):
                self._look(at, unwritten, tensor)
                return unwritten[begin - at : end - at]
        return None

    def _look(self, at: int, unwritten: np.ndarray, tensor: Tensor) -> None:
        """Takes numbers that are no poison any more for written: torch's operators say nothing."""
        if tensor._version == self._versions[at]:
            return  # kernels alone have written: they note it themselves
        width = tensor.element_size()
        if width == 1:  # any byte may be a number: all of it counts as written
            unwritten[:] = 0
            return
        raw = tensor.detach().reshape(-1).view(torch.uint8).numpy().reshape(-1, width)
        poisoned = (raw == _poison(tensor.dtype)).all(1)
        unwritten &= np.repeat(poisoned, width)

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

        def like_here(input: Tensor, *, dtype: Any = None, device: Any = None, **rest: Any) -> Any:
            plain = input.is_contiguous() and not set(rest) - {"memory_format"}
            if not plain or not on_cpu(input.device if device is None else device):
                return like(input, dtype=dtype, device=device, **rest)
            return self.empty(tuple(input.shape), dtype or input.dtype)

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
    if len(size) == 1 and not isinstance(size[0], numbers.Integral):
        size = tuple(size[0])
    return tuple(operator.index(n) for n in size)


def _poison(dtype: torch.dtype) -> int:
    """The byte that new memory is filled with."""
    return NAN_BYTE if dtype.is_floating_point or dtype.is_complex else INTEGER_BYTE


def extent(x: Tensor) -> tuple[int, int]:
    """The first byte of a view with elements, and the one after its last."""
    last = sum((n - 1) * stride for n, stride in zip(x.shape, x.stride(), strict=True))
    return x.data_ptr(), x.data_ptr() + (last + 1) * x.element_size()
