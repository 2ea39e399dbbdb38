"""Shared by all launches: properties of the device, its guard, roots of unity, NVTX ranges."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
import triton
from torch import Tensor

from gaussreg_fast.backends.choice import device_number


@functools.cache
def arch(device: torch.device) -> str:
    """Return the architecture: sm_90, gfx942, ...; "cpu" in the interpreter."""
    if device.type == "cpu":
        return "cpu"
    properties = torch.cuda.get_device_properties(device)
    if torch.version.hip:
        return properties.gcnArchName.split(":")[0]
    return f"sm_{properties.major}{properties.minor}"


@functools.cache
def shared_memory(device: torch.device) -> int:
    """Return the bytes of shared memory that one program may have."""
    if device.type == "cpu":
        return 227 * 1024  # in the interpreter as on sm_90
    properties = triton.runtime.driver.active.utils.get_device_properties(device_number(device))
    return int(properties["max_shared_mem"])


def compiler(num_warps: int) -> dict[str, Any]:
    """Return the options of a launch. fp_fusion is explicit: Triton 3.10 changes its default."""
    return {"num_warps": num_warps, "enable_fp_fusion": True}


@contextlib.contextmanager
def launching(device: torch.device, name: str) -> Iterator[None]:
    """Send the launches within to `device`, in an NVTX range of the domain gaussreg_fast.

    Without the package nvtx there are no ranges.
    """
    ranges = _ranges()
    if ranges is not None:
        ranges.push_range(_range(name))
    try:
        if device.type == "cpu":
            yield
        else:
            with torch.cuda.device(device):
                yield
    finally:
        if ranges is not None:
            ranges.pop_range()


@functools.cache
def _ranges() -> Any:
    """Return the NVTX domain, or None without the package nvtx, which only profilers need."""
    try:
        import nvtx
    except ImportError:
        return None
    return nvtx.get_domain("gaussreg_fast")


@functools.cache
def _range(name: str) -> Any:
    return _ranges().get_event_attributes(message=name)


_roots: dict[tuple[torch.device, int], Tensor] = {}


def roots(dimension: int, device: torch.device) -> Tensor:
    """Return exp(-2 pi i k / N) for N = 2, 4, .. D and k < N / 2, float32 (2 D,).

    Real parts come first, then imaginary ones; the roots of N begin at N / 2, and place
    0 is unused.

    The table is kept per device, and finished before it is returned, so that any stream can read
    it. Within a CUDA-graph capture a new table is made that belongs to the graph; a table kept
    from there would be empty until the first replay.
    """
    if (device, dimension) in _roots:
        return _roots[device, dimension]
    if device.type != "cpu" and torch.cuda.is_current_stream_capturing():
        return _new_roots(dimension, device)
    # In another thread: during the warm-up of torch.compile's CUDA graphs, this thread allocates
    # from their memory pool, which must not hold anything that is kept.
    with ThreadPoolExecutor(1) as pool:
        _roots[device, dimension] = pool.submit(_synchronised_roots, dimension, device).result()
    return _roots[device, dimension]


def _new_roots(dimension: int, device: torch.device) -> Tensor:
    k = torch.arange(dimension // 2, dtype=torch.float64, device=device)
    angle = k * (-2 * math.pi / dimension)
    steps = [dimension >> level for level in range(dimension.bit_length() - 2, -1, -1)]
    angle = torch.cat([angle[:1], *(angle[:: dimension // n] for n in steps)])
    return torch.cat([angle.cos(), angle.sin()]).float()


def _synchronised_roots(dimension: int, device: torch.device) -> Tensor:
    if device.type == "cpu":
        return _new_roots(dimension, device)
    with torch.cuda.device(device):
        table = _new_roots(dimension, device)
        torch.cuda.current_stream().synchronize()
    return table
