"""Random numbers that tests compute with: the same in every run."""

import math

import numpy as np
import torch


def noise(*shape, seed=0, dtype=torch.float32, scale=1.0, cubic=0.0, offset=0.0, device="cpu"):
    """Returns offset + scale * z + cubic * z^3 of normal z, computed in float64.

    An offset and a scale keep a loss away from its minimum, where digits cancel; the cubic term
    adds heavy tails, and with the offset keeps odd moments away from 0.
    """
    z = np.random.default_rng(seed).standard_normal(shape)
    return torch.from_numpy(scale * z + cubic * z**3 + offset).to(dtype).to(device)


def noise_by_size(*shape, seed=0, **options):
    """Returns noise() that differs by the size of a sample, rather than beginning alike."""
    return noise(*shape, seed=seed + 1000 * math.prod(shape[1:]), **options)


def skewed_noise(*shape, dtype=torch.float32, **options):
    """Returns noise_by_size() off its mean and scale: losses are clear of every minimum.

    It has heavy tails in float32 only: high powers of those have gradients that float16 does
    not hold.
    """
    tails = {"cubic": 0.2} if dtype == torch.float32 else {"scale": 0.6}
    return noise_by_size(*shape, dtype=dtype, offset=0.4, **tails, **options)


def leaf(*shape, **options):
    """Returns noise() that collects its gradient."""
    return noise(*shape, **options).requires_grad_()


def noise_array(*shape, dtype=np.float64, **options):
    """Returns noise() as a NumPy array."""
    return noise(*shape, dtype=torch.float64, **options).numpy().astype(dtype)


def seeded(seed=0):
    """Returns a generator of torch that begins at a seed."""
    return torch.Generator().manual_seed(seed)
