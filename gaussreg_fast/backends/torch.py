"""Plain torch: the reference on batches, for every device and every float type."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from gaussreg_fast import _precision, checks, reference
from gaussreg_fast.backends._lists import flattened, is_dense, value_dtype
from gaussreg_fast.spec import Draw, DriftTask, LossSpec, StatisticsSpec

# Numbers that drift takes at a time, so that its temporaries do not grow with the tensors: 1 MiB
# of float32, which stays in a cache.
_PIECE = 1 << 18


def as_rows(x: Tensor) -> Tensor:
    """Return (B, *latent) of any float type as (B, D) in the type to compute in."""
    rows = x.reshape(x.shape[0], math.prod(x.shape[1:])).contiguous()
    return rows if x.dtype == torch.float64 else rows.float()


def permutation(
    seed: Tensor, size: int, *, samples: int | None = None, inverse: bool = False
) -> Tensor:
    """Return permutation v1 of a seed (1,), int64: (size,), or (samples, size)."""
    return reference.permutation(seed, size, samples=samples, inverse=inverse)


def _index(draw: Draw, x: Tensor) -> Tensor | None:
    """Return the permutation of a draw for the batch x; a table is checked."""
    seed, index, per_sample = draw.tensors(x.device)
    if index is not None:
        if not draw.valid:
            checks.bijection(index)
        return index.to(torch.int64)
    if seed is None:
        return None
    samples = x.shape[0] if per_sample else None
    return permutation(seed, math.prod(x.shape[1:]), samples=samples)


@torch.no_grad()
def loss(
    x: Tensor,
    draw: Draw,
    spec: LossSpec,
    *,
    gradient: torch.dtype | None,
    scale: float = 1.0,
) -> tuple[Tensor, Tensor | None]:
    """Return losses (B,) of x (B, *latent), and `scale` times their gradients by x.

    The gradients have the dtype `gradient`; if that is None, there are none.
    """
    value, grad = reference.loss_and_gradient(
        as_rows(x),
        _index(draw, x) if spec.power_weight else None,
        orders=spec.orders,
        form=spec.form,
        power_weight=spec.power_weight,
        block_size=spec.block_size,
        target=spec.target,
        statistic=spec.statistic,
        with_gradient=gradient is not None,
    )
    if grad is not None:
        grad = grad if scale == 1 else grad * scale
        grad = grad.reshape(x.shape).to(gradient).contiguous()
    return value, grad


def statistics(x: Tensor, draw: Draw, spec: StatisticsSpec) -> tuple[Tensor, Tensor]:
    """Return moments (B, K) and block amplitudes (B, P) of x (B, *latent)."""
    moments, blocks, _ = reference.permuted_statistics(as_rows(x), _index(draw, x), *spec)
    return moments, blocks


def pullback(
    x: Tensor, draw: Draw, spec: StatisticsSpec, *, grad_moments: Tensor, grad_blocks: Tensor
) -> Tensor:
    """Return the gradient by x, in x's shape and dtype, for gradients by `statistics`'s results."""
    rows, index = as_rows(x), _index(draw, x)
    _, _, spectrum = reference.permuted_statistics(rows, index, *spec._replace(orders=()))
    grad = reference.permuted_statistics_pullback(
        rows, spectrum, index, *spec, grad_moments, grad_blocks
    )
    return grad.reshape(x.shape).to(x.dtype).contiguous()


def project(x: Tensor, *, block_size: int) -> Tensor:
    """Return the white-noise projection of x (B, *latent), in its shape and dtype."""
    return reference.project_white_noise(as_rows(x), block_size).reshape(x.shape).to(x.dtype)


# ---------------------------------------------------------------- path KL


def path_rows(dmu: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """Return dmu as (T, B, D), and sigma, in the type to compute in."""
    dtype = checks.result_dtype(dmu)
    return dmu.reshape(*dmu.shape[:2], -1).to(dtype), sigma.to(dtype)


def path_kl(dmu: Tensor, sigma: Tensor, *, gradient: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return KL (B,) and costs (T, B) of dmu (T, B, *shape) and sigma (T, 1) or (T, B).

    With `gradient` the third result is the gradient of their sum by dmu, in its shape and dtype.
    """
    kl, costs = reference.path_kl(*path_rows(dmu, sigma))
    return kl, costs, path_kl_pullback(dmu, sigma, torch.ones_like(kl)) if gradient else None


def path_kl_pullback(dmu: Tensor, sigma: Tensor, upstream: Tensor) -> Tensor:
    """Return the gradient by dmu, in its shape and dtype, for upstream gradients (B,)."""
    grad = reference.path_kl_pullback(*path_rows(dmu, sigma), upstream)
    return grad.reshape(dmu.shape).to(dmu.dtype)


# ---------------------------------------------------------------- drift


def drift(
    task: DriftTask,
    params: Sequence[Tensor],
    base: Sequence[Tensor] | None,
    grads: Sequence[Tensor],
    scales: Sequence[float],
    step: float | Tensor,
) -> Tensor:
    """Do as `native.drift`, for tensors of any float type, layout and device."""
    parts = []
    for i, (param, scale) in enumerate(zip(params, scales, strict=True)):
        pair = base[i] if base else None, grads[i] if grads else None
        parts.append(scale * _drift(task, param, *pair, scale * step))
    dtype = value_dtype(params, base or ())
    if len(parts) == 1:
        return parts[0].to(dtype)
    return torch.stack([part.to(dtype) for part in parts]).sum()


def _drift(
    task: DriftTask, param: Tensor, base: Tensor | None, grad: Tensor | None, factor: float | Tensor
) -> Tensor:
    """Do the task for one tensor, piece by piece; return its ||param - base||^2."""
    exact = _precision.exact_dtype(param.device)
    total = torch.zeros((), dtype=exact, device=param.device)
    for p, b, g in pieces(param, base, grad):
        d = reference.drift(p, b)
        if task is DriftTask.GRADIENT and g is not None:
            g.copy_(factor * d)
        elif task is DriftTask.ACCUMULATE and g is not None:
            g.copy_(g.to(d.dtype) + factor * d)
        total += d.square().sum()  # not in place: d may be the parameter itself
    return total


def pieces(
    param: Tensor, base: Tensor | None, grad: Tensor | None
) -> Iterator[tuple[Tensor, Tensor | None, Tensor | None]]:
    """Yield pieces of the tensors: runs of `_PIECE` numbers if they are dense, else slices.

    Slices have at most `_PIECE` numbers.
    """
    present = [t for t in (param, base, grad) if t is not None]
    if param.numel() <= _PIECE:
        yield param, base, grad
    elif all(t.stride() == param.stride() for t in present) and is_dense(param):
        flat = [None if t is None else flattened(t) for t in (param, base, grad)]
        for i in range(0, param.numel(), _PIECE):
            p, b, g = (None if t is None else t[i : i + _PIECE] for t in flat)
            yield p, b, g  # type: ignore[misc]
    else:
        across = next(i for i, length in enumerate(param.shape) if length > 1)
        length = param.shape[across]
        step = max(1, length * _PIECE // param.numel())
        for i in range(0, length, step):
            p, b, g = (
                None if t is None else t.narrow(across, i, min(step, length - i))
                for t in (param, base, grad)
            )
            yield from pieces(p, b, g)  # type: ignore[arg-type]
