"""Parameter drift (P&P, arXiv 2505.19519), tensor by tensor."""

from __future__ import annotations

import torch
from torch import Tensor


def drift(theta: Tensor, base: Tensor | None) -> Tensor:
    """Return theta - base, in float64 if either is, else in float32."""
    double = theta.dtype == torch.float64 or (base is not None and base.dtype == torch.float64)
    dtype = torch.float64 if double else torch.float32
    return theta.to(dtype) if base is None else theta.to(dtype) - base.to(theta.device, dtype)


def lora_product(a: Tensor, b: Tensor) -> Tensor:
    """Return ||B A||_F^2 of A (r, n) and B (m, r) as trace((B^T B)(A A^T)), without B A."""
    return ((b.T @ b) * (a @ a.T)).sum()
