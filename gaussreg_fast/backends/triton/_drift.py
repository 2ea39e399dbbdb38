"""Parameter drift: the table of a list of tensors, two launches, and streaming of a CPU base."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gaussreg_fast.backends._lists import NUMBERS, flattened
from gaussreg_fast.backends.triton import parameters
from gaussreg_fast.backends.triton._device import compiler, launching
from gaussreg_fast.kernels.drift import drift as drift_kernel
from gaussreg_fast.kernels.drift import drift_sum
from gaussreg_fast.spec import DriftTask

Lists = tuple[list[Tensor], list[Tensor], list[Tensor], list[float]]  # params, base, grads, scales
# How often each task reads or writes a gradient.
_GRADIENT_MOVES = {DriftTask.VALUE: 0, DriftTask.GRADIENT: 1, DriftTask.ACCUMULATE: 2}


def drift(
    task: DriftTask,
    params: Sequence[Tensor],
    base: Sequence[Tensor] | None,
    grads: Sequence[Tensor],
    scales: Sequence[float],
    step: float | Tensor,
) -> Tensor:
    """Do as `native.drift`, on a GPU. A base on the CPU is streamed.

    `step` is a number, or a tensor with one element on the device, which the kernel reads: the host
    does not wait for it.
    """
    device = params[0].device
    streamed = {i for i, b in enumerate(base or []) if b.device != device}

    def select(chosen: Iterable[int]) -> Lists:
        chosen = list(chosen)
        lists = ([t[i] for i in chosen] if t else [] for t in (params, base or [], grads))
        return *lists, [scales[i] for i in chosen]  # type: ignore[return-value]

    sums = []
    if len(streamed) < len(params):
        resident = select(i for i in range(len(params)) if i not in streamed)
        sums.append(_launch(task, *resident, step))
    if streamed:
        sums += _stream(task, *select(sorted(streamed)), step)
    partials = sums[0] if len(sums) == 1 else torch.cat(sums)
    value = torch.empty((), dtype=torch.float32, device=device)
    with launching(device, "drift sum"):
        options = compiler(4)
        drift_sum[(1,)](
            partials=partials,
            value=value,
            count=len(partials),
            TILE=parameters.DRIFT_PARTIALS,
            **options,
        )
    return value


def _launch(
    task: DriftTask,
    params: Sequence[Tensor],
    base: Sequence[Tensor],
    grads: Sequence[Tensor],
    scales: Sequence[float],
    step: float | Tensor,
) -> Tensor:
    """Launch the kernel over flat tensors of one device; return the sums of its chunks."""
    device = params[0].device
    split = parameters.drift(sum(p.numel() for p in params))
    table, aligned, codes, chunks = _table(params, base, grads, scales, split.chunk)
    partials = torch.empty(max(1, chunks), dtype=torch.float32, device=device)
    if not chunks:
        return partials.zero_()
    if device.type != "cpu":
        table = table.pin_memory().to(device, non_blocking=True)
    step_loaded = isinstance(step, Tensor)
    with launching(device, f"drift {task.value}"):
        drift_kernel[(chunks,)](
            table=table,
            step=step if isinstance(step, Tensor) else partials,
            partials=partials,
            tensors=len(params),
            numbers=sum(p.numel() for p in params),
            bytes_moved=_bytes_moved(task, params, base),
            constant_step=1.0 if isinstance(step, Tensor) else float(step),
            TASK=task.value,
            CODES=codes,
            ALIGNED=aligned,
            STEP_LOADED=step_loaded,
            CHUNK=split.chunk,
            TILE=split.tile,
            **compiler(split.num_warps),
        )
    return partials


def _bytes_moved(task: DriftTask, params: Sequence[Tensor], base: Sequence[Tensor]) -> int:
    own = sum(p.numel() * p.element_size() for p in params)
    return own * (1 + _GRADIENT_MOVES[task]) + sum(b.numel() * b.element_size() for b in base)


def _table(
    params: Sequence[Tensor],
    base: Sequence[Tensor],
    grads: Sequence[Tensor],
    scales: Sequence[float],
    chunk: int,
) -> tuple[Tensor, bool, int, int]:
    """Return the table that kernels/drift.py describes, and properties of the list.

    These are: whether all tensors are aligned to 16 bytes, the mask of their types, and the number
    of chunks.
    """
    count = len(params)
    columns = np.zeros((6, count), dtype=np.int64)
    for column, tensors in zip(columns, (params, base, grads), strict=False):
        if tensors:
            column[:] = [t.data_ptr() for t in tensors]
    aligned = not bool((columns[:3] % 16).any())
    sizes, types = columns[3], columns[5]
    sizes[:] = [p.numel() for p in params]
    columns[4] = np.asarray(scales, dtype=np.float64).view(np.int64)
    types[:] = [4 * NUMBERS[p.dtype] for p in params]
    if base:
        types += [NUMBERS[b.dtype] for b in base]
    counts = -(-sizes // chunk)
    tensor = np.repeat(np.arange(count), counts)
    place = np.arange(len(tensor)) - np.repeat(np.cumsum(counts) - counts, counts)
    table = np.concatenate([columns.T.ravel(), tensor << 32 | place])
    codes = sum(1 << code for code in set(types.tolist()))
    return torch.from_numpy(table), aligned, codes, len(tensor)


# ---------------------------------------------------------------- a base on the CPU


def _stream(
    task: DriftTask,
    params: Sequence[Tensor],
    base: Sequence[Tensor],
    grads: Sequence[Tensor],
    scales: Sequence[float],
    step: float | Tensor,
) -> list[Tensor]:
    """Do the same in pieces: one is copied to the device while the one before is computed."""
    device = params[0].device
    params, base, grads = ([flattened(t) for t in one] for one in (params, base, grads))
    sums, buffers = [], [_Buffer(device), _Buffer(device)]
    for turn, piece in enumerate(_pieces(base, parameters.DRIFT_STAGING)):
        rows = [(params[i][a:b], grads[i][a:b] if grads else None) for i, a, b in piece]
        staged = buffers[turn % 2].fill([base[i][a:b] for i, a, b in piece])
        written = [g for _, g in rows if g is not None]
        chosen = [scales[i] for i, _, _ in piece]
        sums.append(_launch(task, [p for p, _ in rows], staged, written, chosen, step))
        buffers[turn % 2].free_after_launches()
    return sums


def _pieces(base: Sequence[Tensor], limit: int) -> Iterator[list[tuple[int, int, int]]]:
    """Yield lists of runs (tensor, begin, end) of flat tensors, at most `limit` bytes in a list."""
    piece: list[tuple[int, int, int]] = []
    room = limit
    for i, b in enumerate(base):
        begin, width = 0, b.element_size()
        while begin < b.numel():
            # Runs begin at multiples of 16 bytes in the buffer.
            end = min(b.numel(), begin + max(0, room) // 16 * 16 // width)
            if end == begin:
                yield piece
                piece, room = [], limit
                continue
            piece.append((i, begin, end))
            room -= -(-(end - begin) * width // 16) * 16
            begin = end
    if piece:
        yield piece


class _Buffer:
    """Memory on a device with a stream that fills it after all launches that read it."""

    def __init__(self, device: torch.device):
        self.device = device
        self.memory = torch.empty(parameters.DRIFT_STAGING, dtype=torch.uint8, device=device)
        self.stream: Any = None
        if device.type != "cpu":
            self.stream = torch.cuda.Stream(device)
            # Work on the current stream may still use the memory that the allocator reuses here.
            self.stream.wait_stream(torch.cuda.current_stream(device))
            self.memory.record_stream(self.stream)

    def fill(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """Copy flat tensors here; launches that follow on the current stream can read them."""
        copies, at = [], 0
        with torch.cuda.stream(self.stream) if self.stream else contextlib.nullcontext():
            for part in parts:
                size = part.numel() * part.element_size()
                copy = self.memory[at : at + size].view(part.dtype)
                copy.copy_(part, non_blocking=True)  # only from pinned memory the host goes ahead
                copies.append(copy)
                at += -(-size // 16) * 16
        if self.stream:
            torch.cuda.current_stream(self.device).wait_stream(self.stream)
        return copies

    def free_after_launches(self) -> None:
        """Let the next `fill` wait for the launches so far: no later one reads the copies."""
        if self.stream:
            self.stream.wait_stream(torch.cuda.current_stream(self.device))
