"""The keyed permutation."""

from __future__ import annotations

import torch
from torch import Tensor

from gaussreg_fast import checks, ops
from gaussreg_fast.spec import seed_tensor


def permutation(
    seed: int | Tensor, D: int, *, inverse: bool = False, device: str | torch.device = "cpu"
) -> Tensor:
    """Return permutation v1 of 0..D-1: the same for a seed on every device and in every version.

    It is a keyed bijection (a Feistel network with cycle walking), computed by arithmetic, without
    a sort or a state. docs/internals/permutation.md defines it.

    Args:
        seed: int or int64 tensor with one element.
        D: length, 1..2^31.
        inverse: whether to return the inverse permutation instead.
        device: device of the result; a seed tensor must be on it.

    Returns:
        int64 (D,). `x[:, permutation(seed, D)]` permutes flattened samples as the losses do.

    Raises:
        TypeError: seed is neither an int nor a tensor, or device is of another type.
        ValueError: seed or D is out of range, torch has no such device, or a seed tensor is on
            another device.
        RuntimeError: device cannot be used here.
    """
    device = checks.device("device", device)
    D = checks.integer("D", D)
    if D > checks.MAX_DIMENSION:
        raise ValueError(f"D must be within 1..2**31, got {D}")
    if seed is None:
        raise TypeError("seed must be an int or an int64 tensor, got None")
    checks.seed(seed, None, device)
    return ops.permutation(seed_tensor(seed, None, device), D, 0, inverse, "auto")
