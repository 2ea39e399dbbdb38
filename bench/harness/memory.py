"""Measure the peak of memory that a call adds, its results included."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

_STATUS = Path("/proc/self/status")
_RESET = Path("/proc/self/clear_refs")


def allocated(call: Callable[[int], Any]) -> int:
    """Return the peak of torch's GPU allocator during a call, in bytes beyond the state before."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    result = call(0)
    torch.cuda.synchronize()
    del result
    return torch.cuda.max_memory_allocated() - before


def resident(call: Callable[[int], Any]) -> int | None:
    """Return the peak of resident memory during a second call, in bytes beyond the state before.

    It includes C++'s allocations, but not memory that a library kept from the first call
    (workspaces, plans). Linux only: None if the kernel's high-water mark cannot be reset.
    """
    result = call(0)
    del result
    with contextlib.suppress(AttributeError, OSError):  # glibc alone can return free memory
        ctypes.CDLL(None).malloc_trim(0)
    try:
        _RESET.write_text("5", encoding="ascii")
        before = _kilobytes("VmRSS")
        result = call(0)
        peak = _kilobytes("VmHWM")
    except OSError:
        return None
    del result
    return max(0, peak - before) * 1024


def _kilobytes(key: str) -> int:
    for line in _STATUS.read_text(encoding="ascii").splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1])
    raise OSError(f"{_STATUS} has no {key}")
