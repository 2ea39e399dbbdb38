"""The white-noise projection."""

from __future__ import annotations

from torch import Tensor

from gaussreg_fast import checks, ops
from gaussreg_fast.functional._common import check_backend


def project_white_noise(x: Tensor, *, block_size: int = 16, backend: str = "auto") -> Tensor:
    """The nearest white-noise sample in GPER's sense (arXiv 2602.08646), in closed form.

    Nearest x whose compact spectrum has, in every block of b = `block_size` bins,
    `||y||_1 = sqrt(pi)/2 b` and `||y||_2^2 = b`. White noise keeps a cosine similarity of 0.989
    to its projection on average. It acts on the flattened latent in its own order, (C, H, W):
    undo packings such as FLUX's before. Ties and all-zero blocks map to a valid point.

    Args:
        x: `(B, *latent)`, D divisible by 2 * block_size.
        block_size: b.
        backend: see `backends`.

    Returns:
        The projection, x's shape and dtype. It has no gradient: backward through it raises.
    """
    dimension = checks.latents(x)
    block_size = checks.integer("block_size", block_size)
    check_backend(backend, x)
    if block_size == 1:
        raise ValueError("block_size must be at least 2 for both norms to be met, got 1")
    if dimension % (2 * block_size):
        raise ValueError(
            f"x must have a multiple of 2 * block_size = {2 * block_size} numbers per sample for "
            f"the projection, got {dimension}"
        )
    return ops.project_white_noise(x, block_size, backend)
