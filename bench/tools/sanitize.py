"""Every kernel once or twice at small sizes, for compute-sanitizer: see `make sanitize`.

    python -m bench sanitize [--rehearse] [D ...]

Inputs are made on the CPU, so that little but the package's own kernels runs on the device.
"""

from __future__ import annotations

import argparse
import os

import torch

import gaussreg_fast
from bench.harness.errors import BadInput, Wrong

DIMENSIONS = (64, 256, 1024, 4096, 16384, 32768, 65536, 100, 6144)
BATCH = 3


def work(dimension: int, permutation: str, dtype: torch.dtype) -> list[torch.Tensor]:
    """The loss, its gradient and the statistics' gradient of one kind of batch."""
    x = torch.randn(BATCH, dimension).to(dtype).cuda()
    options = {"permutation": permutation, "seed": torch.tensor([5]).cuda(), "backend": "triton"}
    loss, grad = gaussreg_fast.gaussianity_value_and_grad(x, **options)
    gaussreg_fast.gaussianity_loss(x, **options)
    leaf = x.requires_grad_()
    moments, blocks = gaussreg_fast.permuted_statistics(leaf, orders=(1, 2, 4), **options)
    torch.autograd.backward((moments, blocks), (torch.ones_like(moments), torch.ones_like(blocks)))
    assert leaf.grad is not None
    return [loss, grad, leaf.grad]


def every_call(dimension: int) -> list[torch.Tensor]:
    """All that is done at one size."""
    found = work(dimension, "shared", torch.bfloat16)
    for permutation in ("shared", "per_sample", "none"):
        found += work(dimension, permutation, torch.float32)
    return found


def _check(dimension: int, results: list[torch.Tensor]) -> None:
    """Raises Wrong where a number is not finite."""
    if not all(bool(tensor.cpu().isfinite().all()) for tensor in results):
        raise Wrong(f"D = {dimension}: not finite")


def rehearse(dimensions: list[int]) -> int:
    """On the device that is not there, where the simulator looks for the same errors."""
    from bench.gpu.rehearsal import rehearsed

    errors: list[str] = []
    for dimension in dimensions:
        with rehearsed() as device:
            _check(dimension, every_call(dimension))
        errors += device.errors()
        print(f"D = {dimension}: {device.launches} launches", flush=True)
    print("\n".join(errors))
    return 3 if errors else 0


def main(given: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench sanitize", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("dimensions", type=int, nargs="*", default=list(DIMENSIONS), metavar="D")
    parser.add_argument("--rehearse", action="store_true", help="without a GPU")
    options = parser.parse_args(given)
    os.environ.pop("TRITON_INTERPRET", None)
    if options.rehearse:
        return rehearse(options.dimensions)
    if not torch.cuda.is_available():
        raise BadInput("sanitize runs on a GPU: torch.cuda.is_available() is False")
    for dimension in options.dimensions:
        _check(dimension, every_call(dimension))
        torch.cuda.synchronize()
        print(f"D = {dimension}: ran", flush=True)
    return 0
