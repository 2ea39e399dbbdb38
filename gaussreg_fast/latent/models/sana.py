"""SANA and SANA-Sprint."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from gaussreg_fast.latent.models.base import PipelineModel


class Sana(PipelineModel):
    """SanaPipeline; `steps` must be given, because it has no small published number of steps.

    Sizes are not binned to those of the training data.
    """

    denoiser_name = "transformer"

    def _published(self) -> tuple[int | None, float | None]:
        return None, 4.5

    def _multiple(self) -> int:
        return math.lcm(32, self.pipe.vae_scale_factor)

    def _to_pipeline(self, latents: Tensor) -> Tensor:
        return latents  # uncast, because the sampler itself computes in float32

    def _call_kwargs(self) -> dict[str, Any]:
        return {**super()._call_kwargs(), "use_resolution_binning": False}


class SanaSprint(Sana):
    """SanaSprintPipeline, which multiplies the noise by the scheduler's `sigma_data` itself."""

    def _published(self) -> tuple[int | None, float | None]:
        return 2, 4.5  # the defaults of the pipeline's call

    def _call_kwargs(self) -> dict[str, Any]:
        # The intermediate timestep belongs to the published schedule of two steps alone.
        own = {} if self.steps == 2 else {"intermediate_timesteps": None}
        return {**super()._call_kwargs(), **own}
