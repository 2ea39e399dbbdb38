"""Bins of the spectrum that are 0, or next to it, in every backend.

A bin that is 0 in exact arithmetic comes out of a transform as rounding, which points anywhere:
gradients are compared in the other bins (see `against_reference.check_gradient`).
"""

import math

import pytest
import torch
from against_reference import check_loss, check_statistics, noise

import gaussreg_fast as gf
from gaussreg_fast import config, dispatch

# The interpreter computes with numpy, which warns of what is selected away.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.runtime.interpreter")
BACKENDS = [name for name, state in gf.backends().items() if state == "available"]


@pytest.fixture(params=BACKENDS)
def backend(request):
    return request.param


@pytest.fixture(params=[64, 1024, 101, 100])
def size(request, monkeypatch):
    """One size of each way to compute; in Triton D = 1024 goes that of 65536 and more."""
    monkeypatch.setattr(config, "FUSED_DIMENSIONS", (64, 512))
    monkeypatch.setitem(config.LARGE, 1024, config.Large((4, 8, 1), (8, 1, 4), 8, 1, 1))
    return request.param


def on_device(x, backend):
    return x.cuda() if backend == "triton" and not dispatch.interpreted() else x


def waves(size, *periods):
    """Rounded once: what float32 makes of large angles would be in all bins. No moment is 1."""
    j = torch.arange(size, dtype=torch.float64)
    return sum(0.9 * torch.cos(2 * math.pi * p * j / size + p) for p in periods).float()


def impulses(size, *places):
    """Of alternating sign."""
    x = torch.zeros(size)
    for n, place in enumerate(places):
        x[place] = (-1) ** n
    return x


# Most of their bins are 0, or they are where a transform of any length has exact zeros.
STRUCTURED = {
    "constant": lambda size: torch.full((size,), -0.7),
    "alternating": lambda size: 1 - 2 * (torch.arange(size) % 2.0),
    "sinusoid": lambda size: waves(size, 5),
    "two sinusoids": lambda size: waves(size, 3, 20),
    "impulse": lambda size: impulses(size, 7),
    "opposite impulses": lambda size: impulses(size, 0, size // 2),  # even k are 0 for even D
    "repeated": lambda size: noise(1, size // 4)[0].repeat(5)[:size],
    "checkerboard": lambda size: ((torch.arange(size) // 8 + torch.arange(size)) % 2) * 2.0 - 1,
    "few rows": lambda size: torch.outer(noise(1, 16)[0], noise(1, size // 16 + 1)[0]).flatten()[
        :size
    ],
    "ramp": lambda size: torch.linspace(-1.7, 1.7, size),
    "whole numbers": lambda size: (3 * noise(1, size)[0]).round(),
    "half of it zeros": lambda size: noise(1, size)[0] * (torch.arange(size) < size // 2),
}


@pytest.mark.parametrize("name", STRUCTURED)
def test_structured_samples(compare, backend, size, name):
    """As they are, where bins are empty, and permuted."""
    x = on_device(torch.stack([STRUCTURED[name](size), noise(1, size)[0]]), backend)
    # Not order 1: its root has no finite slope at a mean of 0.
    options = {"orders": (2, 4), "call": "value_and_grad"}
    for kind in ("none", "shared") if size != 1024 else ("none",):
        check_loss(compare, x, backend, kind=kind, **options)
    if name in ("sinusoid", "opposite impulses"):
        check_loss(compare, x, backend, kind="none", measure=("power", "exact"), **options)
        check_statistics(
            compare, x, backend, kind="none", orders=(2,), block_size=8, statistic="amplitude"
        )
