"""The embedded digits model with many steps: its training loss, and its sampler with noise."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn

from gaussreg_fast import PathKL, ddim_step_kl_terms
from gaussreg_fast.digits import PIPELINE, TEACHER
from gaussreg_fast.latent.models.loading import without_bars


class DigitsModel:
    """What fine-tuning leaves as it is: text encoder, autoencoder, schedule. Copies of the UNet.

    Predicts v (the velocity), on a schedule that ends without signal; latents are 16 x 8 x 8,
    images (B, 1, 16, 16) in [0, 1].
    """

    def __init__(self) -> None:
        with without_bars():
            unet = UNet2DConditionModel.from_pretrained(TEACHER)
            pipe = StableDiffusionPipeline.from_pretrained(PIPELINE, unet=unet)
        self._pipe = pipe
        self._vae = pipe.vae.eval().requires_grad_(False)
        self._scheduler = pipe.scheduler
        self.pretrained = pipe.unet.eval().requires_grad_(False)

    def copy(self) -> UNet2DConditionModel:
        """The pretrained UNet, to be trained."""
        return copy.deepcopy(self.pretrained).requires_grad_(True)

    @torch.no_grad()
    def embed(self, prompts: Sequence[str]) -> Tensor:
        """(n, 16, 64), what the UNet attends to."""
        hidden: Tensor = self._pipe.encode_prompt(
            list(prompts), device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
        )[0]
        return hidden

    @torch.no_grad()
    def encode(self, grey: Tensor) -> tuple[Tensor, Tensor]:
        """Means and deviations of the latents of (B, 1, 16, 16) images."""
        posterior = self._vae.encode((2 * grey - 1).expand(-1, 3, -1, -1)).latent_dist
        return posterior.mean, posterior.std

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """(B, 1, 16, 16) images."""
        images = self._vae.decode(latents).sample.mean(1, keepdim=True)
        return (images / 2 + 0.5).clamp(0, 1)

    def denoising_loss(
        self, unet: nn.Module, clean: Tensor, hidden: Tensor, generator: torch.Generator
    ) -> Tensor:
        """The loss of every sample's v-prediction, (B,), at a random time each.

        Args:
            clean: (B, 16, 8, 8) latents.
            hidden: (B, 16, 64), of `embed`.
        """
        schedule = self._scheduler
        times = torch.randint(
            schedule.config.num_train_timesteps, (len(clean),), generator=generator
        )
        noise = torch.randn(clean.shape, generator=generator)
        noisy = schedule.add_noise(clean, noise, times)
        target = schedule.get_velocity(clean, noise, times)
        misfit = F.mse_loss(unet(noisy, times, hidden).sample, target, reduction="none")
        return misfit.flatten(1).mean(1)

    @torch.no_grad()
    def sample(
        self,
        unet: nn.Module,
        hidden: Tensor,
        *,
        steps: int,
        eta: float,
        seed: int,
        base: nn.Module | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Latents drawn by DDIM without guidance, and each one's path KL from what `base` draws.

        The path KL leaves the last step out: it adds no noise. The same seed is the same noise,
        in the start and on the way, for every model.

        Args:
            hidden: (B, 16, 64), of `embed`.
            steps: of the sampler.
            eta: its noise; above 0 where there is a `base`.
            base: the pretrained UNet.

        Returns:
            Latents (B, 16, 8, 8); path KL (B,) in nats, None without `base`.
        """
        generator = torch.Generator().manual_seed(seed)
        scheduler, kl = self._scheduler, PathKL(keep_graph=False)
        scheduler.set_timesteps(steps)
        stride = scheduler.config.num_train_timesteps // steps
        x = torch.randn(len(hidden), *_latent_shape(self._pipe), generator=generator)
        for t in scheduler.timesteps.tolist():
            v = unet(x, t, hidden).sample
            if base is not None and t >= stride:
                kl.add(
                    *ddim_step_kl_terms(
                        v - base(x, t, hidden).sample,
                        alpha_cumprod=scheduler.alphas_cumprod[t],
                        alpha_cumprod_prev=scheduler.alphas_cumprod[t - stride],
                        eta=eta,
                        prediction_type="v_prediction",
                    )
                )
            x = scheduler.step(v, t, x, eta=eta, generator=generator).prev_sample
        return x, (None if base is None else kl.value)


def _latent_shape(pipe: StableDiffusionPipeline) -> tuple[int, int, int]:
    size = pipe.unet.config.sample_size
    return pipe.unet.config.in_channels, size, size
