"""Text-to-image models as differentiable functions of their starting noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

__all__ = ["LatentModel", "load_model"]


@runtime_checkable
class LatentModel(Protocol):
    """What the optimisation loop asks of a model; `load_model` returns one."""

    name: str
    """What it was loaded from."""
    latent_shape: tuple[int, int, int]
    """(C, H, W) of one sample's noise, i.i.d. N(0, 1): before any scaling or packing."""
    device: torch.device
    """Where `generate` computes and puts its images."""
    settings: dict[str, Any]
    """What was resolved on loading (steps, guidance, size, dtype, ...); plain JSON values."""

    def encode(self, prompts: Sequence[str]) -> Any:
        """The conditioning of a batch of B prompts, without gradient; opaque to the caller."""
        ...

    def generate(self, latents: Tensor, conditioning: Any, *, seeds: Sequence[int]) -> Tensor:
        """(B, *latent_shape) float32 -> (B, 3, H', W') float32 in [0, 1], differentiable.

        Image i and its gradient depend on latent i, prompt i and seed i alone. `seeds` are those
        of the noise that a sampler of several steps adds by itself: the same seeds give the same
        image, so that the objective is a function of the latents.
        """
        ...


def load_model(
    source: str,
    *,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    steps: int | None = None,
    guidance: float | None = None,
    height: int | None = None,
    width: int | None = None,
    gradient_checkpointing: bool = False,
    vae_slicing: bool = False,
    offload: str = "none",
    revision: str | None = None,
) -> LatentModel:
    """A diffusers pipeline, frozen, as a differentiable function of its noise.

    Args:
        source: a hub id such as "stabilityai/sd-turbo", a local folder in diffusers' format, or
            "digits", the pipeline that comes with this package (a folder of that name: "./digits").
        device: "auto" is the GPU if there is one, else the CPU.
        dtype: of the weights. "auto" is bfloat16 on a GPU that has it, float16 on another, and
            float32 on the CPU. In float16 a VAE whose configuration says `force_upcast` (SDXL's
            overflows) stays in float32, and the gradient is scaled, per sample and by powers of
            two, so that it does not underflow.
        steps, guidance: None takes those the model was published with: 1 and 0 for
            StableDiffusionPipeline and StableDiffusionXLPipeline whose scheduler has trailing
            timesteps (SD-Turbo, SDXL-Turbo), and FLUX.1-schnell, 2 and 4.5 for SANA-Sprint.
            Other pipelines take their own default, but `steps` must be given where that is over 8.
        height, width: of the images in pixels; None takes the pipeline's own.
        gradient_checkpointing: the denoiser's and the VAE's blocks are computed again in the
            backward pass instead of keeping their activations.
        vae_slicing: decodes sample by sample. With gradients each sample is decoded again in the
            backward pass, since slicing would save no memory otherwise.
        offload: "none"; "text": the text encoders are on the device during `encode` only;
            "model": of text encoders, denoiser and VAE, only those at work are on the device. The
            last costs a second forward pass of denoiser and VAE, and moving the weights of both
            to and fro once, per gradient.
        revision: of the hub's repository.

    Raises:
        InputError: an unknown or unreadable source, a hub that cannot be reached, a pipeline that
            cannot be driven by its latents, an argument out of range, a missing package.
    """
    from gaussreg_fast.latent.models.loading import load

    return load(
        source,
        device=device,
        dtype=dtype,
        steps=steps,
        guidance=guidance,
        height=height,
        width=width,
        gradient_checkpointing=gradient_checkpointing,
        vae_slicing=vae_slicing,
        offload=offload,
        revision=revision,
    )
