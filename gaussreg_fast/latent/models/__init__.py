"""Text-to-image models as differentiable functions of their starting noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from gaussreg_fast import _ambient

__all__ = ["LatentModel", "load_model"]


@runtime_checkable
class LatentModel(Protocol):
    """The model as the optimisation loop uses it; `load_model` returns one."""

    name: str
    """The source that it was loaded from."""
    latent_shape: tuple[int, int, int]
    """(C, H, W) of one sample's noise, i.i.d. N(0, 1), before any scaling or packing."""
    device: torch.device
    """Device on which `generate` computes and leaves its images."""
    settings: dict[str, Any]
    """Settings as resolved on loading (steps, guidance, size, dtype, ...); JSON values."""

    def encode(self, prompts: Sequence[str]) -> Any:
        """Encode a batch of B prompts, without gradient, into a value for `generate` alone."""
        ...

    def generate(self, latents: Tensor, conditioning: Any, *, seeds: Sequence[int]) -> Tensor:
        """Map (B, *latent_shape) float32 to (B, 3, H', W') float32 in [0, 1], differentiably.

        Image i and its gradient depend on latent i, prompt i and seed i alone. `seeds` are those
        of the noise that a sampler of several steps adds by itself: the same seeds give the same
        image, so that the objective is a function of the latents.
        """
        ...


@_ambient.usual()
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
    variant: str | None = None,
) -> LatentModel:
    """Load a diffusers pipeline, frozen, as a differentiable function of its noise.

    Args:
        source: a hub id such as "stabilityai/sd-turbo", a local folder in diffusers' format, or
            "digits", the pipeline that comes with this package (a folder of that name: "./digits").
        device: "auto" is the GPU if there is one, else the CPU.
        dtype: dtype of the weights. "auto" is bfloat16 on a GPU that has it, float16 on another,
            and float32 on the CPU. In float16 a VAE whose configuration says `force_upcast`
            (SDXL's overflows) stays in float32, and the gradient is scaled, per sample and by
            powers of two, so that it does not underflow.
        steps: None takes those the model was published with: 1 for SD-Turbo, SDXL-Turbo,
            FLUX.1-schnell and "digits", 2 for SANA-Sprint. The first three are known by the name
            of the repository, of the folder, or in the folder's model_index.json, because their
            configuration does not differ from that of models of many steps. Other pipelines take
            their own default; if it is over 8, `steps` must be given.
        guidance: None takes the one the model was published with: 0 for the models of one step
            above, 4.5 for SANA-Sprint, else the pipeline's own default.
        height: height of the images in pixels; None takes the pipeline's own.
        width: width of the images in pixels; None takes the pipeline's own.
        gradient_checkpointing: recompute the denoiser's and the VAE's blocks in the backward
            pass instead of keeping their activations.
        vae_slicing: decode sample by sample. With gradients each sample is decoded again in the
            backward pass, because slicing would save no memory otherwise.
        offload: "none" keeps all on the device; "text" keeps the text encoders there during
            `encode` only; "model" keeps there only the one of text encoders, denoiser and VAE
            that is computing. "model" costs, per gradient, a second forward pass of denoiser and
            VAE and one transfer of their weights to the device and back.
        revision: revision of the hub's repository.
        variant: variant of the weights' files, such as "fp16". None takes the files without a
            variant, or if there are none, the only variant.

    Raises:
        InputError: the source is unknown, incomplete or unreadable, the hub cannot be reached, the
            pipeline cannot start from given latents, an argument is out of range, or a package is
            missing.
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
        variant=variant,
    )
