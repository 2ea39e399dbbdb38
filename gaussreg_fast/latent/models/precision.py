"""Choose device and dtypes of the weights, and scale gradients so that they survive float16."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gaussreg_fast.errors import InputError, NoDeviceError

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}
# Gradients enter float16 with this as their largest number: 18 bits above the smallest one that
# is not zero, 22 bits below overflow.
_LOG2_PEAK = -6


def resolve_device(device: str | torch.device) -> torch.device:
    """Return the device of that name; "auto" is the GPU if there is one.

    Raises:
        InputError: the name is none.
        NoDeviceError: this machine has no such device.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise InputError(f"device must be auto, cpu, cuda or cuda:N, got {device!r}") from error
    if resolved.type == "cuda" and not torch.cuda.is_available():
        raise NoDeviceError(f"device must be auto or cpu, got {device!r}: PyTorch sees no GPU here")
    if resolved.type == "cuda" and (resolved.index or 0) >= torch.cuda.device_count():
        last = torch.cuda.device_count() - 1
        raise NoDeviceError(f"device must be at most cuda:{last} on this machine, got {device!r}")
    return resolved


def resolve_dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype:
    """Return the dtype of that name; "auto" depends on the device, see `load_model`.

    Raises:
        InputError: the name or dtype is not one of `DTYPES`.
    """
    if dtype == "auto":
        if device.type != "cuda":
            return torch.float32
        with torch.cuda.device(device):
            has_bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if has_bfloat16 else torch.float16
    if isinstance(dtype, str) and dtype in DTYPES:
        return DTYPES[dtype]
    if isinstance(dtype, torch.dtype) and dtype in DTYPES.values():
        return dtype
    raise InputError(f"dtype must be one of auto, {', '.join(DTYPES)}, got {dtype!r}")


def vae_dtype(vae: Any, dtype: torch.dtype) -> torch.dtype:
    """Return `dtype`, or float32 for a VAE whose configuration says it overflows in float16."""
    overflows = dtype == torch.float16 and getattr(vae.config, "force_upcast", False)
    return torch.float32 if overflows else dtype


class GradientScale:
    """Scales each sample's gradient between the image and the noise by a power of two.

    A reward that is a mean over pixels has derivatives near 1e-6, where float16 has few bits left
    or none. Everything between the two ends is linear in the gradient, so that the scale can be
    removed exactly. The backward pass chooses it from the gradient itself, sample by sample.
    """

    def __init__(self) -> None:
        self.exponent: Tensor | None = None

    def at_noise(self, latents: Tensor) -> Tensor:
        """Return the latents; removes the scale from their gradient."""
        return _TakeOff.apply(latents, self)

    def at_images(self, images: Tensor) -> Tensor:
        """Return the images; applies the scale to their gradient."""
        return _PutOn.apply(images, self)


def _per_sample(exponent: Tensor, like: Tensor) -> Tensor:
    return exponent.view(-1, *[1] * (like.dim() - 1))


class _PutOn(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, scale: GradientScale) -> Tensor:
        ctx.scale = scale
        return images.view_as(images)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        peak = gradient.abs().flatten(1).amax(1)
        exponent = _LOG2_PEAK - torch.frexp(peak).exponent
        # Zeros need no scale, and none can rescue NaN.
        usable = torch.isfinite(peak) & (peak > 0)
        ctx.scale.exponent = torch.where(usable, exponent.clamp(-100, 100), 0)
        return torch.ldexp(gradient, _per_sample(ctx.scale.exponent, gradient)), None


class _TakeOff(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, latents: Tensor, scale: GradientScale) -> Tensor:
        ctx.scale = scale
        return latents.view_as(latents)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        exponent = ctx.scale.exponent
        if exponent is None:  # no gradient came through the images
            return gradient, None
        return torch.ldexp(gradient, _per_sample(-exponent, gradient)), None
