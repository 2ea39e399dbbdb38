"""FLUX.1: schnell, and dev with a few steps."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from gaussreg_fast.latent.models.base import PipelineModel


def pack(latents: Tensor) -> Tensor:
    """Permute (B, C, H, W) to (B, H/2 * W/2, 4C): a token for each 2 x 2 patch."""
    batch, channels, height, width = latents.shape
    patches = latents.unfold(2, 2, 2).unfold(3, 2, 2)  # (B, C, H/2, W/2, 2, 2)
    return patches.permute(0, 2, 3, 1, 4, 5).reshape(batch, height * width // 4, channels * 4)


class Flux(PipelineModel):
    """FluxPipeline, whose `latents` argument is packed; the noise here is not."""

    denoiser_name = "transformer"
    few_steps = "FLUX.1-schnell: steps 1 to 4, guidance 0"

    def _published(self) -> tuple[int | None, float | None]:
        # https://huggingface.co/black-forest-labs/FLUX.1-schnell: 1 to 4 steps, no guidance.
        # FLUX.1-dev and models derived from schnell need many steps.
        return (1, 0.0) if self._is_known("flux.1-schnell") else (None, None)

    def _default_size(self) -> tuple[int, int]:
        side = self.pipe.default_sample_size * self.pipe.vae_scale_factor
        return side, side

    def _multiple(self) -> int:
        return 2 * self.pipe.vae_scale_factor

    def _latent_shape(self) -> tuple[int, int, int]:
        channels, height, width = super()._latent_shape()
        return channels // 4, height, width

    def _to_pipeline(self, latents: Tensor) -> Tensor:
        return pack(super()._to_pipeline(latents))

    def _call_kwargs(self) -> dict[str, Any]:
        # schnell was trained on prompts of up to 256 tokens.
        length = 512 if self.denoiser.config.guidance_embeds else 256
        return {**super()._call_kwargs(), "max_sequence_length": length}
