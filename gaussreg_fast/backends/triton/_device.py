"""What every launch needs: the device's properties, its guard, its constants, ranges."""

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


@functools.cache
def arch(device: torch.device) -> str:
    """sm_90, gfx942, ...; "cpu" in the interpreter."""
    if device.type == "cpu":
        return "cpu"
    properties = torch.cuda.get_device_properties(device)
    if torch.version.hip:
        return properties.gcnArchName.split(":")[0]
    return f"sm_{properties.major}{properties.minor}"


@functools.cache
def shared_memory(device: torch.device) -> int:
    """Bytes of shared memory that one program may have."""
    if device.type == "cpu":
        return 227 * 1024
    properties = triton.runtime.driver.active.utils.get_device_properties(_number(device))
    return int(properties["max_shared_mem"])


def _number(device: torch.device) -> int:
    return torch.cuda.current_device() if device.index is None else device.index


def compiler(num_warps: int) -> dict[str, Any]:
    """Options of a launch. Fused multiply-adds are asked for: Triton 3.10 changes the default."""
    return {"num_warps": num_warps, "enable_fp_fusion": True}


@contextlib.contextmanager
def launching(device: torch.device, name: str) -> Iterator[None]:
    """Launches within go to `device`, and are an NVTX range of the domain gaussreg_fast.

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
    """The NVTX domain, or None where there is none: a convenience of profilers, no requirement."""
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
    """exp(-2 pi i k / D) for k < D / 2: cosines, then sines, float32 (D,). Kept per device.

    Kept ones are finished before anyone gets them, on whatever stream. Within a CUDA-graph capture
    they are made anew and belong to the graph: kept, they would be empty until its first replay.
    """
    if (device, dimension) in _roots:
        return _roots[device, dimension]
    if device.type != "cpu" and torch.cuda.is_current_stream_capturing():
        return _made_roots(dimension, device)
    # In a thread of its own: torch.compile's CUDA graphs warm up with this one's allocations in
    # their memory pool, which must not keep anything.
    with ThreadPoolExecutor(1) as pool:
        _roots[device, dimension] = pool.submit(_finished_roots, dimension, device).result()
    return _roots[device, dimension]


def _made_roots(dimension: int, device: torch.device) -> Tensor:
    k = torch.arange(dimension // 2, dtype=torch.float64, device=device)
    angle = k * (-2 * math.pi / dimension)
    return torch.cat([angle.cos(), angle.sin()]).float()


def _finished_roots(dimension: int, device: torch.device) -> Tensor:
    if device.type == "cpu":
        return _made_roots(dimension, device)
    with torch.cuda.device(device):
        table = _made_roots(dimension, device)
        torch.cuda.current_stream().synchronize()
    return table
