"""The Gaussianity loss against the same loss as one writes it by hand in PyTorch.

    python bench/against_naive.py [--out bench/results/against_naive.json]

Value and gradient, orders 1 and 2, a permutation drawn in each call, float32, CPU, one thread. The
two take turns; the best round of each counts. A case whose values differ fails before it is timed.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import common
import torch
from common import best_times, with_backward
from torch import Tensor

import gaussreg_fast

CASES = ((1, 4096), (1, 16384), (16, 16384), (64, 16384), (8, 65536), (1, 262144), (4, 262144))


def naive(x: Tensor, index: Tensor | None = None, per_sample: bool = False) -> Tensor:
    """As the formulas read, gradient by autograd, permutation by torch.randperm."""
    x = x.flatten(1).float()
    if index is None and per_sample:
        index = torch.rand(x.shape, device=x.device).argsort(1)
    elif index is None:
        index = torch.randperm(x.shape[1], device=x.device)
    permuted = x[:, index] if index.dim() == 1 else x.gather(1, index)
    moments = x.mean(1).abs() + (x.square().mean(1).sqrt() - 1).abs()
    spectrum = torch.fft.rfft(permuted, norm="ortho")
    first = torch.complex(spectrum[:, :1].real, spectrum[:, -1:].real) / math.sqrt(2)
    blocks = torch.cat([first, spectrum[:, 1:-1]], 1).abs().unflatten(1, (-1, 16)).mean(2)
    power = (blocks - math.sqrt(math.pi) / 2).abs().mean(1)
    return (moments + 25 * power).mean()


def compare(batch: int, dimension: int, rounds: int) -> dict[str, float]:
    x = torch.randn(batch, dimension, requires_grad=True)
    index = gaussreg_fast.permutation(0, dimension)
    torch.testing.assert_close(naive(x, index), gaussreg_fast.gaussianity_loss(x, seed=0))
    z = x.detach()
    calls: dict[str, Callable[[], None]] = {
        "naive": with_backward(naive, x),
        "gaussianity_loss": with_backward(gaussreg_fast.gaussianity_loss, x),
        "gaussianity_value_and_grad": lambda: gaussreg_fast.gaussianity_value_and_grad(z),
    }
    repeats = max(2, 400_000 // (batch * dimension))
    return best_times(calls, rounds, repeats)


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for batch, dimension in CASES:
        times = compare(batch, dimension, options.rounds)
        rows.append({"batch": batch, "dimension": dimension, "microseconds": times})
        ratios = "  ".join(f"{name} {times['naive'] / t:.2f}x" for name, t in times.items())
        print(f"({batch}, {dimension}): naive {times['naive']:.0f} us; speed-up {ratios}")
    common.save(
        options.out,
        benchmark="value and gradient against naive PyTorch, CPU, one thread, float32",
        cases=rows,
    )


if __name__ == "__main__":
    main()
