"""Save memory: move weights between devices, and recompute activations in the backward pass."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gaussreg_fast.errors import InputError


class Residency:
    """Moves groups of modules to and from the device.

    accelerate's hooks do not serve here: they act on a module's forward call alone. The backward
    pass calls none of them, so that it would find the denoiser's weights on the CPU, where the
    VAE's call sent them. Here a checkpoint around a module's whole call recomputes it in its
    backward pass, and the recomputation includes `bring`.
    """

    def __init__(
        self, groups: dict[str, list[nn.Module]], device: torch.device, offload: str
    ) -> None:
        self.groups, self.device, self.offload = groups, device, offload
        for name in groups:
            self._move(name, to_device=offload == "none" or (offload == "text" and name != "text"))

    def bring(self, group: str) -> None:
        """Move a group to the device before its call, and the others off it if so configured."""
        if self.offload == "model":
            for name in self.groups:
                if name != group:
                    self._move(name, to_device=False)
        if self.offload == "model" or (self.offload == "text" and group == "text"):
            self._move(group, to_device=True)

    def text_done(self) -> None:
        """Move the text encoders off the device, and release their memory."""
        if self.offload != "none":
            self._move("text", to_device=False)
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def _move(self, group: str, *, to_device: bool) -> None:
        for module in self.groups[group]:
            module.to(self.device if to_device else "cpu")


def _call_checkpointed(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call without keeping activations; the backward pass calls the function again."""
    return checkpoint(function, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)


def drive_denoiser(denoiser: nn.Module, residency: Residency) -> None:
    """Move the denoiser to the device at each call, if `offload` is "model"."""
    if residency.offload != "model":
        return
    forward = denoiser.forward

    def resident(*args: Any, **kwargs: Any) -> Any:
        residency.bring("denoiser")
        return forward(*args, **kwargs)

    def driven(*args: Any, **kwargs: Any) -> Any:
        call = _call_checkpointed if torch.is_grad_enabled() else _call
        return call(resident, *args, **kwargs)

    # Set because libraries inspect a forward's signature.
    setattr(driven, "__signature__", inspect.signature(forward))  # noqa: B010  mypy knows it not
    denoiser.forward = driven


def drive_decoder(
    vae: Any, residency: Residency, dtype: torch.dtype, *, slicing: bool, whole: bool
) -> None:
    """Replace the VAE's `decode`: in its own dtype, on the device, by slices and checkpoints.

    Args:
        vae: gets a new `decode`, which calls its own.
        residency: moves the VAE to the device before each call.
        dtype: dtype of the VAE's weights; the latents are cast to it.
        slicing: decode one sample at a time, and each again in the backward pass.
        whole: decode the whole batch again in the backward pass.
    """
    own_decode = vae.decode

    def resident(z: Tensor) -> Tensor:
        residency.bring("vae")
        return own_decode(z, return_dict=False)[0]

    def decode(z: Tensor, return_dict: bool = True, **_: Any) -> Any:
        z = z.to(residency.device, dtype)
        parts = z.split(1) if slicing else (z,)
        recompute = torch.is_grad_enabled() and (slicing or whole)
        call = _call_checkpointed if recompute else _call
        images = [call(resident, part) for part in parts]
        sample = images[0] if len(images) == 1 else torch.cat(images)
        if not return_dict:
            return (sample,)
        from diffusers.models.autoencoders.vae import DecoderOutput

        return DecoderOutput(sample=sample)

    vae.decode = decode


def _call(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return function(*args, **kwargs)


def checkpoint_blocks(denoiser: Any, vae: Any) -> bool:
    """Turn on diffusers' own checkpointing. Return whether the VAE has it (SANA's has not)."""
    if not getattr(denoiser, "_supports_gradient_checkpointing", False):
        raise InputError(
            f"gradient_checkpointing must be off for {type(denoiser).__name__}: diffusers does not "
            "support it there"
        )
    denoiser.enable_gradient_checkpointing()
    if getattr(vae, "_supports_gradient_checkpointing", False):
        vae.enable_gradient_checkpointing()
        return True
    return False
