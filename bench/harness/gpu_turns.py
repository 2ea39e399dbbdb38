"""Calls on a GPU that rotate over buffers, or are replayed from a CUDA graph."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

SPIN_PER_SECOND = 2e9  # cycles; a device with a lower clock spins longer, which does no harm


class Turns:
    """A call that rotates over buffers. Each result lives until its buffer's next turn."""

    def __init__(self, call: Callable[[int], Any], buffers: int) -> None:
        self.call, self.buffers, self.turn = call, buffers, 0
        self.kept: list[Any] = [None] * buffers

    def __call__(self, repeats: int = 1) -> float:
        """Queue `repeats` calls; return the seconds until all are queued."""
        begin = time.perf_counter()
        for _ in range(repeats):
            slot = self.turn % self.buffers
            self.turn += 1
            self.kept[slot] = self.call(slot)
        return time.perf_counter() - begin


@dataclass(frozen=True)
class Replay:
    """A captured call with the memory of its graph; every replay overwrites `result`."""

    graph: Any
    call: Callable[[int], Any]
    result: Any

    def __call__(self, _: int) -> None:
        self.graph.replay()


def warm(turn: Turns, seconds: float = 0.5) -> None:
    """Take a turn on every buffer, so that all memory is allocated; fewer turns of a slow call."""
    begin = time.perf_counter()
    for _ in range(max(2, turn.buffers)):
        turn()
        if time.perf_counter() - begin > seconds:
            break


def waits(turn: Turns, alone: float, spin: float = 5e-3) -> bool:
    """Return whether a call waits for the device's earlier work.

    Args:
        turn: the call.
        alone: seconds that the call takes the host on an idle device.
        spin: seconds of work to queue before the call.
    """
    torch.cuda._sleep(int(spin * SPIN_PER_SECOND))
    spent = turn()
    torch.cuda.synchronize()
    return spent > alone + spin / 2
