"""NumPy arrays as tensors, in bfloat16 too, which NumPy knows only from packages like ml_dtypes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor


def tensor(array: np.ndarray) -> Tensor:
    """Return an array as a tensor, which shares its memory if torch can use that.

    Raises:
        TypeError: torch has no such dtype, or elements are masked.
    """
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError("it has a mask, which tensors do not have; fill its masked elements first")
    if not _usable(array):
        array = np.array(array, dtype=array.dtype.newbyteorder("="), order="C")
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    try:
        return torch.from_numpy(array)
    except TypeError:
        raise TypeError(_why_not(array.dtype)) from None


def _usable(array: np.ndarray) -> bool:
    """Return whether a tensor can be a view of an array: torch counts strides in whole numbers.

    The fields of a structured array, for example, may lie in between.
    """
    flags, size = array.flags, max(1, array.dtype.itemsize)
    in_place = flags.writeable and flags.aligned and array.dtype.isnative
    return in_place and all(stride >= 0 and stride % size == 0 for stride in array.strides)


def _why_not(dtype: np.dtype) -> str:
    """Return why torch cannot take numbers of a dtype."""
    if dtype.kind in "OSUMm" or dtype.names is not None:
        return f"it is not numeric ({dtype})"
    reason = f"it has the dtype {dtype}, which torch does not have"
    if dtype.name.startswith("void"):
        reason += (
            "; as such raw bytes NumPy saves dtypes that it does not know, like bfloat16: convert "
            "them to float32 before saving"
        )
    return reason


def array(tensor: Tensor, dtype: Any) -> np.ndarray:
    """Return a tensor of the CPU as an array; bfloat16 of the dtype given, or as float32.

    `dtype` is that of the array that the tensor was made from: NumPy has no bfloat16 of its own.
    """
    if tensor.dtype != torch.bfloat16:
        return tensor.numpy()
    if isinstance(dtype, np.dtype) and dtype.name == "bfloat16":
        return tensor.view(torch.int16).numpy().view(dtype)
    return tensor.float().numpy()
