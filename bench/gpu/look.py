"""Look at the machine: versions, nvidia-smi, and the ceilings that bound every call."""

from __future__ import annotations

import platform
import subprocess
from functools import partial

from bench.gpu import ceilings
from bench.gpu.stage import Part, Row
from bench.harness import machine
from gaussreg_fast._environment import versions

PACKAGES = (
    "torch", "triton", "numpy", "scipy", "pytest", "pytest-benchmark", "pytest-xdist", "hypothesis",
    "rich", "typer", "matplotlib", "safetensors", "transformers", "accelerate", "peft", "pillow",
    "psutil", "scikit-build-core", "nanobind", "cmake", "ninja", "nvtx", "diffusers", "pydantic",
)  # fmt: skip


def parts(small: bool) -> list[Part]:
    found = [
        Part("machine", _machine, 3),
        Part("copy and matrix product", partial(_copy, small), 6),
    ]
    for name, (measure, kernels) in ceilings.MEASURES.items():
        found.append(Part(name, partial(measure, small), 3, {name: partial(kernels, small)}))
    return found


def _machine(_: float) -> Row:
    found = versions(*PACKAGES)
    return {
        "smi": _text(["nvidia-smi"]),
        "kernel": platform.release(),
        "compiler": (_text(["c++", "--version"]) or [None])[0],
        "tools": {name: (_text([name, "--version"]) or [None])[-1] for name in ("ncu", "nsys")},
        "sanitizer": (_text(["compute-sanitizer", "--version"]) or [None])[-1],
        "packages": {name: found.get(name) for name in PACKAGES},
    }


def _text(words: list[str]) -> list[str]:
    """Return the first lines that a program prints; none if it is missing or fails."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=4, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return done.stdout.rstrip().splitlines()[:40]


def _copy(small: bool, _: float) -> Row:
    sizes = {"copy_bytes": 2**16, "gemm_size": 64} if small else {}
    return {"ceilings": machine.ceilings("cuda", **sizes), "clock_after": machine.clocks("cuda")}
