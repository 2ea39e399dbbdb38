"""Choose a dtype to compute in where float32 may not have digits enough."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

_REDUCED = ("tf32", "bf16")


def exact_dtype(device: torch.device) -> torch.dtype:
    """Return float64, or float32 for a device that has no float64, like Apple's GPUs."""
    if device.type == "mps":
        return torch.float32
    if torch.compiler.is_compiling():  # its tracer cannot try
        return torch.float64
    try:
        torch.empty(0, dtype=torch.float64, device=device)
    except (RuntimeError, TypeError):
        return torch.float32
    return torch.float64


def product_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """Return a dtype in which products of float32 or float64 matrices keep all their digits.

    torch can be told to round the factors of products of float32 matrices to 10 bits or fewer, for
    speed. Then it is float64, and in compiled code always.
    """
    # A tracer cannot read the settings, and torch's way to let it do so imports triton.
    rounded = torch.compiler.is_compiling() or _products_are_rounded()
    return exact_dtype(device) if rounded and dtype == torch.float32 else dtype


def no_autocast(device: torch.device) -> AbstractContextManager:
    """Return a context without autocast, which would multiply matrices in half precision.

    The meta device has no autocast, and torch refuses to turn it off.
    """
    if device.type == "meta":
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def _products_are_rounded() -> bool:
    cpu = getattr(torch.backends.mkldnn, "matmul", None)
    settings = (torch.backends, torch.backends.cuda.matmul, cpu)
    return any(getattr(setting, "fp32_precision", "") in _REDUCED for setting in settings)
