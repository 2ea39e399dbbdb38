"""The most memory that a call adds while it runs, its results among it."""

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
    """On a GPU: the allocator's peak during the call beyond what was allocated before."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    result = call(0)
    torch.cuda.synchronize()
    del result
    return torch.cuda.max_memory_allocated() - before


def resident(call: Callable[[int], Any]) -> int | None:
    """On the CPU: the peak of resident memory during a second call, beyond what was resident.

    It sees what C++ allocates as well, but not what a library kept from an earlier call
    (workspaces, plans). Linux only: None where the kernel's high-water mark cannot be reset.
    """
    result = call(0)
    del result
    with contextlib.suppress(AttributeError, OSError):  # glibc's: give free memory back
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
