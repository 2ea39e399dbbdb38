"""The white-noise projection (GPER)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gaussreg_fast.reference._spectrum import (
    compact_adjoint,
    compact_spectrum,
    without_dust,
)


def project_white_noise(x: Tensor, block_size: int = 16) -> Tensor:
    """Return the nearest x whose every block has ||y||_1 = sqrt(pi)/2 b and ||y||_2^2 = b (GPER).

    Within a block, y' is relu(|y| - lam) in the direction of y, scaled to the 1-norm. The result
    is the same if all magnitudes are shifted or scaled, so the threshold is solved for
    w = (|y| - max) / max, which loses no digits to cancellation.
    """
    b, g = block_size, math.pi / 4
    tiny = torch.finfo(x.dtype).tiny
    x = x / x.abs().amax(-1, keepdim=True).clamp_min(tiny)  # so that no sum overflows
    y = without_dust(compact_spectrum(x)).unflatten(-1, (-1, b))
    magnitude = y.abs()
    # A zero has no direction; 1 is as good as any, since the constraints are on magnitudes only.
    direction = torch.where(magnitude > 0, torch.sgn(y), torch.ones_like(y))
    top = magnitude.amax(-1, keepdim=True)
    j_min = math.floor(g * b) + 1  # fewer bins than that cannot satisfy both norms
    floor = top * (16 * torch.finfo(x.dtype).eps)
    tied = (top - magnitude <= floor).sum(-1, keepdim=True) >= j_min
    w = (magnitude - top) / torch.where(tied, floor, top).clamp_min(tiny)
    # Ties at the maximum have no unique nearest point; a ramp over the bins picks one.
    j = torch.arange(1, b + 1, dtype=x.dtype, device=x.device)
    w = torch.where(tied, w - (j - 1) / j_min, w)
    w, order = torch.sort(w, dim=-1, descending=True, stable=True)
    s1, s2 = w.cumsum(-1), (w * w).cumsum(-1)
    room = torch.where(j > g * b, j - g * b, torch.inf)
    lam = (s1 - (g * b * (j * s2 - s1 * s1).clamp_min(0) / room).sqrt()) / j
    below = torch.nn.functional.pad(w[..., 1:], (0, 1), value=-torch.inf)
    violation = (below - lam).clamp_min(0) + (lam - w).clamp_min(0)
    violation = torch.where(j > g * b, violation, torch.inf)
    k = violation.argmin(-1, keepdim=True)  # the one valid count, found in spite of rounding
    excess = (w - lam.gather(-1, k)).clamp_min(0)
    solved = math.sqrt(g) * b * excess / excess.sum(-1, keepdim=True)
    solved = torch.empty_like(solved).scatter_(-1, order, solved)
    return 2 * compact_adjoint((solved * direction).flatten(-2), x.shape[-1])
