"""Random numbers that tests compute with: the same in every run."""

import numpy as np
import torch


def noise(*shape, seed=0, dtype=torch.float32, scale=1.0, cubic=0.0, offset=0.0):
    """Returns offset + scale * z + cubic * z^3 of normal z, computed in float64.

    An offset and a scale keep a loss away from its minimum, where digits cancel; the cubic term
    adds heavy tails, and with the offset keeps odd moments away from 0.
    """
    z = np.random.default_rng(seed).standard_normal(shape)
    return torch.from_numpy(scale * z + cubic * z**3 + offset).to(dtype)
