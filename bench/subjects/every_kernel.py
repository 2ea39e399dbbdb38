"""Run every kernel once or twice at small sizes, for programs that check memory.

Inputs are made on the CPU, so that the device runs little but the package's own kernels.
"""

from __future__ import annotations

import torch

import gaussreg_fast
from gaussreg_fast.backends.triton import parameters

DIMENSIONS = (64, 256, 1024, 4096, 16384, 32768, 65536, 100, 6144)
BATCH = 3


def work(
    dimension: int, permutation: str, dtype: torch.dtype, batch: int = BATCH
) -> list[torch.Tensor]:
    """Compute the loss, its gradient and the statistics' gradient of one kind of batch."""
    x = torch.randn(batch, dimension).to(dtype).cuda()
    options = {"permutation": permutation, "seed": torch.tensor([5]).cuda(), "backend": "triton"}
    loss, grad = gaussreg_fast.gaussianity_value_and_grad(x, **options)
    gaussreg_fast.gaussianity_loss(x, **options)
    leaf = x.requires_grad_()
    moments, blocks = gaussreg_fast.permuted_statistics(leaf, orders=(1, 2, 4), **options)
    torch.autograd.backward((moments, blocks), (torch.ones_like(moments), torch.ones_like(blocks)))
    assert leaf.grad is not None
    return [loss, grad, leaf.grad]


def every_call(dimension: int) -> list[torch.Tensor]:
    """Run every kernel of one size; return the results."""
    found = work(dimension, "shared", torch.bfloat16)
    if dimension in parameters.LARGE:
        found += work(dimension, "shared", torch.float32, parameters.FEW + 1)
    for permutation in ("shared", "per_sample", "none"):
        found += work(dimension, permutation, torch.float32)
    return found
