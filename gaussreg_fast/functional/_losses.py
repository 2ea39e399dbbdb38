"""The Gaussianity loss, its parts and its older relatives."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.compiler import is_dynamo_compiling

from gaussreg_fast import checks, ops
from gaussreg_fast.functional._common import Seed, check_backend, check_draw
from gaussreg_fast.functional._loss_options import check_loss
from gaussreg_fast.spec import NONE, Gradient, LossSpec, StatisticsSpec

# In Python before 3.12 looking up an enum's member costs more than reading a global.
_NO_GRADIENT, _KEPT = Gradient.NONE, Gradient.KEPT

# Calls that repeat an earlier one; each function has its own options.
_GAUSSIANITY, _VALUE_AND_GRAD = ops.CallCache("loss"), ops.CallCache("value_and_grad")
_POWER_SPECTRUM, _MOMENTS = ops.CallCache("loss"), ops.CallCache("loss")
_KL, _KURTOSIS, _NORM = ops.CallCache("loss"), ops.CallCache("loss"), ops.CallCache("loss")


def _for_backward(x: Tensor) -> Gradient:
    """Return whether the operator keeps a gradient for backward."""
    return _KEPT if x.requires_grad and torch.is_grad_enabled() else _NO_GRADIENT


def _with_spectrum(cache: ops.CallCache, arguments: tuple) -> Tensor:
    """Return the loss of x for the arguments of `check_loss`."""
    if not is_dynamo_compiling() and (loss := cache.take(arguments)) is not None:
        return loss
    draw, spec = check_loss(*arguments)
    x, backend = arguments[0], arguments[-2]
    cache.keep(x, arguments[2:], draw, spec, backend)
    return ops.loss(x, draw, spec, _for_backward(x), backend)[0]


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
    """Return MPGR's Gaussianity loss: moments, and the power spectrum of the permuted sample.

    `L = sum_n L_n + power_weight * L_power` (arXiv 2509.07027). Value and gradient come from
    one pass; backward only scales the gradient. Under `torch.no_grad()`, or if x requires no
    gradient, only the value is computed. Double backward raises.

    For true white noise `L_power` is about 0.0924 at block_size 16, not 0: at its minimum the loss
    has made a spectrum that is flatter than that of noise.

    If a bin y_k of the spectrum is 0, the gradient of |y_k| is taken to be 0; in float32,
    |y_k| below 1e-18 counts as 0, because float32 hardly holds its square.

    Args:
        x: `(B, *latent)`; D >= 2 * block_size.
        orders: moment orders, a non-empty subset of 1..8.
        power_weight: weight of `L_power`; 0 leaves the spectrum out.
        form: form of the loss of each moment, with mu_n = E[z^n]: "root",
            `| |m_n|^(1/n) - mu_n^(1/n) |` (MPGR); "absolute", `|m_n - mu_n|`; "squared",
            `(m_n - mu_n)^2`.
        block_size: bins of the compact spectrum per block.
        target: target of the block amplitudes: "exact", sqrt(pi)/2, or "mpgr", the paper's 0.875.
        statistic: quantity averaged over a block: "amplitude" |y|, or "power" |y|^2 (target 1).
        permutation: "shared" (one per call for the batch), "per_sample", "none", or an int
            tensor `(D,)` or `(B, D)` of permutations.
        seed: int or int64 tensor; by default each call draws a new one on x's device. Not used
            with permutation="none" or given permutations.
        generator: draws that seed, instead of the device's default generator.
        reduction: reduction over the batch: "mean", "sum", or "none" for shape (B,).
        backend: "auto", "triton", "native" or "torch"; see `backends`.
        precision: "fp32"; "tf32" allows a backend to trade 2e-3 of relative accuracy for
            speed (none does in this version).

    Returns:
        The loss, float32 (float64 for float64 x): a scalar, or (B,).

    Raises:
        TypeError: x is not a dense floating-point tensor.
        ValueError: any other argument is out of range, or D is below 2 * block_size.
        RuntimeError: the backend cannot run here.
    """
    arguments = (
        x, seed, True, orders, power_weight, form, block_size, target, statistic, permutation,
        generator, reduction, backend, precision,
    )  # fmt: skip
    return _with_spectrum(_GAUSSIANITY, arguments)


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
    """Return `gaussianity_loss` and its gradient, without autograd.

    It is meant for loops that handle gradients themselves: at B = 1 autograd's bookkeeping costs
    as much as a kernel. Arguments and errors are those of `gaussianity_loss`.

    Returns:
        The reduced loss, and the gradient of the reduced loss by x, in x's shape and dtype
        (for `reduction="none"`, row b is the gradient of loss b). Both are without an autograd
        graph.
    """
    arguments = (
        x, seed, True, orders, power_weight, form, block_size, target, statistic, permutation,
        generator, reduction, backend, precision,
    )  # fmt: skip
    if not is_dynamo_compiling() and (both := _VALUE_AND_GRAD.take(arguments)) is not None:
        return both
    draw, spec = check_loss(*arguments)
    _VALUE_AND_GRAD.keep(x, arguments[2:], draw, spec, backend)
    x = x.detach() if x.requires_grad else x
    value, grad = ops.loss(x, draw, spec, Gradient.REDUCED, backend)
    assert grad is not None
    return value, grad


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
    """Return moments and block amplitudes, the differentiable statistics behind the losses.

    A loss computed from them costs one forward and one fused backward pass over x. Arguments and
    errors are those of `gaussianity_loss`.

    Returns:
        moments (B, K), `m_n = mean_i x_i^n` for each of `orders`, and block amplitudes (B, P),
        the mean of |y_k| (or |y_k|^2) over each of the P = ceil((D // 2) / block_size) blocks of
        the permuted sample's compact spectrum (arXiv 2602.08646). In float32, |y_k| below 1e-18
        counts as 0, and so does its gradient. Both are float32 (float64 for float64 x).
    """
    dimension = checks.latents(x)
    order_list = tuple(checks.orders(orders))
    block_size = checks.spectrum(block_size, statistic)
    checks.long_enough(dimension, block_size)
    check_backend(backend, x)
    checks.one_of("precision", precision, checks.PRECISIONS)
    draw = check_draw(permutation, seed, generator, x, dimension)
    spec = StatisticsSpec(order_list, block_size, statistic)
    return ops.statistics(x, draw, spec, backend)


def _moments_only(
    cache: ops.CallCache, x: Tensor, orders: Sequence[int], form: str, reduction: str, backend: str
) -> Tensor:
    arguments = (x, None, orders, form, reduction, backend)
    if not is_dynamo_compiling() and (loss := cache.take(arguments)) is not None:
        return loss
    orders = tuple(checks.orders(orders))
    checks.latents(x)
    checks.one_of("reduction", reduction, checks.REDUCTIONS)
    check_backend(backend, x)
    spec = LossSpec(orders, form, 0.0, 0, 0.0, "amplitude", reduction)
    cache.keep(x, arguments[2:], NONE, spec, backend)
    return ops.loss(x, NONE, spec, _for_backward(x), backend)[0]


def moment_loss(
    x: Tensor,
    *,
    orders: Sequence[int] = (1, 2),
    form: str = "root",
    reduction: str = "mean",
    backend: str = "auto",
) -> Tensor:
    """Return the moment part of `gaussianity_loss`: `sum_n L_n` (MPGR, arXiv 2509.07027).

    Arguments, result and errors are those of `gaussianity_loss`; any D >= 1.
    """
    checks.one_of("form", form, checks.FORMS)
    return _moments_only(_MOMENTS, x, orders, form, reduction, backend)


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
    """Return the spectral part of `gaussianity_loss`: `L_power = mean_p |A_p - target|`.

    It is about 0.0924 for white noise at block_size 16. Arguments, result and errors are those of
    `gaussianity_loss`.
    """
    arguments = (
        x, seed, False, None, 1.0, "root", block_size, target, statistic, permutation, generator,
        reduction, backend, precision,
    )  # fmt: skip
    return _with_spectrum(_POWER_SPECTRUM, arguments)


def kl_loss(x: Tensor, *, reduction: str = "mean", backend: str = "auto") -> Tensor:
    """Return KL(N(m, v) || N(0, 1)) = 0.5 (v + m^2 - 1 - log v) for the sample's mean and variance.

    The variance v is clamped below at 1e-12, so that its logarithm is finite. In float32 its error
    is about 1e-7 of the mean square: below that, as for a constant sample, the loss is rounding.
    Arguments, result and errors are those of `gaussianity_loss`.
    """
    return _moments_only(_KL, x, (1, 2), "kl", reduction, backend)


def kurtosis_loss(x: Tensor, *, reduction: str = "mean", backend: str = "auto") -> Tensor:
    """Return (m_4 / m_2^2 - 3)^2 with raw moments about 0.

    MPGR uses "kurtosis" for its root-form moment loss of order 4, `moment_loss(x, orders=(4,))`.
    Arguments, result and errors are those of `gaussianity_loss`.
    """
    return _moments_only(_KURTOSIS, x, (2, 4), "kurtosis", reduction, backend)


def norm_loss(x: Tensor, *, reduction: str = "mean", backend: str = "auto") -> Tensor:
    """Return minus the log-density of the norm r of D-dimensional noise: 0.5 r^2 - (D - 1) log r.

    This is ReNO's regulariser (arXiv 2406.04312), up to a constant; r^2 = D m_2. Arguments, result
    and errors are those of `gaussianity_loss`.
    """
    return _moments_only(_NORM, x, (2,), "norm", reduction, backend)
