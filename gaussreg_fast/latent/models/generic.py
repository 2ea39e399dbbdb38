"""The adapter of every pipeline that starts from given latents and has no adapter of its own."""

from __future__ import annotations

import inspect
from typing import Any

from gaussreg_fast.errors import InputError, first_line, of_machine
from gaussreg_fast.latent.models.base import MOST_DEFAULT_STEPS, PipelineModel
from gaussreg_fast.latent.models.options import Options

# The arguments of a pipeline's call that are always given.
GIVEN = ("prompt", "latents", "generator", "output_type", "return_dict", "num_inference_steps")
_OF_VIDEOS = ("num_frames", "frames", "video", "video_length")


class Generic(PipelineModel):
    """A DiffusionPipeline of diffusers without an adapter of its own.

    A pipeline that visibly breaks one of these assumptions raises an `InputError`: it makes
    images from prompts alone; its call takes `prompt`, `latents`, `generator`, `output_type`,
    `return_dict` and `num_inference_steps`; it gets all its text embeddings from `encode_prompt`;
    `latents` is N(0, 1) noise (B, in_channels, H / f, W / f), which the pipeline itself scales,
    with f its `vae_scale_factor` and `in_channels` from the configuration of its `unet` or
    `transformer`; `vae.decode` makes the images; its sampler takes its noise from `generator`.
    Whether it needs more than a prompt is found out by a call that ends at the denoiser: many
    arguments called `image` are optional, as in FLUX.2, and many that have a default are not.

    One assumption cannot be checked: samples of a batch do not influence one another. It holds
    unless the pipeline pads prompts to the longest of the batch.
    """

    def __init__(self, pipe: Any, name: str, options: Options) -> None:
        self.parameters = inspect.signature(inspect.unwrap(type(pipe).__call__)).parameters
        if reason := self._obstacle(pipe):
            raise InputError(f"{type(pipe).__name__} cannot be optimised: {reason}")
        if options.guidance is not None and "guidance_scale" not in self.parameters:
            raise InputError(
                f"guidance must not be given for {type(pipe).__name__}, whose call takes no "
                f"guidance_scale, got {options.guidance}"
            )
        self.denoiser_name = "transformer" if getattr(pipe, "unet", None) is None else "unet"
        super().__init__(pipe, name, options)
        self._try_out()

    def _obstacle(self, pipe: Any) -> str:
        """Return why the pipeline cannot be optimised, as far as it shows without a call, or ""."""
        missing = [name for name in GIVEN if name not in self.parameters]
        if missing:
            return f"its call takes no {' and no '.join(missing)}"
        if any(name in self.parameters for name in _OF_VIDEOS):
            return "it makes videos"
        if any(name.startswith("audio") for name in self.parameters):
            return "it makes sound"
        needed = [p.name for p in self.parameters.values() if p.default is p.empty]
        if more := [n for n in needed if n not in ("self", "args", "kwargs", *GIVEN)]:
            return f"its call needs {', '.join(more)} beside the prompt"
        if hasattr(pipe, "_pack_latents"):
            return "it packs its latents, and only the packing of FLUX.1 is known"
        denoiser = getattr(pipe, "unet", None) or getattr(pipe, "transformer", None)
        if not hasattr(getattr(denoiser, "config", None), "in_channels"):
            return "it has no unet or transformer with in_channels"
        for part in ("vae", "vae_scale_factor", "encode_prompt", "scheduler"):
            if getattr(pipe, part, None) is None:
                return f"it has no {part}"
        return ""

    def _try_out(self) -> None:
        """Call the pipeline with a prompt and latents alone, up to the denoiser."""
        kind = type(self.pipe).__name__
        try:
            self.encode(["a"])
        except Exception as error:  # the pipeline's own code may raise anything
            if of_machine(error):
                raise
            cause = error.__cause__ if isinstance(error, InputError) else error
            raise InputError(
                f"{kind} cannot be optimised: its call fails with a prompt and latents alone "
                f"({type(cause).__name__}: {first_line(cause or error)})"
            ) from error

    def _published(self) -> tuple[int | None, float | None]:
        steps = self.parameters["num_inference_steps"].default
        usual = steps if isinstance(steps, int) and steps <= MOST_DEFAULT_STEPS else None
        guidance = self.parameters.get("guidance_scale")
        return usual, None if guidance is None else guidance.default

    def _default_size(self) -> tuple[int, int]:
        own = getattr(self.pipe, "default_sample_size", None)
        if isinstance(own, int):
            return own * self.pipe.vae_scale_factor, own * self.pipe.vae_scale_factor
        if getattr(self.denoiser.config, "sample_size", None) is not None:
            return super()._default_size()
        sides = [
            getattr(self.parameters.get(name), "default", None) for name in ("height", "width")
        ]
        defaults = [side for side in sides if isinstance(side, int)]
        if len(defaults) != 2:
            kind = type(self.pipe).__name__
            raise InputError(
                f"height and width must be given for {kind}: neither its configuration nor its "
                "call has a default"
            )
        return defaults[0], defaults[1]

    def _call_kwargs(self) -> dict[str, Any]:
        wanted = {**super()._call_kwargs(), "use_resolution_binning": False}
        return {name: value for name, value in wanted.items() if name in self.parameters}
