"""The loss for arrays of NumPy, JAX and other libraries with DLPack, on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from gaussreg_fast import _numpy, functional


def gaussianity_value_and_grad(x: Any, **options: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the Gaussianity loss of an array, and its gradient.

    Args:
        x: `(B, *latent)`, float32, float16, float64 or bfloat16, in CPU memory, of any library that
            exports DLPack (`__dlpack__`): NumPy, JAX, ... Contiguous float32 is not copied, unless
            it is a read-only NumPy array.
        options: options of `gaussreg_fast.gaussianity_value_and_grad`; `seed=` and an explicit
            `permutation=` may be arrays too.

    Returns:
        The loss, 0-dimensional or (B,), and its gradient in x's shape and dtype, as NumPy arrays.
        NumPy has bfloat16 only as ml_dtypes.bfloat16: the gradient has that dtype if x has (in
        NumPy and JAX), and is float32 for bfloat16 of other libraries.

    Raises:
        TypeError: x has no `__dlpack__`, is not on the CPU, is masked, or is of a dtype that torch
            does not have.
        TypeError, ValueError, RuntimeError: see `gaussreg_fast.gaussianity_value_and_grad`.
    """
    as_tensors: dict[str, Any] = {
        name: _tensor(name, v) if _is_array(v) else v for name, v in options.items()
    }
    loss, grad = functional.gaussianity_value_and_grad(_tensor("x", x), **as_tensors)
    return loss.numpy(), _numpy.array(grad, getattr(x, "dtype", None))


def _is_array(value: Any) -> bool:
    return hasattr(value, "__dlpack__") and not isinstance(value, np.generic)


def _runs_backwards(value: Any) -> bool:
    """Return whether an array has negative strides, on which `torch.from_dlpack` aborts."""
    try:
        return any(stride < 0 for stride in np.from_dlpack(value).strides)
    except (BufferError, RuntimeError, TypeError, ValueError):
        return False  # NumPy cannot read it; torch raises an error that says why


def _tensor(name: str, value: Any) -> torch.Tensor:
    if not _is_array(value):
        raise TypeError(f"{name} must be an array with __dlpack__, got {type(value).__name__}")
    try:
        if isinstance(value, np.ndarray):
            return _numpy.tensor(value)
        if _runs_backwards(value):
            value = np.ascontiguousarray(np.from_dlpack(value))
        tensor = torch.from_dlpack(value)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise TypeError(f"{name} cannot be read through DLPack: {error}") from error
    if tensor.device.type != "cpu":
        raise TypeError(f"{name} must be in CPU memory, got {tensor.device}")
    return tensor.detach()
