"""Path KL: a pass over dmu, and one over the sums of its parts."""

from __future__ import annotations

import torch
from torch import Tensor

from gaussreg_fast import config
from gaussreg_fast.kernels.path import path_rows, path_sums
from gaussreg_fast.launch._device import compiler, on


def path_kl(
    dmu: Tensor,
    sigma: Tensor,
    *,
    kl: Tensor | None = None,
    costs: Tensor | None = None,
    upstream: Tensor | None = None,
    grad: Tensor | None = None,
) -> None:
    """Fills kl (B,) and costs (T, B), float32, and grad (like dmu, contiguous), those given.

    dmu (T, B, *shape), sigma (T, 1) or (T, B); grad is of the values' sum, or for `upstream` (B,).
    """
    steps, batch = dmu.shape[:2]
    rows = dmu.contiguous()
    deviations = sigma.float().contiguous()
    size = dmu[0, 0].numel()
    split = config.general(size)
    device = dmu.device
    partials = deviations  # a stand-in that no kernel touches
    if kl is not None:
        partials = torch.empty((steps, batch, split.parts), dtype=torch.float32, device=device)
    with on(device, "path_kl"):
        path_rows[(steps * batch * split.parts,)](
            dmu=rows,
            sigma=deviations,
            upstream=deviations if upstream is None else upstream.float().contiguous(),
            partials=partials,
            grad=rows if grad is None else grad,
            batch=batch,
            VALUE=kl is not None,
            GRADIENT=grad is not None,
            UPSTREAM=upstream is not None,
            PER_SAMPLE=sigma.shape[1] == batch,
            D=size,
            TILE=split.tile,
            PARTS=split.parts,
            STEPS=split.steps,
            **compiler(split.num_warps),
        )
        if kl is not None:
            padded, tile, warps = config.path_sums(steps, split.parts)
            path_sums[(batch,)](
                partials=partials,
                costs=costs,
                kl=kl,
                batch=batch,
                steps=steps,
                D=size,
                PARTS=split.parts,
                PADDED=padded,
                TILE=tile,
                **compiler(warps),
            )
