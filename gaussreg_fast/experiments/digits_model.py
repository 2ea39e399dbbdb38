"""The embedded digits model with many steps: its training loss and its stochastic sampler."""

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
    """The parts that fine-tuning does not change, and copies of the UNet to fine-tune.

    The model predicts v (the velocity), on a schedule that ends without signal. Latents are
    (B, 16, 8, 8), images (B, 1, 16, 16) in [0, 1].
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
        """Return a trainable copy of the pretrained UNet."""
        return copy.deepcopy(self.pretrained).requires_grad_(True)

    @torch.no_grad()
    def embed(self, prompts: Sequence[str]) -> Tensor:
        """Embed n prompts: (n, 16, 64), which the UNet attends to."""
        hidden: Tensor = self._pipe.encode_prompt(
            list(prompts), device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
        )[0]
        return hidden

    @torch.no_grad()
    def encode(self, grey: Tensor) -> tuple[Tensor, Tensor]:
        """Encode (B, 1, 16, 16) images: means and deviations of latents, (B, 16, 8, 8) each."""
        posterior = self._vae.encode((2 * grey - 1).expand(-1, 3, -1, -1)).latent_dist
        return posterior.mean, posterior.std

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Decode (B, 16, 8, 8) latents to (B, 1, 16, 16) images."""
        images = self._vae.decode(latents).sample.mean(1, keepdim=True)
        return (images / 2 + 0.5).clamp(0, 1)

    def denoising_loss(
        self, unet: nn.Module, clean: Tensor, hidden: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Return the loss of each sample's v-prediction, (B,), at a random time.

        Args:
            clean: (B, 16, 8, 8) latents.
            hidden: (B, 16, 64) from `embed`.
        """
        schedule = self._scheduler
        times = torch.randint(
            schedule.config.num_train_timesteps, (len(clean),), generator=generator, device="cpu"
        )
        noise = torch.randn(clean.shape, generator=generator, dtype=torch.float32, device="cpu")
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
        """Draw latents by DDIM without guidance, and compute their path KL from `base`'s paths.

        The path KL leaves the last step out, because it adds no noise. A seed gives the same noise,
        at the start and in each step, for every model.

        Args:
            hidden: (B, 16, 64) from `embed`.
            steps: number of sampler steps.
            eta: scale of the sampler's noise; above 0 if there is a `base`.
            base: the pretrained UNet; None computes no path KL.

        Returns:
            Latents (B, 16, 8, 8); path KL (B,) in nats, None without `base`.
        """
        generator = torch.Generator().manual_seed(seed)
        scheduler, kl = self._scheduler, PathKL(keep_graph=False)
        scheduler.set_timesteps(steps)
        stride = scheduler.config.num_train_timesteps // steps
        x = torch.randn(
            len(hidden),
            *_latent_shape(self._pipe),
            generator=generator,
            dtype=torch.float32,
            device="cpu",
        )
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
