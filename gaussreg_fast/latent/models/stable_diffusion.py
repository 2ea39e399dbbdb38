"""Stable Diffusion and Stable Diffusion XL, such as SD-Turbo and SDXL-Turbo."""

from __future__ import annotations

from gaussreg_fast.latent.models.base import PipelineModel


class StableDiffusion(PipelineModel):
    """StableDiffusionPipeline and StableDiffusionXLPipeline.

    The pipeline multiplies the noise by the scheduler's `init_noise_sigma` itself.
    """

    few_steps = "SD-Turbo and SDXL-Turbo: steps 1, guidance 0, a scheduler with trailing timesteps"

    def _published(self) -> tuple[int | None, float | None]:
        # https://huggingface.co/stabilityai/sd-turbo and .../sdxl-turbo. A single step starts at
        # the last timestep only with trailing spacing, which models of many steps have, too.
        trailing = self.pipe.scheduler.config.get("timestep_spacing") == "trailing"
        known = self.name == "digits" or self._is_known("sd-turbo", "sdxl-turbo")
        return (1, 0.0) if trailing and known else (None, None)
