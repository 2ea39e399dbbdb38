"""Losses of other papers, to compare with: the O(D^2) covariance loss, and PRNO's."""

from __future__ import annotations

import torch
from torch import Tensor

from gaussreg_fast import checks, ops
from gaussreg_fast.functional._common import Seed, check_draw, reduce
from gaussreg_fast.spec import seed_tensor


def covariance_loss(
    x: Tensor,
    *,
    permutation: str | Tensor = "none",
    seed: Seed = None,
    generator: torch.Generator | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Return `|C(0) - 1| + mean_{t > 0} |C(t)|`, C being the circulant autocovariance.

    It takes O(D^2) work and measures the same as `power_spectrum_loss`: by Wiener-Khinchin, C is
    the Fourier transform of the full power spectrum. Arguments, result and errors are those of
    `gaussianity_loss`; any D >= 2.
    """
    dimension = checks.latents(x)
    checks.one_of("reduction", reduction, checks.REDUCTIONS)
    draw = check_draw(permutation, seed, generator, x, dimension)
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
    """Return PRNO's probability regulariser (arXiv 2405.18881).

    The flat sample is cut into m vectors of length k = `factor`. Concentration bounds on their
    mean and on their covariance give two log-probabilities. The loss is minus their sum for the
    sample as it is, minus the mean of their sum over random `shuffles` of the sample. It needs
    O(B * shuffles * D) memory. Autograd differentiates it: call backward outside of autocast, which
    would round its products of matrices.

    Args:
        x: `(B, *latent)`, D divisible by `factor`.
        factor: k, the length of the vectors.
        shuffles: number of random permutations; 0 for none.
        seed: see `gaussianity_loss`.
        generator: see `gaussianity_loss`.
        reduction: see `gaussianity_loss`.

    Returns:
        The loss, float32 (float64 for float64 x): a scalar, or (B,).

    Raises:
        TypeError: x is not a dense floating-point tensor.
        ValueError: an argument is out of range, or `factor` does not divide D.
    """
    dimension = checks.latents(x)
    checks.one_of("reduction", reduction, checks.REDUCTIONS)
    factor = checks.integer("factor", factor)
    shuffles = checks.integer("shuffles", shuffles, 0, checks.MAX_DIMENSION)
    if dimension % factor:
        raise ValueError(f"factor must divide the numbers per sample, {dimension}, got {factor}")
    checks.seed(seed, generator, x.device)
    one_seed = seed_tensor(seed, generator, x.device)
    index = ops.permutation(one_seed, dimension, shuffles, False, "auto") if shuffles else None
    return reduce(ops.prno(x, index, factor), reduction)
