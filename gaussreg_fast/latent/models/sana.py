"""SANA and SANA-Sprint."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from gaussreg_fast.latent.models.base import PipelineModel


class Sana(PipelineModel):
    """SanaPipeline: it has no published number of steps that is small, so `steps` must be given.

    Sizes are taken as they are, not binned to those of the training data.
    """

    denoiser_name = "transformer"

    def _published(self) -> tuple[int | None, float | None]:
        return None, 4.5

    def _multiple(self) -> int:
        return math.lcm(32, self.pipe.vae_scale_factor)

    def _to_pipeline(self, latents: Tensor) -> Tensor:
        return latents  # the sampler's own arithmetic is in float32

    def _call_kwargs(self) -> dict[str, Any]:
        return {**super()._call_kwargs(), "use_resolution_binning": False}


class SanaSprint(Sana):
    """SanaSprintPipeline, which multiplies the noise by the scheduler's `sigma_data` itself."""

    def _published(self) -> tuple[int | None, float | None]:
        return 2, 4.5  # the defaults of the pipeline's call

    def _call_kwargs(self) -> dict[str, Any]:
        # The published schedule of two steps has a timestep of its own, which others refuse.
        own = {} if self.steps == 2 else {"intermediate_timesteps": None}
        return {**super()._call_kwargs(), **own}
