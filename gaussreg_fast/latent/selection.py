"""Which iterate of a sample is kept, and when a sample has had enough: never by its reward."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

MODES = ("held_out", "gaussianity", "last")


@dataclass
class Selection:
    """The best iterate of every sample so far.

    A reward that is optimised says nothing about its own being hacked, so the choice is made by
    - "held_out": the largest sum of held-out rewards;
    - "gaussianity": the latest iterate whose noise still passes for Gaussian (p >= `p_value`);
    - "last": no choice.

    Attributes:
        score: (B,), held-out sum of the best, or its iteration.
        iteration: (B,) int64, of the best.
        stale: (B,) int64, iterations since.
        latents: (B, *latent), the best.
    """

    mode: str
    p_value: float
    score: Tensor
    iteration: Tensor
    stale: Tensor
    latents: Tensor

    @staticmethod
    def start(mode: str, p_value: float, latents: Tensor) -> Selection:
        """Before the first evaluation: the starting noise, with the worst score."""
        batch = len(latents)
        return Selection(
            mode,
            p_value,
            torch.full((batch,), -torch.inf, dtype=torch.float64),
            torch.zeros(batch, dtype=torch.int64),
            torch.zeros(batch, dtype=torch.int64),
            latents.clone(),
        )

    def update(
        self, iteration: int, rows: Tensor, latents: Tensor, held_out: Tensor, p_value: Tensor
    ) -> None:
        """Takes the iterates of the samples `rows` in, with their (B',) measures.

        A measure that is NaN chooses nothing.
        """
        if self.mode == "held_out":
            score = held_out.double()
        else:
            passed = torch.ones_like(rows, dtype=torch.bool)
            if self.mode == "gaussianity":
                passed = p_value >= self.p_value
            score = torch.where(passed, float(iteration), -torch.inf).double()
        better = score > self.score[rows]
        chosen = rows[better]
        self.score[chosen] = score[better]
        self.iteration[chosen] = iteration
        self.latents[chosen] = latents[better.to(latents.device)]
        self.stale[rows] += 1
        self.stale[chosen] = 0
