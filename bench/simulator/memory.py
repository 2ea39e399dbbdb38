"""Watched memory: tensors between red zones, with a flag for every unwritten byte."""

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

RED_ZONE = 4096  # bytes on either side of a tensor that belong to no argument of a launch
NAN_BYTE, INTEGER_BYTE = 0xFF, 0xA5  # poison of new tensors: NaN, and integers that do not occur


class Memory:
    """The tensors of one simulation."""

    def __init__(self) -> None:
        # Address -> bytes not written yet.
        self._unwritten: dict[int, tuple[np.ndarray, Tensor]] = {}
        self._versions: dict[int, int] = {}
        self._guarded: list[tuple[int, int]] = []
        self._kept: list[Tensor] = []
        # Whether kernels read addresses from memory: then they may access every tensor in it.
        self.indirect = False

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Allocate a tensor; reading it before a kernel or the host has written it is an error."""
        tensor = self._new(shape, dtype)
        if tensor.numel():
            size = tensor.numel() * tensor.element_size()
            self._unwritten[tensor.data_ptr()] = (np.ones(size, np.uint8), tensor)
            self._versions[tensor.data_ptr()] = tensor._version
        return tensor

    def place(self, x: Tensor) -> Tensor:
        """Copy an input between red zones, contiguously."""
        return self._new(tuple(x.shape), x.dtype).copy_(x)

    def holds(self, x: Tensor) -> bool:
        """Return whether a tensor lies in this memory."""
        return any(begin <= x.data_ptr() < end for begin, end in self._guarded)

    def move(self, x: Tensor) -> Tensor:
        """Return an input unchanged, because kernels run on any CPU memory."""
        return x

    def _new(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Allocate a tensor at a multiple of 256 bytes, like CUDA's allocator."""
        size = math.prod(shape) * dtype.itemsize
        whole = torch.full(
            (size + 2 * RED_ZONE + 256,), _poison(dtype), dtype=torch.uint8, device="cpu"
        )
        self._kept.append(whole)  # kept alive, so that no address is used twice
        start = -whole.data_ptr() % 256 + RED_ZONE
        begin = whole.data_ptr() + start
        self._guarded.append((begin, begin + size))
        return whole[start : start + size].view(dtype).view(shape)

    def regions(self, arguments: Iterable[Any]) -> list[Region]:
        """Return the memory that a launch with these arguments may use, by address."""
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
        """Return the flags of the bytes from `begin` to `end`, updated for the host's writes."""
        for at, (unwritten, tensor) in self._unwritten.items():
            if at <= begin and end <= at + len(unwritten):
                self._clear_written(at, unwritten, tensor)
                return unwritten[begin - at : end - at]
        return None

    def _clear_written(self, at: int, unwritten: np.ndarray, tensor: Tensor) -> None:
        """Clear the flags of numbers without poison, because torch's operators do not."""
        if tensor._version == self._versions[at]:
            return  # only kernels have written, which clear the flags themselves
        width = tensor.element_size()
        if width == 1:  # poison may be a number of one byte, so that all counts as written
            unwritten[:] = 0
            return
        raw = tensor.detach().reshape(-1).view(torch.uint8).numpy().reshape(-1, width)
        poisoned = (raw == _poison(tensor.dtype)).all(1)
        unwritten &= np.repeat(poisoned, width)

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Make `torch.empty`, `empty_like` and `new_empty` allocate in this memory in the body."""
        empty, like, new = torch.empty, torch.empty_like, torch.Tensor.new_empty

        def on_cpu(device: Any) -> bool:
            return device is None or torch.device(device).type == "cpu"

        def empty_here(*size: Any, dtype: Any = None, device: Any = None, **rest: Any) -> Tensor:
            if rest or not on_cpu(device):
                return empty(*size, dtype=dtype, device=device, **rest)
            return self.empty(_shape(size), dtype or torch.get_default_dtype())

        def like_here(input: Tensor, *, dtype: Any = None, device: Any = None, **rest: Any) -> Any:
            simple = input.is_contiguous() and not set(rest) - {"memory_format"}
            if not simple or not on_cpu(input.device if device is None else device):
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
    """Convert (2, 3), ((2, 3),) and (torch.Size((2, 3)),) to the same shape."""
    if len(size) == 1 and not isinstance(size[0], numbers.Integral):
        size = tuple(size[0])
    return tuple(operator.index(n) for n in size)


def _poison(dtype: torch.dtype) -> int:
    """Return the byte that fills new memory."""
    return NAN_BYTE if dtype.is_floating_point or dtype.is_complex else INTEGER_BYTE


def extent(x: Tensor) -> tuple[int, int]:
    """Return the address of a view's first byte, and of the byte after its last."""
    last = sum((n - 1) * stride for n, stride in zip(x.shape, x.stride(), strict=True))
    return x.data_ptr(), x.data_ptr() + (last + 1) * x.element_size()
