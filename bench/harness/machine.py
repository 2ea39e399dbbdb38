"""Identify the machine, and measure its ceilings."""

from __future__ import annotations

import importlib.util
import os
import platform
import statistics
import subprocess
from pathlib import Path
from typing import Any

import torch

import gaussreg_fast
from bench.harness.cpu_clocks import CpuClock
from bench.harness.timing import GpuClock
from gaussreg_fast.backends import native

COPY_BYTES = {"cpu": 2**26, "cuda": 2**31}  # more than any cache
CACHED_BYTES = 2**16  # a latent of SD, which fits into a processor's second cache
GEMM_SIZE = {"cpu": 320, "cuda": 8192}  # large enough for the full rate, and done in milliseconds
CEILING_SECONDS = 2.0
# Results can be compared if these agree: they affect times, and are not under test.
IDENTITY = ("device", "instruction_set", "threads", "driver", "cuda", "python", "torch", "triton")


def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def smi(*fields: str) -> dict[str, str | None]:
    """Ask nvidia-smi for fields of the first device; None for a field that it does not know."""
    command = ["nvidia-smi", "-i", "0", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return dict.fromkeys(fields)
    return dict(zip(fields, done.stdout.strip().split(", "), strict=False))


def facts(device: str) -> dict[str, Any]:
    """Return facts about the machine and its versions; None for one that is unknown."""
    triton = None
    if importlib.util.find_spec("triton"):
        import triton as module

        triton = module.__version__
    gpu = device == "cuda"
    driver = smi("driver_version", "clocks.max.sm", "clocks.max.mem") if gpu else {}
    return {
        "kind": device,
        "device": torch.cuda.get_device_name(0) if gpu else _processor(),
        "instruction_set": None if gpu else _instruction_set(),
        "threads": torch.get_num_threads(),
        "driver": driver.get("driver_version"),
        "cuda": torch.version.cuda if gpu else None,
        "python": platform.python_version().rpartition(".")[0],
        "torch": torch.__version__,
        "triton": triton,
        "gaussreg_fast": gaussreg_fast.__version__,
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "max_clocks": {k: v for k, v in driver.items() if k.startswith("clocks")} or None,
    }


def difference(a: dict[str, Any], b: dict[str, Any]) -> str:
    """Return the first fact of `IDENTITY` in which two machines differ; "" if there is none."""
    for name in IDENTITY:
        if name == "triton" and a.get("kind") == b.get("kind") == "cpu":
            continue  # nothing of ours uses it there, and a torch for CPUs brings none
        if a.get(name) != b.get(name):
            return f"{name} {a.get(name)}, here it is {b.get(name)}"
    return ""


def describe(facts: dict[str, Any]) -> str:
    """Return processor and instruction set in words, or the GPU and its driver."""
    return f"{facts['device']}, {facts['instruction_set'] or facts['driver']}"


def clocks(device: str) -> str | None:
    """Return the current clock rate as the system reports it; None if it does not."""
    if device == "cuda":
        return smi("clocks.sm")["clocks.sm"]
    value = _first("cpu MHz")
    return f"{value} MHz" if value else None


def ceilings(device: str, copy_bytes: int = 0, gemm_size: int = 0) -> dict[str, float]:
    """Measure upper limits: bytes read and written a second, operations a second, a call's time.

    Args:
        device: "cpu" or "cuda".
        copy_bytes: size of the copy; 0 takes the device's default.
        gemm_size: side of the matrices; 0 takes the device's default.
    """
    copy_bytes = copy_bytes or COPY_BYTES[device]
    size = gemm_size or GEMM_SIZE[device]
    clock: Any = GpuClock if device == "cuda" else CpuClock
    source = torch.randn(copy_bytes // 4, device=device)
    target = torch.empty_like(source)
    a, b = torch.randn(2, size, size, device=device)
    small = torch.zeros(1, device=device)
    calls = {
        "copy": lambda _: target.copy_(source),
        "gemm": lambda _: a @ b,
    }
    if device == "cpu":
        near = torch.randn(CACHED_BYTES // 4)
        copy = torch.empty_like(near)
        calls["cached"] = lambda _: copy.copy_(near)
        calls["smallest"] = lambda _: small.add_(1)
    us = {name: min(s) for name, s in clock.timed(calls, 1, CEILING_SECONDS).samples.items()}
    found = {
        "copy_gb_per_s": 2 * copy_bytes / us["copy"] / 1e3,
        "gflop_per_s": 2 * size**3 / us["gemm"] / 1e3,
    }
    if device == "cpu":
        found["cached_copy_gb_per_s"] = 2 * CACHED_BYTES / us["cached"] / 1e3
        found["smallest_call_us"] = us["smallest"]
        return found
    graph = clock.captured(lambda _: small.add_(1))
    waits = clock.wait_times({"eager": lambda _: small.add_(1), "graph": graph})
    found["smallest_call_us"] = statistics.median(waits["eager"])
    found["smallest_graph_us"] = statistics.median(waits["graph"])
    return found


def free_memory(device: str) -> int:
    """Return the bytes that can be allocated now."""
    if device == "cuda":
        return torch.cuda.mem_get_info()[0]
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 8 * 2**30  # unknown here; a small machine has as much


def _processor() -> str:
    return _first("model name") or platform.processor() or platform.machine()


def cpuinfo() -> list[tuple[str, str]]:
    """Return Linux's facts about each processor as (name, value); empty on other systems."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    pairs = (line.partition(":") for line in lines)
    return [(name.strip(), value.strip()) for name, _, value in pairs]


def _first(name: str) -> str | None:
    """Return what `cpuinfo` says first under a name; None if it says nothing."""
    return next((value for key, value in cpuinfo() if key == name), None)


def _instruction_set() -> str | None:
    module, _ = native.load()
    return module.instruction_set() if module else None
