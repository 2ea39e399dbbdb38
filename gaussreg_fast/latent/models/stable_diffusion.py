"""Stable Diffusion and Stable Diffusion XL, such as SD-Turbo and SDXL-Turbo."""

from __future__ import annotations

from gaussreg_fast.latent.models.base import PipelineModel


class StableDiffusion(PipelineModel):
    """StableDiffusionPipeline and StableDiffusionXLPipeline.

    The pipeline multiplies the noise by the scheduler's `init_noise_sigma` itself.
    """

    def _published(self) -> tuple[int | None, float | None]:
        # https://huggingface.co/stabilityai/sd-turbo and .../sdxl-turbo. A single step starts at
        # the last timestep only with trailing spacing, which models of many steps do not have.
        trailing = self.pipe.scheduler.config.get("timestep_spacing") == "trailing"
        return (1, 0.0) if trailing else (None, None)
