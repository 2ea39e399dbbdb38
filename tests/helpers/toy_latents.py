"""A model of a few lines and rewards of one, with which the loop can be checked by hand."""

import torch

from gaussreg_fast.latent.guards import Guard
from gaussreg_fast.latent.problem import Problem, Sample
from gaussreg_fast.latent.rewards import RewardSum

SHAPE = (4, 8, 8)


class ToyModel:
    """Noise to image by a fixed mix of channels and a sigmoid; the prompt shifts the colour."""

    name = "toy"
    latent_shape = SHAPE
    device = torch.device("cpu")

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.mix = torch.randn(3, SHAPE[0], generator=generator)
        self.encoded = []

    def encode(self, prompts):
        self.encoded.append(tuple(prompts))
        return torch.tensor([len(prompt) / 100 for prompt in prompts])

    def generate(self, latents, conditioning, *, seeds):
        assert len(latents) == len(conditioning) == len(seeds)
        colour = (latents.unsqueeze(1) * self.mix[None, :, :, None, None]).sum(2)
        return torch.sigmoid(colour + conditioning[:, None, None, None])


def brightness(images, prompts):
    return images.mean((1, 2, 3))


def red(images, prompts):
    return images[:, 0].mean((1, 2))


def contrast(images, prompts):
    return images.flatten(1).std(1)


def sgd(lr, momentum=0.0):
    return lambda x: torch.optim.SGD(x, lr=lr, momentum=momentum, nesterov=momentum > 0)


OPTIMIZERS = {
    "sgd": sgd(50.0),
    "nesterov": sgd(5.0, 0.9),
    "adam": lambda x: torch.optim.Adam(x, lr=0.05),
    "adamw": lambda x: torch.optim.AdamW(x, lr=0.05, weight_decay=0),
}


def problem(**changes):
    settings = {
        "model": ToyModel(),
        "rewards": {"brightness": (brightness, 1.0)},
        "held_out": {"contrast": (contrast, 1.0)},
        "guard": Guard("none"),
        "optimizer": sgd(50.0),
        "iterations": 8,
        "select": "held_out",
    }
    settings |= changes
    for key in ("rewards", "held_out"):
        settings[key] = RewardSum(settings[key]) if settings[key] else None
    return Problem(**settings)


def samples(count, prompt="a prompt"):
    return [Sample(k, f"{prompt} {k}", 10 + k) for k in range(count)]


def run(batch):
    """Steps until a batch is done; returns its records."""
    records = []
    while not batch.done:
        records.append(batch.step())
    return records
