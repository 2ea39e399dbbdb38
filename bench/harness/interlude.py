"""What lies between two calls in a user's loop: the passes of a model, imitated.

A user meets the loss once between two passes of a model. They have filled the caches with other
data, and instruction caches and branch predictors with other code, and have kept the core busy. So
the time between two calls is spent on work, without waiting: a core that sleeps lowers its clock or
is given to another program, and one that spins keeps the code of the last call. For one latent of
16384 numbers calls after a spin took 0.6 of their time after work, and calls after a sleep 1.1.
"""

from __future__ import annotations

import time
from functools import cache

import torch
from torch.nn import functional

# Bytes that are read and written: twice a third cache of 32 MiB. After 16 MiB such a cache keeps a
# share of the call's data that depends on other programs, so that times scatter several times more.
TOUCHED = 2**26
LEAST = 2e-3  # seconds
PARTS = 8  # touched one after the other, so that threads never idle for most of the time
WIDTH = 64


class Interlude:
    """Work of another kind, which evicts a call's data and code."""

    def __init__(self) -> None:
        size = TOUCHED // 4 // PARTS
        options = {"dtype": torch.float32, "device": "cpu"}
        self.parts = [torch.ones(size, **options) for _ in range(PARTS)]
        self.x = torch.ones(8, WIDTH, **options)
        self.weight = torch.eye(WIDTH, **options).requires_grad_()

    def __call__(self) -> None:
        """Touch `TOUCHED` bytes, and compute; it takes `LEAST` seconds or longer."""
        begin = time.perf_counter()
        for number, part in enumerate(self.parts, 1):
            part.neg_()
            self._pass()
            while time.perf_counter() - begin < LEAST * number / PARTS:
                self._pass()

    @torch.enable_grad()
    def _pass(self) -> None:
        """Run a small layer forward and backward: Python, the dispatcher, autograd, kernels."""
        self.weight.grad = None
        x = functional.layer_norm(self.x, (WIDTH,))
        x = functional.gelu(functional.linear(x, self.weight))
        torch.softmax(x, dim=1).square().mean().backward()


@cache
def interlude() -> Interlude:
    """Return the process's interlude, whose memory is touched from the first call on."""
    return Interlude()
