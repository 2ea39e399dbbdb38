"""The compiled CPU module, loaded at its first use: importing the package loads no .so."""

from __future__ import annotations

import functools
import importlib
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor


@functools.cache
def load() -> tuple[ModuleType | None, str]:
    """The module and "available", or None and the reason why it is not there."""
    try:
        return importlib.import_module("gaussreg_fast._native"), "available"
    except ImportError as error:
        note = Path(__file__).with_name("_native_missing.txt")
        if note.exists():
            return None, note.read_text(encoding="utf-8").strip()
        return None, f"the compiled module cannot be loaded: {error}"


def module() -> ModuleType:
    """The module; a RuntimeError with the reason where it is missing."""
    native, reason = load()
    if native is None:
        raise RuntimeError(f"backend 'native' cannot run here: {reason}")
    return native


def permutation(
    seed: int, size: int, *, samples: int | None = None, inverse: bool = False
) -> Tensor:
    """`reference.permutation` on the CPU: (size,), or (samples, size) int64."""
    native = module()
    out = torch.empty((1 if samples is None else samples, size), dtype=torch.int64, device="cpu")
    for sample, row in enumerate(out):
        native.permutation(seed, sample, size, inverse, row.data_ptr())
    return out[0] if samples is None else out
