"""The keyed permutation."""

from __future__ import annotations

import torch
from torch import Tensor

from gaussreg_fast import checks, ops
from gaussreg_fast.spec import seed_tensor


def permutation(
    seed: int | Tensor, D: int, *, inverse: bool = False, device: str | torch.device = "cpu"
) -> Tensor:
    """Permutation v1 of 0..D-1: a seed gives the same one on every device, for ever.

    A keyed bijection by arithmetic (Feistel network with cycle walking): no sort, no state. Its
    definition is in docs/internals/permutation.md.

    Args:
        seed: int or int64 tensor with one element.
        D: length, 1..2^31.
        inverse: the inverse permutation instead.
        device: where to make it; a seed tensor must be there.

    Returns:
        int64 (D,). `x[:, permutation(seed, D)]` permutes the way the losses do.
    """
    device = torch.device(device)
    D = checks.integer("D", D)
    if D > checks.MAX_DIMENSION:
        raise ValueError(f"D must be at most 2**31, got {D}")
    if seed is None:
        raise TypeError("seed must be an int or an int64 tensor, got None")
    checks.seed(seed, None, device)
    return ops.permutation(seed_tensor(seed, None, device), D, 0, inverse, "auto")
