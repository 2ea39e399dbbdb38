"""An embedded Stable Diffusion of handwritten digits, its rewards and its held-out measures.

A tiny but real pipeline that runs without downloading a model: text encoder, UNet, autoencoder
and scheduler in diffusers' format, trained by `train.py` on scikit-learn's digits and distilled to
one step. `StableDiffusionPipeline.from_pretrained(PIPELINE)` loads it; call it with
`num_inference_steps=1, guidance_scale=0`. Its noise is 16 x 8 x 8, its images are 16 x 16.
`UNet2DConditionModel.from_pretrained(TEACHER)` loads the teacher that it was distilled from, for
many steps.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from gaussreg_fast.digits.words import PROMPTS

if TYPE_CHECKING:
    from gaussreg_fast.digits.rewards import DigitReward

__all__ = ["PIPELINE", "PROMPTS", "REWARDS", "TEACHER"]

WEIGHTS = Path(__file__).resolve().parent / "weights"
PIPELINE = WEIGHTS / "pipeline"
TEACHER = WEIGHTS / "teacher"


def _load(name: str) -> DigitReward:
    from gaussreg_fast.digits.rewards import SCORES, DigitReward

    return DigitReward(name, SCORES[name])


REWARDS: dict[str, Callable[[], DigitReward]] = {
    name: partial(_load, name)
    for name in (
        "digits-ink",
        "digits-slant",
        "digits-thickness",
        "digits-class",
        "digits-class-a",
        "digits-class-b",
        "digits-nearest",
    )
}
