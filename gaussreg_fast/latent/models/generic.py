"""The adapter of every pipeline that starts from given latents and has no adapter of its own."""

from __future__ import annotations

import inspect
from typing import Any

from gaussreg_fast.errors import InputError
from gaussreg_fast.latent.models.base import MOST_DEFAULT_STEPS, PipelineModel
from gaussreg_fast.latent.models.options import Options


class Generic(PipelineModel):
    """A DiffusionPipeline of diffusers without an adapter of its own.

    A pipeline that visibly breaks one of these assumptions raises an `InputError`: it makes
    images from prompts alone; its call takes `prompt`, `latents`, `generator`, `output_type`,
    `return_dict` and `num_inference_steps`; it gets all its text embeddings from `encode_prompt`;
    `latents` is N(0, 1) noise (B, in_channels, H / f, W / f), which the pipeline itself scales,
    with f its `vae_scale_factor` and `in_channels` from the configuration of its `unet` or
    `transformer`; `vae.decode` makes the images; its sampler takes its noise from `generator`.

    One assumption cannot be checked: samples of a batch do not influence one another. It holds
    unless the pipeline pads prompts to the longest of the batch.
    """

    def __init__(self, pipe: Any, name: str, options: Options) -> None:
        self.parameters = inspect.signature(inspect.unwrap(type(pipe).__call__)).parameters
        self._refuse(pipe)
        if options.guidance is not None and "guidance_scale" not in self.parameters:
            raise InputError(f"{type(pipe).__name__} takes no guidance, got {options.guidance}")
        self.denoiser_name = "transformer" if getattr(pipe, "unet", None) is None else "unet"
        super().__init__(pipe, name, options)

    def _refuse(self, pipe: Any) -> None:
        kind = type(pipe).__name__
        needed = ("latents", "prompt", "generator", "output_type", "num_inference_steps")
        missing = [name for name in needed if name not in self.parameters]
        if missing:
            raise InputError(
                f"{kind} cannot be optimised: its call takes no {' and no '.join(missing)}"
            )
        if "image" in self.parameters:
            raise InputError(f"{kind} cannot be optimised: it starts from an image")
        if hasattr(pipe, "_pack_latents"):
            raise InputError(f"{kind} cannot be optimised: it packs latents in an unknown way")
        denoiser = getattr(pipe, "unet", None) or getattr(pipe, "transformer", None)
        if not hasattr(getattr(denoiser, "config", None), "in_channels"):
            raise InputError(
                f"{kind} cannot be optimised: it has no unet or transformer with in_channels"
            )
        for part in ("vae", "vae_scale_factor", "encode_prompt", "scheduler"):
            if getattr(pipe, part, None) is None:
                raise InputError(f"{kind} cannot be optimised: it has no {part}")

    def _published(self) -> tuple[int | None, float | None]:
        steps = self.parameters["num_inference_steps"].default
        usual = steps if isinstance(steps, int) and steps <= MOST_DEFAULT_STEPS else None
        guidance = self.parameters.get("guidance_scale")
        return usual, None if guidance is None else guidance.default

    def _default_size(self) -> tuple[int, int]:
        if isinstance(getattr(self.denoiser.config, "sample_size", None), int):
            return super()._default_size()
        sides = [
            getattr(self.parameters.get(name), "default", None) for name in ("height", "width")
        ]
        defaults = [side for side in sides if isinstance(side, int)]
        if len(defaults) != 2:
            kind = type(self.pipe).__name__
            raise InputError(
                f"height and width must be given for {kind}: it has no size of its own"
            )
        return defaults[0], defaults[1]

    def _call_kwargs(self) -> dict[str, Any]:
        wanted = {**super()._call_kwargs(), "use_resolution_binning": False}
        return {name: value for name, value in wanted.items() if name in self.parameters}
