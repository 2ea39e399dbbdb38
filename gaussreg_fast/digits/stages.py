"""The training of classifiers and autoencoder, and the loop and seeds that all stages share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gaussreg_fast.digits import components
from gaussreg_fast.digits.classifiers import ARCHITECTURES, log_probabilities
from gaussreg_fast.digits.data import Digits, blemish, deform

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

Report = Callable[[float], None]  # called with the loss of every step

_PIXEL_DEVIATION = 0.001  # standard deviation of the autoencoder's Gaussian likelihood


@contextmanager
def seeded(seed: int) -> Iterator[torch.Generator]:
    """Seed torch's global random numbers (initialisation, dropout), and yield a generator.

    The global state is restored when the block ends.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield torch.Generator().manual_seed(seed)


def fit(
    parameters: Iterable[nn.Parameter],
    loss: Callable[[], Tensor],
    steps: int,
    rate: float,
    report: Report,
    after_step: Callable[[], None] = lambda: None,
) -> float:
    """Minimise by AdamW with a short warm-up and a cosine decay.

    Returns:
        The mean loss of the last twentieth of the steps.
    """
    parameters = list(parameters)
    optimiser = torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.99), weight_decay=1e-3)
    warm = min(100, max(1, steps // 10))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser,
        lambda k: min((k + 1) / warm, 0.5 + 0.5 * math.cos(math.pi * k / steps)),
    )
    last: list[float] = []
    for step in range(steps):
        optimiser.zero_grad(set_to_none=True)
        value = loss()
        value.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        schedule.step()
        after_step()
        report(value.item())
        if step >= steps - max(1, steps // 20):
            last.append(value.item())
    return sum(last) / len(last)


def pick(count: int, batch: int, generator: torch.Generator) -> Tensor:
    """Draw (batch,) random indices below `count`."""
    return torch.randint(count, (batch,), generator=generator, device="cpu")


# ---------------------------------------------------------------- classifiers


def train_classifier(
    name: str, digits: Digits, steps: int, batch: int, device: torch.device, report: Report
) -> tuple[nn.Module, float]:
    """Train a classifier on deformed and blemished digits; return it and its final loss.

    The caller seeds the random numbers, see `seeded`.
    """
    generator = torch.Generator().manual_seed(torch.initial_seed())
    classifier = ARCHITECTURES[name]().to(device)
    images, labels = digits.images(), digits.labels

    def loss() -> Tensor:
        chosen = pick(len(labels), batch, generator)
        grey = blemish(deform(images[chosen], generator, strength=1.3), generator).to(device)
        return F.nll_loss(log_probabilities(classifier, grey), labels[chosen].to(device))

    final = fit(classifier.parameters(), loss, steps, 3e-3, report)
    return classifier.eval().requires_grad_(False), final


@torch.no_grad()
def accuracy(classifier: nn.Module, grey: Tensor, labels: Tensor) -> float:
    """Return the share of (B, 1, 16, 16) images whose most probable digit is their label."""
    guess = log_probabilities(classifier, grey).argmax(dim=1)
    return (guess == labels.to(guess.device)).cpu().double().mean().item()


# ---------------------------------------------------------------- autoencoder


def train_vae(
    digits: Digits, steps: int, batch: int, device: torch.device, report: Report
) -> tuple[AutoencoderKL, float]:
    """Train the autoencoder on deformed digits in [-1, 1]; return it and its final loss.

    Its latents have mean 0 and variance 1. The loss is the negative evidence lower bound, per
    latent number.
    """
    generator = torch.Generator().manual_seed(torch.initial_seed())
    vae = components.build_vae().to(device)
    images = digits.images()

    def loss() -> Tensor:
        chosen = deform(images[pick(len(images), batch, generator)], generator)
        x = (2 * chosen - 1).expand(-1, 3, -1, -1).to(device)
        posterior = vae.encode(x).latent_dist
        noise = torch.randn(
            posterior.mean.shape, generator=generator, dtype=torch.float32, device="cpu"
        ).to(device)
        decoded = vae.decode(posterior.mean + posterior.std * noise).sample
        # In [0, 1] a deviation is half as large as in [-1, 1].
        misfit = F.mse_loss(decoded, x, reduction="sum") / (8 * _PIXEL_DEVIATION**2)
        return (misfit + posterior.kl().sum()) / noise.numel()

    final = fit(vae.parameters(), loss, steps, 3e-3, report)
    vae.eval().requires_grad_(False)
    _standardise(vae, deform(images, generator).to(device))
    return vae, final


@torch.no_grad()
def _standardise(vae: AutoencoderKL, grey: Tensor) -> None:
    """Fold every channel's mean and deviation into the 1 x 1 convolutions around the latents.

    StableDiffusionPipeline itself supports only one scale for all channels, and no shift.
    """
    posterior = vae.encode((2 * grey - 1).expand(-1, 3, -1, -1)).latent_dist
    mean = posterior.mean.mean(dim=(0, 2, 3))
    variance = posterior.mean.var(dim=(0, 2, 3)) + posterior.var.mean(dim=(0, 2, 3))
    deviation = variance.sqrt()
    to_mean = vae.quant_conv.weight.chunk(2)[0]
    bias_mean, bias_logvar = vae.quant_conv.bias.chunk(2)
    to_mean.div_(deviation[:, None, None, None])
    bias_mean.sub_(mean).div_(deviation)
    bias_logvar.sub_(2 * deviation.log())
    kernel, bias = vae.post_quant_conv.weight, vae.post_quant_conv.bias
    bias.add_(kernel[:, :, 0, 0] @ mean)
    kernel.mul_(deviation[None, :, None, None])
