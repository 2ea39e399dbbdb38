"""The diffusion stages of the training: teacher, pairs of noise and image, one-step student."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from gaussreg_fast.digits import components
from gaussreg_fast.digits.data import Digits, deform
from gaussreg_fast.digits.stages import Report, fit, pick
from gaussreg_fast.digits.words import TEMPLATES, WORDS

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

_DROPPED_PROMPTS = 0.1  # share of empty prompts, for classifier-free guidance


def _averaged(model: nn.Module, decay: float) -> AveragedModel:
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))


# ---------------------------------------------------------------- teacher


@dataclass
class Prompts:
    """The token ids of all prompts of the training.

    Attributes:
        ids: (10 K + 1, 16) int64: K prompts for each digit, in the order of digits, then the empty
            prompt.
    """

    ids: Tensor

    @classmethod
    def of(cls, tokenizer: CLIPTokenizer) -> Prompts:
        """Tokenise every template with every digit, as a word and as a numeral."""
        texts = [
            template.format(name)
            for digit, word in enumerate(WORDS)
            for template in TEMPLATES
            for name in (word, str(digit))
        ]
        padded = tokenizer([*texts, ""], padding="max_length", return_tensors="pt")
        return cls(padded.input_ids)

    def draw(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Draw (B,) indices of random prompts for (B,) labels."""
        kinds = len(self.ids) // 10
        return labels * kinds + pick(kinds, len(labels), generator)


@torch.no_grad()
def encode_pool(
    vae: AutoencoderKL, digits: Digits, copies: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Encode deformed digits, copy after copy: means and deviations, (copies N, 16, 8, 8) each."""
    means, deviations = [], []
    for _ in range(copies):
        grey = deform(digits.images(), generator).to(vae.device)
        posterior = vae.encode((2 * grey - 1).expand(-1, 3, -1, -1)).latent_dist
        means.append(posterior.mean.cpu())
        deviations.append(posterior.std.cpu())
    return torch.cat(means), torch.cat(deviations)


def train_teacher(
    vae: AutoencoderKL,
    text_encoder: CLIPTextModel,
    prompts: Prompts,
    digits: Digits,
    steps: int,
    batch: int,
    copies: int,
    report: Report,
) -> tuple[UNet2DConditionModel, float]:
    """Train a UNet, together with the text encoder, by v-prediction.

    Returns:
        The UNet's moving average, and the final loss.
    """
    device = vae.device
    generator = torch.Generator().manual_seed(torch.initial_seed())
    means, deviations = encode_pool(vae, digits, copies, generator)
    unet, scheduler = components.build_unet().to(device), components.build_scheduler()
    average = _averaged(unet, 0.998)

    def loss() -> Tensor:
        chosen = pick(len(means), batch, generator)
        times = pick(scheduler.config.num_train_timesteps, batch, generator)
        noise = torch.randn(
            2, batch, *means.shape[1:], generator=generator, dtype=torch.float32, device="cpu"
        )
        clean = (means[chosen] + deviations[chosen] * noise[0]).to(device)
        texts = prompts.draw(digits.labels[chosen % len(digits.labels)], generator)
        dropped = (
            torch.rand(batch, generator=generator, dtype=torch.float32, device="cpu")
            < _DROPPED_PROMPTS
        )
        texts[dropped] = len(prompts.ids) - 1
        hidden = text_encoder(prompts.ids[texts].to(device)).last_hidden_state
        noise, times = noise[1].to(device), times.to(device)
        noisy = scheduler.add_noise(clean, noise, times)
        target = scheduler.get_velocity(clean, noise, times)
        return F.mse_loss(unet(noisy, times, hidden).sample, target)

    weights = [*unet.parameters(), *text_encoder.parameters()]
    final = fit(weights, loss, steps, 1.5e-3, report, lambda: average.update_parameters(unet))
    text_encoder.eval().requires_grad_(False)
    return average.module.eval().requires_grad_(False), final


# ---------------------------------------------------------------- distillation


@dataclass
class Pairs:
    """Noise and the latents that the teacher makes from it in many deterministic steps.

    Attributes:
        noise, latents: (N, 16, 8, 8) float32.
        labels: (N,) int64, the digit in the prompt.
    """

    noise: Tensor
    latents: Tensor
    labels: Tensor


@torch.no_grad()
def make_pairs(
    unet: UNet2DConditionModel,
    hidden: Tensor,
    prompts: Prompts,
    count: int,
    steps: int,
    guidance: float,
    batch: int,
    report: Report,
) -> Pairs:
    """Sample the teacher by deterministic DDIM with classifier-free guidance, digits in turn.

    Args:
        hidden: (10 K + 1, 16, 64) embeddings of `prompts`.
    """
    generator = torch.Generator().manual_seed(torch.initial_seed())
    scheduler = components.build_scheduler()
    shape = (components.LATENT_CHANNELS, components.LATENT_SIZE, components.LATENT_SIZE)
    noises, latents = [], []
    labels = torch.arange(count, dtype=torch.int64, device="cpu") % 10
    for part in labels.split(batch):
        noise = torch.randn(
            len(part), *shape, generator=generator, dtype=torch.float32, device="cpu"
        )
        texts = prompts.draw(part, generator)
        embedded = torch.cat([hidden[texts], hidden[-1:].expand(len(part), -1, -1)])
        x = noise.to(unet.device)
        scheduler.set_timesteps(steps)
        for time in scheduler.timesteps:
            with_text, without = unet(torch.cat([x, x]), time, embedded).sample.chunk(2)
            velocity = without + guidance * (with_text - without)
            x = scheduler.step(velocity, time, x, eta=0.0).prev_sample
        noises.append(noise)
        latents.append(x.cpu())
        report(float("nan"))
    return Pairs(torch.cat(noises), torch.cat(latents), labels)


def distil(
    teacher: UNet2DConditionModel,
    vae: AutoencoderKL,
    hidden: Tensor,
    prompts: Prompts,
    pairs: Pairs,
    steps: int,
    batch: int,
    report: Report,
) -> tuple[UNet2DConditionModel, float]:
    """Train a UNet that takes the pairs' noise to their images in one step.

    The loss is the misfit of the decoded images, in which the latents' uninformative directions do
    not count, plus a small multiple of the latents' misfit.

    Returns:
        The UNet's moving average, and the final loss.
    """
    device = vae.device
    generator = torch.Generator().manual_seed(torch.initial_seed())
    student = copy.deepcopy(teacher).train().requires_grad_(True)
    average = _averaged(student, 0.998)
    last = torch.tensor(
        components.build_scheduler().config.num_train_timesteps - 1, dtype=torch.int64, device="cpu"
    )
    with torch.no_grad():
        images = torch.cat([vae.decode(x.to(device)).sample for x in pairs.latents.split(batch)])

    def loss() -> Tensor:
        chosen = pick(len(images), batch, generator)
        texts = prompts.draw(pairs.labels[chosen], generator)
        noise = pairs.noise[chosen].to(device)
        # Without signal in the noise, the velocity is minus the clean latent.
        latents = -student(noise, last.to(device), hidden[texts]).sample
        misfit = F.mse_loss(vae.decode(latents).sample, images[chosen])
        return misfit + 0.02 * F.mse_loss(latents, pairs.latents[chosen].to(device))

    def after_step() -> None:
        average.update_parameters(student)

    final = fit(student.parameters(), loss, steps, 1.5e-3, report, after_step)
    return average.module.eval().requires_grad_(False), final
