"""Path KL on the CPU."""

from __future__ import annotations

import torch
from torch import Tensor

from gaussreg_fast.backends.native._module import float_rows, module


def path_kl(dmu: Tensor, sigma: Tensor, *, gradient: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return KL (B,) and costs (T, B), float32, of dmu (T, B, *shape) and sigma (T, 1) or (T, B).

    With `gradient` the third result is the gradient of their sum by dmu, in its shape and dtype.
    """
    steps, batch = dmu.shape[:2]
    kl = dmu.new_empty(batch, dtype=torch.float32)
    costs = dmu.new_empty((steps, batch), dtype=torch.float32)
    return kl, costs, _fill(dmu, sigma, kl=kl, costs=costs, gradient=gradient)


def path_kl_pullback(dmu: Tensor, sigma: Tensor, upstream: Tensor) -> Tensor:
    """Return the gradient by dmu, in its shape and dtype, for upstream gradients (B,)."""
    grad = _fill(dmu, sigma, upstream=upstream, gradient=True)
    assert grad is not None
    return grad


def _fill(
    dmu: Tensor,
    sigma: Tensor,
    *,
    kl: Tensor | None = None,
    costs: Tensor | None = None,
    upstream: Tensor | None = None,
    gradient: bool,
) -> Tensor | None:
    """Fill kl (B,) and costs (T, B), float32, unless they are None, for dmu (T, B, *shape).

    With `gradient` return the gradient by dmu, in its shape and dtype, for the upstream gradients
    (B,), which are 1 if None.
    """
    rows = float_rows(dmu)
    steps, batch = rows.shape[:2]
    shape = tuple(sigma.shape)
    if shape not in ((steps, 1), (steps, batch)):
        raise ValueError(
            f"sigma must be of shape {(steps, 1)} or {(steps, batch)}, got shape {shape}"
        )
    if upstream is not None and tuple(upstream.shape) != (batch,):
        raise ValueError(f"upstream must be of shape {(batch,)}, got shape {tuple(upstream.shape)}")
    size = rows.numel() // (steps * batch)
    grad = torch.empty_like(rows) if gradient else None
    tensors = {
        "dmu": rows,
        "sigma": float_rows(sigma),
        "upstream": None if upstream is None else float_rows(upstream),
        "kl": kl,
        "costs": costs,
        "grad": grad,
    }
    if not rows.data_ptr() or not tensors["sigma"].data_ptr():  # type: ignore[union-attr]
        raise RuntimeError(
            "dmu and sigma must have memory, got one that has no memory: a fake tensor, or a "
            "tensor whose storage was freed"
        )
    addresses = {name: 0 if v is None else v.data_ptr() for name, v in tensors.items()}
    module().path_kl(
        steps, batch, size, **addresses, per_sample=shape[1] == batch,
        threads=torch.get_num_threads(),
    )  # fmt: skip
    return grad if grad is None else grad.to(dmu.dtype)
