"""Choose the best iterate of every sample, and count evaluations since; never by its reward."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

MODES = ("held_out", "gaussianity", "last")


@dataclass
class Selection:
    """The best iterate of every sample so far.

    An optimised reward cannot tell that it is being hacked. So the best iterate is, by `mode`,
    - "held_out": the one with the largest sum of held-out rewards;
    - "gaussianity": the latest whose noise still passes as Gaussian (p >= `p_value`);
    - "last": the last.

    Attributes:
        score: (B,) float64, the best iterate's held-out sum, or its iteration.
        iteration: (B,) int64, iteration of the best iterate.
        stale: (B,) int64, evaluations since the best iterate.
        latents: (B, *latent) float32, the best iterate.
    """

    mode: str
    p_value: float
    score: Tensor
    iteration: Tensor
    stale: Tensor
    latents: Tensor

    @staticmethod
    def start(mode: str, p_value: float, latents: Tensor) -> Selection:
        """Return the selection before the first evaluation: the start, with the worst score."""
        batch = len(latents)
        return Selection(
            mode,
            p_value,
            torch.full((batch,), -torch.inf, dtype=torch.float64, device="cpu"),
            torch.zeros(batch, dtype=torch.int64, device="cpu"),
            torch.zeros(batch, dtype=torch.int64, device="cpu"),
            latents.clone(),
        )

    def update(
        self, iteration: int, rows: Tensor, latents: Tensor, held_out: Tensor, p_value: Tensor
    ) -> None:
        """Compare the iterates of the samples `rows` with the best ones, by (B',) measures.

        An iterate whose measure is NaN is never chosen.
        """
        if self.mode == "held_out":
            score = held_out.double()
        else:
            passed = torch.ones_like(rows, dtype=torch.bool)
            if self.mode == "gaussianity":
                passed = p_value >= self.p_value
            score = torch.full_like(self.score[rows], -torch.inf)
            score[passed] = iteration
        better = score > self.score[rows]
        chosen = rows[better]
        self.score[chosen] = score[better]
        self.iteration[chosen] = iteration
        self.latents[chosen] = latents[better.to(latents.device)]
        self.stale[rows] += 1
        self.stale[chosen] = 0
