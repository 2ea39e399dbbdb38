"""The peers: the O(n^2) covariance loss, and PRNO's."""

from __future__ import annotations

import torch
from torch import Tensor

from gaussreg_fast import checks, ops
from gaussreg_fast.functional._common import Seed, checked_draw, reduce
from gaussreg_fast.spec import seed_tensor


def covariance_loss(
    x: Tensor,
    *,
    permutation: str | Tensor = "none",
    seed: Seed = None,
    generator: torch.Generator | None = None,
    reduction: str = "mean",
) -> Tensor:
    """`|C(0) - 1| + mean_{t > 0} |C(t)|` with the circulant autocovariance C, in O(D^2) work.

    The slow peer of `power_spectrum_loss`: by Wiener-Khinchin, C is the Fourier transform of
    the full power spectrum. Arguments are those of `gaussianity_loss`.
    """
    dimension = checks.latents(x)
    checks.one_of("reduction", reduction, checks.REDUCTIONS)
    draw = checked_draw(permutation, seed, generator, x, dimension)
    return reduce(ops.covariance(x, ops.index(draw, x)), reduction)


def prno_loss(
    x: Tensor,
    *,
    factor: int = 4,
    shuffles: int = 100,
    seed: Seed = None,
    generator: torch.Generator | None = None,
    reduction: str = "mean",
) -> Tensor:
    """PRNO's probability regulariser (arXiv 2405.18881).

    The flat sample is cut into m vectors of length k = `factor`; concentration bounds on their
    mean and covariance give log-probabilities. The loss is minus their sum for the sample as it
    is, plus minus their mean over random `shuffles`. Needs O(B * shuffles * D) memory.

    Args:
        x: `(B, *latent)`, D divisible by `factor`.
        factor: k, the length of the vectors.
        shuffles: number of random permutations; 0 for none.
        seed: see `gaussianity_loss`.
        generator: see `gaussianity_loss`.
        reduction: see `gaussianity_loss`.
    """
    dimension = checks.latents(x)
    checks.one_of("reduction", reduction, checks.REDUCTIONS)
    factor = checks.integer("factor", factor)
    shuffles = checks.integer("shuffles", shuffles, minimum=0)
    if dimension % factor:
        raise ValueError(f"factor must divide the numbers per sample, {dimension}, got {factor}")
    checks.seed(seed, generator, x.device)
    drawn = seed_tensor(seed, generator, x.device)
    index = ops.permutation(drawn, dimension, shuffles, False, "auto") if shuffles else None
    return reduce(ops.prno(x, index, factor), reduction)
