"""Every kernel once or twice at small sizes, for compute-sanitizer: see `make sanitize`.

Inputs are made on the CPU, so that little but the package's own kernels runs on the device.
"""

from __future__ import annotations

import sys

import torch

import gaussreg_fast

DIMENSIONS = (64, 256, 1024, 4096, 16384, 32768, 65536, 100, 6144)
BATCH = 3


def work(dimension: int, permutation: str, dtype: torch.dtype) -> None:
    x = torch.randn(BATCH, dimension).to(dtype).cuda()
    options = {"permutation": permutation, "seed": torch.tensor([5]).cuda(), "backend": "triton"}
    loss, grad = gaussreg_fast.gaussianity_value_and_grad(x, **options)
    gaussreg_fast.gaussianity_loss(x, **options)
    leaf = x.requires_grad_()
    moments, blocks = gaussreg_fast.permuted_statistics(leaf, orders=(1, 2, 4), **options)
    torch.autograd.backward((moments, blocks), (torch.ones_like(moments), torch.ones_like(blocks)))
    for tensor in (loss, grad, leaf.grad):
        if not tensor.cpu().isfinite().all():
            sys.exit(f"D = {dimension}, {permutation}: not finite")


def main() -> int:
    if not torch.cuda.is_available():
        print("bench/sanitize.py needs a GPU", file=sys.stderr)
        return 2
    for dimension in DIMENSIONS:
        for permutation in ("shared", "per_sample", "none"):
            work(dimension, permutation, torch.float32)
        work(dimension, "shared", torch.bfloat16)
        torch.cuda.synchronize()
        print(f"D = {dimension}: ran", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
