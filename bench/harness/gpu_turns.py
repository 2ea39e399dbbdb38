"""Calls on a GPU that go round rotating buffers, or are replayed from a graph."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

SPIN_PER_SECOND = 2e9  # cycles; a device that clocks lower spins longer, which does no harm


class Turns:
    """A call that goes round the buffers. Each result lives until its buffer's next turn."""

    def __init__(self, call: Callable[[int], Any], buffers: int) -> None:
        self.call, self.buffers, self.turn = call, buffers, 0
        self.kept: list[Any] = [None] * buffers

    def __call__(self, repeats: int = 1) -> float:
        """Seconds until so many calls are queued."""
        begin = time.perf_counter()
        for _ in range(repeats):
            slot = self.turn % self.buffers
            self.turn += 1
            self.kept[slot] = self.call(slot)
        return time.perf_counter() - begin


@dataclass(frozen=True)
class Replay:
    """A captured call, with what its graph reads and writes; `result` is written anew each time."""

    graph: Any
    call: Callable[[int], Any]
    result: Any

    def __call__(self, _: int) -> None:
        self.graph.replay()


def warm(turn: Turns, seconds: float = 0.5) -> None:
    """A turn of every buffer, so that memory is there for all; fewer of a slow call."""
    begin = time.perf_counter()
    for _ in range(max(2, turn.buffers)):
        turn()
        if time.perf_counter() - begin > seconds:
            break


def waits(turn: Turns, alone: float, spin: float = 5e-3) -> bool:
    """Whether a call that takes the host so long alone waits for what the device does before it."""
    torch.cuda._sleep(int(spin * SPIN_PER_SECOND))
    spent = turn()
    torch.cuda.synchronize()
    return spent > alone + spin / 2
