"""Lists of parameters and their base, whose drift is known in float64."""

import itertools

import numpy as np
import torch
from backends_here import device_of
from torch import nn

HALVES = [torch.bfloat16, torch.float16]
FLOATS = [torch.float32, *HALVES]
SHAPES = [(3,), (), (0, 4), (16500,), (17, 33), (4, 3, 2, 2), (1,), (8,)]


def model(seed=0):
    """Returns two small layers, whose weights are drawn from a seed."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3))


def tensors(backend, shapes=SHAPES, dtypes=FLOATS[:1], base_dtypes=None, seed=0, offset=0.1):
    """Parameters and their base, types taking turns."""
    rng = np.random.default_rng(seed)
    params, base = [], []
    kinds, others = itertools.cycle(dtypes), itertools.cycle(base_dtypes or dtypes)
    for shape in shapes:
        theta = torch.from_numpy(np.asarray(rng.standard_normal(shape)))
        away = torch.from_numpy(np.asarray(offset * rng.standard_normal(shape) + offset))
        device = device_of(backend)
        params.append((theta + away).to(next(kinds)).to(device).requires_grad_())
        base.append(theta.to(next(others)).to(device))
    return params, base


def array(x):
    """Returns a tensor's numbers in float64."""
    return x.detach().cpu().double().numpy()


def expected(params, base, weight, reduction):
    """Value and gradients in float64."""
    value, grads = 0.0, []
    for p, b in zip(params, base, strict=True):
        d = array(p) - array(b)
        scale = weight / max(1, d.size) if reduction == "tensor_mean" else weight
        value += scale * float(np.sum(d * d))
        grads.append(2 * scale * d)
    return value, grads


def check_gradients(compare, params, grads, want, factor=1.0):
    """Compares gradients with `factor` times those that are wanted, as exactly as their type."""
    for p, g, w in zip(params, grads, want, strict=True):
        assert (g.dtype, g.shape, g.device) == (p.dtype, p.shape, p.device)
        if p.dtype == torch.float16:  # which may be below its normal numbers
            np.testing.assert_allclose(array(g), factor * w, rtol=2e-3, atol=1.3e-7)
        elif p.numel():
            rounding = torch.finfo(p.dtype).eps if p.dtype == torch.bfloat16 else 0
            tolerance = 1e-12 if p.dtype == torch.float64 else 1e-6 + rounding
            compare.vectors(g.reshape(1, -1), factor * w.reshape(1, -1), tolerance)


def lora_pairs(dtype=torch.float64):
    """Returns (A, B) of linear layers of several ranks, and a convolution whose B is 1 x 1."""
    generator = torch.Generator().manual_seed(0)
    shapes = [
        ((4, 30), (20, 4)),
        ((1, 7), (9, 1)),
        ((3, 5, 3, 3), (8, 3, 1, 1)),
        ((12, 6), (5, 12)),
    ]
    return [
        tuple(torch.randn(s, generator=generator, dtype=dtype).requires_grad_() for s in pair)
        for pair in shapes
    ]
