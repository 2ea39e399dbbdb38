"""Which tensors the drift kernels take: those whose numbers fill a run of memory."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# Types of numbers that the kernels read and write, with their codes in the kernels; 0 is no base.
NUMBERS = {torch.float32: 1, torch.bfloat16: 2, torch.float16: 3}


def flat(p: Tensor, b: Tensor, g: Tensor, same_device: bool) -> bool:
    """Return whether kernels can take a parameter, its base and its gradient as runs of numbers.

    With `same_device` the base must be on the parameter's device.
    """
    return (
        p.dtype in NUMBERS
        and b.dtype in NUMBERS
        and g.dtype == p.dtype
        and (b.device == p.device or not same_device)
        and g.device == p.device
        and p.shape == b.shape
        and p.shape == g.shape
        and (
            (p.is_contiguous() and b.is_contiguous() and g.is_contiguous())
            or (p.stride() == b.stride() == g.stride() and is_dense(p))
        )
    )


def is_dense(x: Tensor) -> bool:
    """Return whether the numbers of x fill a run of memory, in any order (channels_last, ...)."""
    size = 1
    for stride, length in sorted(zip(x.stride(), x.shape, strict=True)):
        if length != 1:
            if stride != size:
                return False
            size *= length
    return True


def flattened(x: Tensor) -> Tensor:
    """Return the numbers of a dense tensor in memory's order, without a copy."""
    return x.detach().as_strided((x.numel(),), (1,))


def value_dtype(params: Sequence[Tensor], base: Sequence[Tensor]) -> torch.dtype:
    """Return the dtype of the drift: float64 if any tensor is float64, else float32."""
    double = any(t.dtype == torch.float64 for t in (*params, *base))
    return torch.float64 if double else torch.float32
