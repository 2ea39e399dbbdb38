"""The stateless public functions. Each checks its arguments once and calls an operator.

Throughout: `x` is a batch of samples, shape `(B, *latent)`, float32, float64, float16 or
bfloat16; one sample is the flattened vector of `D = prod(latent)` numbers that ought to be
i.i.d. N(0, 1). Half-precision inputs are computed in float32; losses and statistics come
back in float32 (float64 for float64 inputs), gradients in x's own dtype. A sample that holds
NaN or inf gets a NaN loss and leaves the others as they are.

Errors: TypeError for a tensor that is not a dense floating-point one, ValueError for any
other argument out of range, RuntimeError for a backend that cannot run here. They are raised
before anything is computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gaussreg_fast import checks, ops, reference
from gaussreg_fast.dispatch import backends

__all__ = [
    "backends",
    "covariance_loss",
    "gaussianity_loss",
    "gaussianity_value_and_grad",
    "kl_loss",
    "kurtosis_loss",
    "moment_loss",
    "norm_loss",
    "permutation",
    "permuted_statistics",
    "power_spectrum_loss",
    "prno_loss",
    "project_white_noise",
]

Seed = int | Tensor | None


def _seed(seed: Seed, generator: torch.Generator | None, device: torch.device) -> Tensor:
    """The seed as an int64 tensor on the device; drawn there if none was given."""
    if isinstance(seed, Tensor):
        return seed
    if seed is not None:
        return torch.full((1,), int(seed), dtype=torch.int64, device=device)
    return torch.randint(
        -(2**63), 2**63 - 1, (1,), dtype=torch.int64, device=device, generator=generator
    )


def _draw(
    permutation: str | Tensor,
    seed: Seed,
    generator: torch.Generator | None,
    device: torch.device,
) -> tuple[Tensor | None, Tensor | None, bool]:
    """`permutation=` and its seeds -> (seed, explicit index, one permutation per sample?)."""
    if isinstance(permutation, Tensor):
        return None, permutation, False
    if permutation == "none":
        return None, None, False
    return _seed(seed, generator, device), None, permutation == "per_sample"


def _gaussianity_options(
    x: Tensor,
    orders: Sequence[int],
    power_weight: float,
    form: str,
    block_size: int,
    target: str,
    statistic: str,
    permutation: str | Tensor,
    seed: Seed,
    generator: torch.Generator | None,
    reduction: str,
    backend: str,
    precision: str,
    with_gradient: bool = False,
) -> tuple[Any, ...]:
    """Validates, and returns the arguments of the operator that follow x."""
    dimension = checks.latents(x)
    checks.spectrum(block_size, statistic, target)
    checks.permutation(permutation, x, dimension)
    checks.seed(seed, generator, x.device)
    checks.one_of("form", form, checks.FORMS)
    checks.one_of("reduction", reduction, checks.REDUCTIONS)
    checks.one_of("backend", backend, checks.BACKENDS)
    checks.one_of("precision", precision, checks.PRECISIONS)
    power_weight = checks.weight("power_weight", power_weight)
    draw: tuple[Tensor | None, Tensor | None, bool] = (None, None, False)
    if power_weight:
        checks.long_enough(dimension, block_size)
        draw = _draw(permutation, seed, generator, x.device)
    return (
        *draw,
        orders,
        form,
        power_weight,
        block_size,
        reference.block_target(target, statistic),
        statistic,
        reduction,
        with_gradient or (x.requires_grad and torch.is_grad_enabled()),
        backend,
        precision,
    )


def gaussianity_loss(
    x: Tensor,
    *,
    orders: Sequence[int] = (1, 2),
    power_weight: float = 25.0,
    form: str = "root",
    block_size: int = 16,
    target: str = "exact",
    statistic: str = "amplitude",
    permutation: str | Tensor = "shared",
    seed: Seed = None,
    generator: torch.Generator | None = None,
    reduction: str = "mean",
    backend: str = "auto",
    precision: str = "fp32",
) -> Tensor:
    """MPGR's Gaussianity loss: moments, and the power spectrum of the permuted sample.

    `L = sum_n L_n + power_weight * L_power` (arXiv 2509.07027). Value and gradient come from
    one pass; backward only scales the gradient. Under `torch.no_grad()`, or where x needs no
    gradient, only the value is computed. Double backward raises.

    For true white noise `L_power` is about 0.0924 at block_size 16, not 0: pushed to its
    minimum, the loss makes a spectrum flatter than noise has.

    Args:
        x: `(B, *latent)`; D >= 2 * block_size.
        orders: moment orders, a non-empty subset of 1..8.
        power_weight: weight of `L_power`; 0 leaves the spectrum out.
        form: of the loss of each moment, with mu_n = E[z^n]: "root",
            `| |m_n|^(1/n) - mu_n^(1/n) |` (MPGR); "absolute", `|m_n - mu_n|`; "squared".
        block_size: bins of the compact spectrum per block.
        target: block amplitude aimed at: "exact", sqrt(pi)/2, or "mpgr", the paper's 0.875.
        statistic: averaged over a block: "amplitude" |y| or "power" |y|^2 (target 1).
        permutation: "shared" (one per call for the batch), "per_sample", "none", or an int
            tensor `(D,)` or `(B, D)` of permutations.
        seed: int or int64 tensor; by default each call draws a new one on x's device.
        generator: draws that seed, instead of the device's default generator.
        reduction: over the batch: "mean", "sum" or "none", shape (B,).
        backend: "auto", "triton", "native" or "torch"; see `backends`.
        precision: "fp32"; "tf32" allows a backend to trade 2e-3 of relative accuracy for
            speed where it can (none does in this version).

    Returns:
        The loss, float32 (float64 for float64 x): a scalar, or (B,).
    """
    options = _gaussianity_options(
        x, checks.orders(orders), power_weight, form, block_size, target, statistic, permutation,
        seed, generator, reduction, backend, precision,
    )  # fmt: skip
    return ops.loss(x, *options)[0]


def gaussianity_value_and_grad(
    x: Tensor,
    *,
    orders: Sequence[int] = (1, 2),
    power_weight: float = 25.0,
    form: str = "root",
    block_size: int = 16,
    target: str = "exact",
    statistic: str = "amplitude",
    permutation: str | Tensor = "shared",
    seed: Seed = None,
    generator: torch.Generator | None = None,
    reduction: str = "mean",
    backend: str = "auto",
    precision: str = "fp32",
) -> tuple[Tensor, Tensor]:
    """`gaussianity_loss` and its gradient, without autograd.

    For loops that hold their own gradient: at B = 1 autograd's bookkeeping costs as much as
    a kernel. Arguments are those of `gaussianity_loss`.

    Returns:
        The reduced loss, and the gradient of the reduced loss by x, in x's shape and dtype
        (for `reduction="none"`, row b is the gradient of loss b). Neither is part of an
        autograd graph.
    """
    options = _gaussianity_options(
        x, checks.orders(orders), power_weight, form, block_size, target, statistic, permutation,
        seed, generator, reduction, backend, precision, with_gradient=True,
    )  # fmt: skip
    loss, grad = ops.loss(x.detach(), *options)
    if reduction == "mean" and x.shape[0] > 1:
        grad = grad / x.shape[0]
    return loss, grad


def permuted_statistics(
    x: Tensor,
    *,
    orders: Sequence[int],
    block_size: int = 16,
    statistic: str = "amplitude",
    permutation: str | Tensor = "shared",
    seed: Seed = None,
    generator: torch.Generator | None = None,
    backend: str = "auto",
    precision: str = "fp32",
) -> tuple[Tensor, Tensor]:
    """Moments and block amplitudes, the differentiable statistics beneath the losses.

    Any loss of them costs one forward and one fused backward pass over x. Arguments are those
    of `gaussianity_loss`.

    Returns:
        moments (B, K), `m_n = mean_i x_i^n` for each of `orders`, and block amplitudes (B, P),
        the mean of |y_k| (or |y_k|^2) over each of the P = ceil((D // 2) / block_size) blocks of
        the permuted sample's compact spectrum (arXiv 2602.08646).
    """
    dimension = checks.latents(x)
    order_list = checks.orders(orders)
    checks.spectrum(block_size, statistic)
    checks.long_enough(dimension, block_size)
    checks.permutation(permutation, x, dimension)
    checks.seed(seed, generator, x.device)
    checks.one_of("backend", backend, checks.BACKENDS)
    checks.one_of("precision", precision, checks.PRECISIONS)
    draw = _draw(permutation, seed, generator, x.device)
    return ops.statistics(x, *draw, order_list, block_size, statistic, backend, precision)


def _moments_only(x: Tensor, orders: list[int], form: str, reduction: str, backend: str) -> Tensor:
    checks.latents(x)
    checks.one_of("reduction", reduction, checks.REDUCTIONS)
    checks.one_of("backend", backend, checks.BACKENDS)
    return ops.loss(
        x, None, None, False, orders, form, 0.0, 0, 0.0, "amplitude", reduction,
        x.requires_grad and torch.is_grad_enabled(), backend, "fp32",
    )[0]  # fmt: skip


def moment_loss(
    x: Tensor,
    *,
    orders: Sequence[int] = (1, 2),
    form: str = "root",
    reduction: str = "mean",
    backend: str = "auto",
) -> Tensor:
    """The moment part of `gaussianity_loss`: `sum_n L_n` (MPGR, arXiv 2509.07027).

    Arguments are those of `gaussianity_loss`; any D >= 1.
    """
    checks.one_of("form", form, checks.FORMS)
    return _moments_only(x, checks.orders(orders), form, reduction, backend)


def power_spectrum_loss(
    x: Tensor,
    *,
    block_size: int = 16,
    target: str = "exact",
    statistic: str = "amplitude",
    permutation: str | Tensor = "shared",
    seed: Seed = None,
    generator: torch.Generator | None = None,
    reduction: str = "mean",
    backend: str = "auto",
    precision: str = "fp32",
) -> Tensor:
    """The spectral part of `gaussianity_loss`: `L_power = mean_p |A_p - target|`.

    About 0.0924 for white noise at block_size 16. Arguments are those of `gaussianity_loss`.
    """
    options = _gaussianity_options(
        x, [], 1.0, "root", block_size, target, statistic, permutation, seed, generator,
        reduction, backend, precision,
    )  # fmt: skip
    return ops.loss(x, *options)[0]


def kl_loss(x: Tensor, *, reduction: str = "mean", backend: str = "auto") -> Tensor:
    """KL(N(m, v) || N(0, 1)) = 0.5 (v + m^2 - 1 - log v), m and v the sample's mean and variance.

    The variance is clamped below at 1e-12. Arguments are those of `gaussianity_loss`.
    """
    return _moments_only(x, [1, 2], "kl", reduction, backend)


def kurtosis_loss(x: Tensor, *, reduction: str = "mean", backend: str = "auto") -> Tensor:
    """(m_4 / m_2^2 - 3)^2 with raw moments about 0. Arguments are those of `gaussianity_loss`.

    MPGR reads "kurtosis" as its root-form moment loss of order 4, `moment_loss(x, orders=(4,))`.
    """
    return _moments_only(x, [2, 4], "kurtosis", reduction, backend)


def norm_loss(x: Tensor, *, reduction: str = "mean", backend: str = "auto") -> Tensor:
    """Minus the log-density of the norm r of D-dimensional noise, 0.5 r^2 - (D - 1) log r.

    ReNO's regulariser (arXiv 2406.04312), up to a constant; r^2 = D m_2. Arguments are those of
    `gaussianity_loss`.
    """
    return _moments_only(x, [2], "norm", reduction, backend)


def _reduce(loss: Tensor, reduction: str) -> Tensor:
    if reduction == "none":
        return loss
    if reduction == "sum" or len(loss) == 0:
        return loss.sum()
    return loss.mean()


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
    checks.permutation(permutation, x, dimension)
    checks.seed(seed, generator, x.device)
    draw = _draw(permutation, seed, generator, x.device)
    if x.shape[0] == 0:
        return _reduce(ops.as_rows(x).sum(-1), reduction)
    index = ops.index(*draw, x.shape[0], dimension, "auto")
    return _reduce(ops.covariance(reference.gather(ops.as_rows(x), index)), reduction)


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
    checks.positive_int("factor", factor)
    if not isinstance(shuffles, int) or isinstance(shuffles, bool) or shuffles < 0:
        raise ValueError(f"shuffles must be an integer of at least 0, got {shuffles!r}")
    if dimension % factor:
        raise ValueError(f"factor must divide the numbers per sample, {dimension}, got {factor}")
    checks.seed(seed, generator, x.device)
    draw = _seed(seed, generator, x.device)
    if x.shape[0] == 0:
        return _reduce(ops.as_rows(x).sum(-1), reduction)
    index = torch.empty((0, dimension), dtype=torch.int64, device=x.device)
    if shuffles:
        index = ops.permutation(draw, dimension, shuffles, False, "auto")
    with ops.no_autocast(x):
        return _reduce(reference.prno_loss(ops.as_rows(x), index, factor), reduction)


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
    checks.positive_int("block_size", block_size)
    checks.one_of("backend", backend, checks.BACKENDS)
    if block_size == 1:
        raise ValueError("block_size must be at least 2 for both norms to be met, got 1")
    if dimension % (2 * block_size):
        raise ValueError(
            f"x must have a multiple of 2 * block_size = {2 * block_size} numbers per sample for "
            f"the projection, got {dimension}"
        )
    return ops.project_white_noise(x, block_size, backend)


def permutation(
    seed: int | Tensor, D: int, *, inverse: bool = False, device: str | torch.device = "cpu"
) -> Tensor:
    """Permutation v1 of 0..D-1: a seed gives the same one on every device, for ever.

    A keyed bijection by arithmetic (Feistel network with cycle walking): no sort, no state. Its
    definition is in docs/permutation.md.

    Args:
        seed: int or int64 tensor with one element.
        D: length, 1..2^31.
        inverse: the inverse permutation instead.
        device: where to make it; a seed tensor must be there.

    Returns:
        int64 (D,). `x[:, permutation(seed, D)]` permutes the way the losses do.
    """
    device = torch.device(device)
    checks.positive_int("D", D)
    if D > checks.MAX_DIMENSION:
        raise ValueError(f"D must be at most 2**31, got {D}")
    if seed is None:
        raise TypeError("seed must be an int or an int64 tensor, got None")
    checks.seed(seed, None, device)
    return ops.permutation(_seed(seed, None, device), D, 0, inverse, "auto")
