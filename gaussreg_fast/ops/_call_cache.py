"""Calls that repeat an earlier one, and prepared ones: one step from Python to C++."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gaussreg_fast.backends import choose, native
from gaussreg_fast.ops._loss import record
from gaussreg_fast.spec import Draw, LossSpec


def _take_none(arguments: tuple) -> None:
    """Stand for a cache that knows no call."""


def _fill_none(arguments: tuple) -> bool:
    """Stand for a prepared call that takes no tensor."""
    return False


def prepare(
    draw: Draw, spec: LossSpec, results: tuple[Tensor, Tensor], scale: float, backend: str
) -> Callable[[tuple], bool]:
    """Return a call `((x, seed, generator)) -> bool` that fills the results without an allocation.

    The results are losses (B,) or, for a sample alone, (), and `scale` times their gradients. It
    returns False, and does nothing, where it cannot compute x.
    """
    fits = choose(backend, results[1]) is native
    return (fits and native.prepare(draw, spec, results, scale)) or _fill_none


class CallCache:
    """The calls of one public function that C++ takes: those that repeat an earlier one.

    In a loop every call runs with cold caches, where each step in Python costs a microsecond. So
    the options of a call that was checked are kept, and C++ compares the next call's with them.

    Args:
        method: "loss" or "value_and_grad", the results of the function.

    Attributes:
        take: `((x, seed, *options))` -> the results, or None if the function has to check the call.
            Not to be called under torch.compile, which cannot trace it.
    """

    def __init__(self, method: str):
        self._method = method
        self._calls: Any = None
        self.take: Any = _take_none

    def keep(self, x: Tensor, options: tuple, draw: Draw, spec: LossSpec, backend: str) -> None:
        """Let C++ take calls with these options, which were checked, if it can compute x."""
        if torch.compiler.is_compiling() or not x.is_cpu or x.shape[0] != 1:
            return
        if spec.reduction == "none" or draw.table is not None or choose(backend, x) is not native:
            return
        if self._calls is None:
            self._calls = native.call_cache(record)
            self.take = getattr(self._calls, self._method, _take_none)
        if self._calls is not None:
            native.keep(self._calls, options, draw, spec)
