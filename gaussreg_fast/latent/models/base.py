"""The base class of all families of pipelines."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gaussreg_fast.errors import InputError, first_line
from gaussreg_fast.latent.models.memory import (
    Residency,
    checkpoint_blocks,
    drive_decoder,
    drive_denoiser,
)
from gaussreg_fast.latent.models.options import Options
from gaussreg_fast.latent.models.precision import GradientScale, vae_dtype

MOST_DEFAULT_STEPS = 8
# A repository in the hub's cache: models--OWNER--NAME/snapshots/COMMIT.
_CACHED = re.compile(r"(?:.*[/\\])?models--[^/\\]+--([^/\\]+?)(?:[/\\]snapshots[/\\][^/\\]+)?")


@dataclass(frozen=True)
class Conditioning:
    """A batch of prompts and the results of the pipeline's `encode_prompt` for them."""

    prompts: tuple[str, ...]
    recording: list[Any]


class PipelineModel:
    """A pipeline as a differentiable function of its noise; families override its hooks.

    The weights are frozen and in eval mode. Latents and images are float32 whatever dtype the
    weights have (float64 latents give float64 images, for gradient checks). Pixels are clamped to
    [0, 1] as in the pipelines: the gradient of a pixel that the decoder left outside is zero.
    """

    denoiser_name = "unet"
    few_steps = ""
    """The models of few steps in the family and their settings, for the error that asks."""

    def __init__(self, pipe: Any, name: str, options: Options) -> None:
        self.pipe, self.name, self.device = pipe, name, options.device
        self.names = options.names
        self.dtype = options.dtype
        self.denoiser, self.vae = getattr(pipe, self.denoiser_name), pipe.vae
        self._watches_noise = True  # until the first images
        self.steps, self.guidance = self._resolve_sampling(options)
        self.height, self.width = self._resolve_size(options)
        self.latent_shape = self._latent_shape()
        self.settings = self._settings(options)
        self._place(options)

    # ------------------------------------------------------------ hooks of the families

    def _published(self) -> tuple[int | None, float | None]:
        """Return the published steps and guidance; steps of None must be given by the user.

        The same pipeline and configuration serve models of one step and of fifty. Therefore only
        names tell, see `_is_known`.
        """
        raise NotImplementedError

    def _default_size(self) -> tuple[int, int]:
        """Return the default height and width of the images in pixels."""
        side = self.denoiser.config.sample_size
        height, width = (side, side) if isinstance(side, int) else side
        return height * self.pipe.vae_scale_factor, width * self.pipe.vae_scale_factor

    def _multiple(self) -> int:
        """Return the number that height and width must be divisible by."""
        return math.lcm(8, self.pipe.vae_scale_factor)

    def _latent_shape(self) -> tuple[int, int, int]:
        factor = self.pipe.vae_scale_factor
        return self.denoiser.config.in_channels, self.height // factor, self.width // factor

    def _to_pipeline(self, latents: Tensor) -> Tensor:
        """Convert the noise to the pipeline's `latents` argument, unscaled."""
        return latents.to(self.dtype)

    def _call_kwargs(self) -> dict[str, Any]:
        """Return the pipeline's arguments besides prompts, latents and generators."""
        kwargs = {
            "height": self.height,
            "width": self.width,
            "num_inference_steps": self.steps,
            "guidance_scale": self.guidance,
        }
        if self.guidance is None:  # leaves the pipeline's own default
            del kwargs["guidance_scale"]
        return kwargs

    # ------------------------------------------------------------ the protocol

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """Encode a batch of prompts; the text encoders run here and nowhere else.

        Raises:
            InputError: there are no prompts, one is no string, or the pipeline refuses one.
        """
        texts = tuple(prompts)
        if isinstance(prompts, str) or not texts or not all(isinstance(t, str) for t in texts):
            raise InputError(f"prompts must be a sequence of at least one string, got {prompts!r}")
        latents = torch.zeros(
            len(texts), *self.latent_shape, dtype=torch.float32, device=self.device
        )
        self.residency.bring("text")
        try:
            recording = self.pipe.record(
                self.denoiser, **self._arguments(texts, latents, [0] * len(texts))
            )
        except ValueError as error:
            raise InputError(f"{self.settings['pipeline']}: {first_line(error)}") from error
        finally:
            self.residency.text_done()
        return Conditioning(texts, recording)

    def generate(
        self, latents: Tensor, conditioning: Conditioning, *, seeds: Sequence[int]
    ) -> Tensor:
        """Generate images from a batch of noise; see `LatentModel`.

        Raises:
            InputError: the latents have another shape or dtype, there is another number of
                seeds, the pipeline returns no differentiable images, or it draws noise that no
                seed determines.
        """
        self._check(latents, conditioning, seeds)
        noise = latents.to(self.device)
        scale = GradientScale() if self.dtype == torch.float16 else None
        if scale is not None:
            noise = scale.at_noise(noise)
        arguments = self._arguments(conditioning.prompts, noise, seeds)
        with self._refusing_global_noise():
            images = self.pipe.replay(conditioning.recording, **arguments)[0]
        self._check_images(images, latents)
        images = images.to(latents.dtype)
        return images if scale is None else scale.at_images(images)

    # ------------------------------------------------------------ parts

    def _arguments(
        self, prompts: tuple[str, ...], latents: Tensor, seeds: Sequence[int]
    ) -> dict[str, Any]:
        # On the CPU, so that the same seed gives the same noise on every device.
        generators = [torch.Generator().manual_seed(int(seed)) for seed in seeds]
        return {
            "prompt": list(prompts),
            "latents": self._to_pipeline(latents),
            "generator": generators,
            "output_type": "pt",
            "return_dict": False,
            **self._call_kwargs(),
        }

    def _check(self, latents: Tensor, conditioning: Conditioning, seeds: Sequence[int]) -> None:
        expected = (len(conditioning.prompts), *self.latent_shape)
        if tuple(latents.shape) != expected:
            raise InputError(
                f"latents must have shape {expected} (prompts, channels, height, width) for "
                f"{self.name}, got {tuple(latents.shape)}"
            )
        if latents.dtype not in (torch.float32, torch.float64):
            raise InputError(f"latents must be float32, got {latents.dtype}")
        if len(seeds) != len(latents):
            raise InputError(
                f"seeds must hold one number per sample, got {len(seeds)} for {len(latents)}"
            )

    def _check_images(self, images: Any, latents: Tensor) -> None:
        pipeline = self.settings["pipeline"]
        if not isinstance(images, Tensor) or images.dim() != 4 or images.shape[1] != 3:
            came = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
            raise InputError(f"{pipeline} must return images of shape (B, 3, H, W), got {came}")
        if torch.is_grad_enabled() and latents.requires_grad and not images.requires_grad:
            raise InputError(f"{pipeline} passes no gradient from its images to its latents")

    @contextmanager
    def _refusing_global_noise(self) -> Iterator[None]:
        """Raise an InputError if the first call draws from torch's global generators.

        Whether a sampler does so depends on the scheduler, on whether the pipeline passes
        `generator` to it, and on the version of diffusers.
        """
        if not self._watches_noise:
            yield
            return
        before = self._global_states()
        yield
        if not all(map(torch.equal, before, self._global_states())):
            scheduler = self.pipe.scheduler
            advice = "choose another scheduler"
            if getattr(scheduler.config, "stochastic_sampling", False):
                advice = "set stochastic_sampling to false in scheduler/scheduler_config.json"
            raise InputError(
                f"{type(self.pipe).__name__} cannot be optimised with its "
                f"{type(scheduler).__name__}, which draws noise that no seed of a sample "
                f"determines; {advice}"
            )
        self._watches_noise = False

    def _global_states(self) -> list[Tensor]:
        states = [torch.get_rng_state()]
        if self.device.type == "cuda":
            states.append(torch.cuda.get_rng_state(self.device))
        return states

    def _is_known(self, *published: str) -> bool:
        """Return whether the model is one of these, by the last part of one of its names.

        So its repository, a clone of it, its folder in the hub's cache and a copy that
        save_pretrained made are all known.
        """
        return not {_last_part(name).lower() for name in self.names}.isdisjoint(published)

    def _resolve_sampling(self, options: Options) -> tuple[int, float | None]:
        steps, guidance = self._published()
        steps = options.steps if options.steps is not None else steps
        if steps is None:
            examples = f" ({self.few_steps})" if self.few_steps else ""
            raise InputError(
                f"steps must be given for {type(self.pipe).__name__}: nothing says that "
                f"{self.name!r} was published for {MOST_DEFAULT_STEPS} steps or fewer{examples}"
            )
        return steps, options.guidance if options.guidance is not None else guidance

    def _resolve_size(self, options: Options) -> tuple[int, int]:
        height, width = options.height, options.width
        if height is None or width is None:
            default = self._default_size()
            height, width = height or default[0], width or default[1]
        multiple = self._multiple()
        if height % multiple or width % multiple:
            raise InputError(
                f"height and width must be divisible by {multiple} for "
                f"{type(self.pipe).__name__}, got {height} x {width}"
            )
        return height, width

    def _settings(self, options: Options) -> dict[str, Any]:
        return {
            "source": self.name,
            "pipeline": type(self.pipe).__name__,
            "steps": self.steps,
            "guidance": self.guidance,
            "height": self.height,
            "width": self.width,
            "device": str(self.device),
            "dtype": str(self.dtype).removeprefix("torch."),
            "vae_dtype": str(vae_dtype(self.vae, self.dtype)).removeprefix("torch."),
            "gradient_checkpointing": options.gradient_checkpointing,
            "vae_slicing": options.vae_slicing,
            "offload": options.offload,
        }

    def _place(self, options: Options) -> None:
        """Freeze the weights, set checkpoints, and move every module to its device."""
        groups: dict[str, list[torch.nn.Module]] = {"text": [], "denoiser": [], "vae": []}
        for name, module in self.pipe.components.items():
            if isinstance(module, torch.nn.Module):
                module.eval().requires_grad_(False)
                by_name = {self.denoiser_name: "denoiser", "vae": "vae"}
                groups[by_name.get(name, "text")].append(module)
        decoder_dtype = vae_dtype(self.vae, self.dtype)
        # Not diffusers' own `to`, which warns of modules that must stay in float32: here are none.
        torch.nn.Module.to(self.vae, decoder_dtype)
        whole = options.offload == "model"
        if options.gradient_checkpointing:
            whole |= not checkpoint_blocks(self.denoiser, self.vae)
        self.pipe.run_device = self.device
        self.residency = Residency(groups, self.device, options.offload)
        drive_denoiser(self.denoiser, self.residency)
        drive_decoder(
            self.vae, self.residency, decoder_dtype, slicing=options.vae_slicing, whole=whole
        )


def _last_part(name: str) -> str:
    """Return a repository's or folder's name without its owner or the folders above it."""
    name = name.rstrip("/\\")
    cached = _CACHED.fullmatch(name)
    return cached[1] if cached else re.split(r"[/\\]", name)[-1]
