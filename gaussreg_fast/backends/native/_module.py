"""The compiled CPU module, loaded at its first use: importing the package loads no .so."""

from __future__ import annotations

import functools
import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from gaussreg_fast import _torch_internals
from gaussreg_fast.spec import scratch

# C++ reads tensors through DLPack's exchange API, if they are of exactly these types.
EXCHANGE = _torch_internals.EXCHANGE_API
TYPES = _torch_internals.ORDINARY


@functools.cache
def load() -> tuple[ModuleType | None, str]:
    """Return the module and "available", or None and the reason why it cannot be loaded."""
    try:
        return importlib.import_module("gaussreg_fast._native"), "available"
    except ImportError as error:
        note = Path(__file__).parents[2] / "_native_missing.txt"
        if note.exists():
            return None, note.read_text(encoding="utf-8").strip()
        return None, f"the compiled module cannot be loaded: {error}"


def module() -> ModuleType:
    """Return the module, or raise a RuntimeError with the reason why it is missing."""
    native, reason = load()
    if native is None:
        raise RuntimeError(f"backend 'native' cannot run here: {reason}")
    return native


@functools.cache
def torch_calls() -> Any:
    """Return the functions of torch that C++ calls itself, or None if torch lacks one of them."""
    state = _torch_internals.CALL_STATE
    if EXCHANGE is None or state is None:
        return None
    with torch.inference_mode(False):
        scalar = torch.empty((), dtype=torch.float32, device="cpu")
    functions = {
        "empty_like": torch.empty_like,
        "get_num_threads": torch.get_num_threads,
        "increment_version": torch.autograd.graph.increment_version,
        "is_grad_enabled": torch.is_grad_enabled,
        "is_neg": Tensor.is_neg,
        "random_": Tensor.random_,
        "storage_offset": Tensor.storage_offset,
    }
    found = {**state, **functions, "scalar": scalar, "scratch": scratch}
    return module().TorchCalls(EXCHANGE, TYPES, found)


def resolved(x: Tensor) -> Tensor:
    """Return x as it lies in memory for C++: contiguous, and with no negation pending."""
    if x.storage_offset() and not x.untyped_storage().nbytes():  # its address would not be 0
        raise RuntimeError("x must have memory, got a tensor whose storage was freed")
    if x.is_contiguous() and not x.is_neg():
        return x
    return x.detach().resolve_neg().contiguous()


def float_rows(x: Tensor) -> Tensor:
    """Return x as contiguous float32; x itself if it is contiguous float32."""
    x = resolved(x)
    if x.dtype == torch.float32:
        return x
    if not x.is_floating_point():
        raise TypeError(f"x must have a floating-point dtype, got {x.dtype}")
    return x.detach().to(torch.float32)
