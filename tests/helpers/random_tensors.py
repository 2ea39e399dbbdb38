"""Strategies of hypothesis for tensors of any values, shape, dtype and memory layout."""

import math

import numpy as np
import torch
from backends_here import TRITON_DEVICE
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from gaussreg_fast.backends import choice, native

DTYPES = (torch.float32, torch.float32, torch.float32, torch.bfloat16, torch.float16, torch.float64)
SEEDS = st.integers(0, 2**32 - 1)
LAYOUTS = (
    "contiguous", "contiguous", "transposed", "sliced", "unaligned", "reversed", "inner_stride",
    "expanded_batch", "expanded_inside", "overlapping", "channels_last",
)  # fmt: skip
VALUES = (
    "noise", "noise", "noise", "skewed", "skewed", "skewed", "zeros", "constant", "signs", "sparse",
    "alternating", "wave", "small", "large", "nan", "inf",
)  # fmt: skip
NOT_FINITE = {"nan": math.nan, "inf": math.inf}
FINITE = [kind for kind in VALUES if kind not in NOT_FINITE]
SMALL_FOR_TRITON = 600


def calls(count):
    return settings(
        max_examples=count, deadline=None, derandomize=True, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip


@st.composite
def backend_for(draw, x):
    """The name of a backend that can compute x; Triton's interpreter gets few of the calls."""
    names = ["auto", "torch", "torch"]
    if x.dtype != torch.float64:
        if native.load()[0] is not None:
            names += ["native"] * 8
        triton = choice.triton_state() == "available" and TRITON_DEVICE == "cpu"
        if triton and x.numel() <= SMALL_FOR_TRITON:
            names += ["triton"]
    return draw(st.sampled_from(names))


def values(kind, shape, seed):
    """Returns float64 numbers (B, *latent) of a kind; one of "nan" or "inf" is not finite."""
    rng = np.random.default_rng(seed)
    z = rng.standard_normal(shape)
    size = math.prod(shape[1:])
    flat = np.arange(size).reshape(shape[1:]) if size else np.zeros(shape[1:])
    x = {
        "skewed": lambda: 0.6 * z + 0.05 * z**3 + 0.4,
        "zeros": lambda: np.zeros(shape),
        "constant": lambda: np.full(shape, rng.choice([-2.0, 0.5, 1.0])),
        "signs": lambda: np.sign(z),
        "sparse": lambda: z * (rng.random(shape) < 0.05),
        "alternating": lambda: np.broadcast_to(1.0 - 2.0 * (flat % 2), shape).copy(),
        "wave": lambda: np.broadcast_to(np.sin(2 * np.pi * 3 * flat / max(size, 1)), shape).copy(),
        "small": lambda: 1e-3 * z,
        "large": lambda: 30 * z,
    }.get(kind, lambda: z)()
    if kind in NOT_FINITE and x.size:
        x.flat[rng.integers(x.size)] = NOT_FINITE[kind] * rng.choice([-1, 1])
    return torch.from_numpy(x)


def laid_out(x, layout):
    """Returns the numbers of x in a layout; layouts that repeat memory change the numbers."""
    if layout == "transposed":
        return x.transpose(0, -1).contiguous().transpose(0, -1)
    if layout == "sliced":
        pad = torch.nn.functional.pad(x, (2, 3), value=math.nan)
        return pad[..., 2 : 2 + x.shape[-1]]
    if layout == "unaligned":
        return torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape)
    if layout == "reversed":
        order = tuple(reversed(range(x.dim())))
        return x.permute(order).contiguous().permute(order)
    if layout == "inner_stride":
        return torch.stack([x, torch.full_like(x, math.nan)], -1)[..., 0]
    if layout == "expanded_batch" and len(x):
        return x[:1].expand(x.shape)
    if layout == "expanded_inside" and x.dim() > 2:
        return x[:, :1].expand(x.shape)
    if layout == "overlapping" and x.dim() == 2 and x.numel():
        size = x.shape[1]
        return x.flatten()[: len(x) + size - 1].clone().as_strided(x.shape, (1, 1))
    if layout == "channels_last" and x.dim() == 4:
        return x.contiguous(memory_format=torch.channels_last)
    return x.contiguous()


def size_of(x):
    """Returns the numbers per sample of a batch that may be empty."""
    return math.prod(x.shape[1:])


@st.composite
def shapes(draw, smallest=1, largest=400):
    """Shapes (B, *latent) of at most `largest` numbers per sample, B = 0 among them."""
    batch = draw(st.sampled_from((1, 1, 2, 3, 5, 0)))
    size = draw(
        st.one_of(
            st.sampled_from([d for d in (32, 64, 128, 256, 512, 1024) if smallest <= d <= largest]),
            st.integers(smallest, largest),
        )
    )
    latent = [size]
    for _ in range(draw(st.integers(0, 3))):
        factors = [f for f in (1, 2, 3, 4, 5, 8) if latent[-1] % f == 0]
        factor = draw(st.sampled_from(factors))
        latent = [*latent[:-1], factor, latent[-1] // factor]
    return (batch, *latent)


@st.composite
def samples(draw, smallest=1, largest=400, dtypes=DTYPES, kinds=VALUES):
    """A batch of samples (B, *latent): any values, dtype and layout."""
    shape = draw(shapes(smallest, largest))
    dtype = draw(st.sampled_from(dtypes))
    x = values(draw(st.sampled_from(kinds)), shape, draw(SEEDS))
    return laid_out(x.to(dtype), draw(st.sampled_from(LAYOUTS)))
