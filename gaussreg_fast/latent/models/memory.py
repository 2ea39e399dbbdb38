"""Where the weights are, and what the backward pass computes again."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gaussreg_fast.errors import InputError


class Residency:
    """Which groups of modules are on the device.

    accelerate's hooks are not used: they act on a module's forward call alone. The backward pass
    calls none, so that it would find the denoiser's weights on the CPU, where the VAE's turn sent
    them. Here a module's whole call is computed again in its backward pass (a checkpoint around
    it), and `bring` is part of what is computed again.
    """

    def __init__(
        self, groups: dict[str, list[nn.Module]], device: torch.device, offload: str
    ) -> None:
        self.groups, self.device, self.offload = groups, device, offload
        for name in groups:
            self._move(name, to_device=offload == "none" or (offload == "text" and name != "text"))

    def bring(self, group: str) -> None:
        """Has that group on the device before it is called."""
        if self.offload == "model":
            for name in self.groups:
                if name != group:
                    self._move(name, to_device=False)
        if self.offload == "model" or (self.offload == "text" and group == "text"):
            self._move(group, to_device=True)

    def text_done(self) -> None:
        """Takes the text encoders off the device, and gives their memory back."""
        if self.offload != "none":
            self._move("text", to_device=False)
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def _move(self, group: str, *, to_device: bool) -> None:
        for module in self.groups[group]:
            module.to(self.device if to_device else "cpu")


def _again(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Keeps no activations; the backward pass calls the function again."""
    return checkpoint(function, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)


def drive_denoiser(denoiser: nn.Module, residency: Residency) -> None:
    """With "model" offloading: the denoiser comes to the device when it is called."""
    if residency.offload != "model":
        return
    forward = denoiser.forward

    def resident(*args: Any, **kwargs: Any) -> Any:
        residency.bring("denoiser")
        return forward(*args, **kwargs)

    def driven(*args: Any, **kwargs: Any) -> Any:
        return (_again if torch.is_grad_enabled() else _once)(resident, *args, **kwargs)

    # Libraries look a forward's arguments up.
    setattr(driven, "__signature__", inspect.signature(forward))  # noqa: B010  mypy knows it not
    denoiser.forward = driven


def drive_decoder(
    vae: Any, residency: Residency, dtype: torch.dtype, *, slicing: bool, whole: bool
) -> None:
    """The VAE's `decode`, in its own dtype and on the device, by slices and checkpoints.

    Args:
        vae: gets a new `decode`, which calls its own.
        residency: told before each call.
        dtype: of the VAE's weights; the latents are cast to it.
        slicing: one sample at a time, each decoded again in the backward pass.
        whole: the whole batch is decoded again in the backward pass.
    """
    plain = vae.decode

    def resident(z: Tensor) -> Tensor:
        residency.bring("vae")
        return plain(z, return_dict=False)[0]

    def decode(z: Tensor, return_dict: bool = True, **_: Any) -> Any:
        z = z.to(residency.device, dtype)
        parts = z.split(1) if slicing else (z,)
        again = torch.is_grad_enabled() and (slicing or whole)
        images = [(_again if again else _once)(resident, part) for part in parts]
        sample = images[0] if len(images) == 1 else torch.cat(images)
        if not return_dict:
            return (sample,)
        from diffusers.models.autoencoders.vae import DecoderOutput

        return DecoderOutput(sample=sample)

    vae.decode = decode


def _once(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return function(*args, **kwargs)


def checkpoint_blocks(denoiser: Any, vae: Any) -> bool:
    """Turns diffusers' own checkpointing on. False: the VAE has none (SANA's)."""
    if not getattr(denoiser, "_supports_gradient_checkpointing", False):
        raise InputError(
            f"gradient_checkpointing: {type(denoiser).__name__} does not support it in diffusers"
        )
    denoiser.enable_gradient_checkpointing()
    if getattr(vae, "_supports_gradient_checkpointing", False):
        vae.enable_gradient_checkpointing()
        return True
    return False
