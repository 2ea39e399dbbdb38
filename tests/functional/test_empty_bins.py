"""Bins of the spectrum that are 0, or next to it, in every backend.

A bin that is 0 in exact arithmetic comes out of a transform as rounding, which points anywhere:
gradients are compared in the other bins (see `against_reference.check_gradient`).
"""

import math

import pytest
import torch
from against_reference import check_loss, check_statistics
from backends_here import device_of, quiet_interpreter, take_512_in_three_launches
from draws import skewed_noise

import gaussreg_fast as gf
from gaussreg_fast import reference

pytestmark = quiet_interpreter
BACKENDS = [name for name, state in gf.backends().items() if state == "available"]
FLOOR = reference.FLOOR


@pytest.fixture(params=BACKENDS)
def backend(request):
    return request.param


@pytest.fixture(params=[64, 512, 101, 100])
def size(request, monkeypatch):
    """One size of each way to compute; in Triton D = 512 goes that of 65536 and more."""
    take_512_in_three_launches(monkeypatch)
    return request.param


def on_device(x, backend):
    return x.to(device_of(backend))


def waves(size, *periods):
    """Rounded once: what float32 makes of large angles would be in all bins. No moment is 1."""
    j = torch.arange(size, dtype=torch.float64)
    return sum(0.9 * torch.cos(2 * math.pi * p * j / size + p) for p in periods).float()


def impulses(size, *places):
    """Return impulses of alternating sign."""
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
    "repeated": lambda size: skewed_noise(1, size // 4)[0].repeat(5)[:size],
    "checkerboard": lambda size: ((torch.arange(size) // 8 + torch.arange(size)) % 2) * 2.0 - 1,
    "few rows": lambda size: torch.outer(
        skewed_noise(1, 16)[0], skewed_noise(1, size // 16 + 1)[0]
    ).flatten()[:size],
    "ramp": lambda size: torch.linspace(-1.7, 1.7, size),
    "whole numbers": lambda size: (3 * skewed_noise(1, size)[0]).round(),
    "half of it zeros": lambda size: skewed_noise(1, size)[0] * (torch.arange(size) < size // 2),
}


@pytest.mark.parametrize("name", STRUCTURED)
def test_structured_samples(compare, backend, size, name):
    """Unpermuted samples have empty bins; permuted ones have not."""
    x = on_device(torch.stack([STRUCTURED[name](size), skewed_noise(1, size)[0]]), backend)
    # Not order 1: its root has no finite slope at a mean of 0.
    options = {"orders": (2, 4), "call": "value_and_grad"}
    for kind in ("none",) if backend == "triton" else ("none", "shared"):
        check_loss(compare, x, backend, kind=kind, **options)
    if name in ("sinusoid", "opposite impulses"):
        check_loss(compare, x, backend, kind="none", measure=("power", "exact"), **options)
        check_statistics(
            compare, x, backend, kind="none", orders=(2,), block_size=8, statistic="amplitude"
        )


# ---------------------------------------------------------------- the floor of float32


def expected(x, block_size=16):
    """Block amplitudes, and the gradient of their sum, in float64, of bins below the floor none.

    x of one sample that no bin of is so near the floor that rounding decides.
    """
    rows = x.double()
    y = reference.compact_spectrum(rows)
    length = y.abs()
    assert ((length / FLOOR - 1).abs() > 1e-5).all()
    y = torch.where(length < FLOOR, 0, y)
    sizes = reference.block_sizes(y.shape[-1], block_size, rows)
    share = (1 / sizes).repeat_interleave(block_size)[: y.shape[-1]]
    grad = reference.compact_adjoint(torch.sgn(y) * share, rows.shape[-1])
    return reference.block_means(y.abs(), block_size), grad, length < FLOOR


def statistics(x, backend):
    """Block amplitudes, and the gradient of their sum."""
    z = x.detach().requires_grad_()
    options = {"orders": (2,), "permutation": "none", "backend": backend}
    _, a = gf.permuted_statistics(z, **options)
    return a.detach(), torch.autograd.grad(a.sum(), z)[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_amplitudes_below_the_floor_count_as_zero(compare, backend, size, dtype):
    """The same bins in every backend: some are above the floor, some below it."""
    x = on_device((FLOOR * skewed_noise(1, size, seed=1)).to(dtype), backend)
    a, grad = statistics(x, backend)
    want_a, want_grad, below = expected(x.cpu())
    assert 0.1 < below.double().mean() < 0.9
    compare.vectors(a, want_a, 1e-5, "value")
    compare.vectors(grad, want_grad, 1e-4 if dtype == torch.float32 else 2**-8)


def test_samples_below_the_floor_have_no_spectrum(backend, size):
    """Nor a gradient of it, by any call; the sample beside them is as it is alone."""
    x = on_device(torch.cat([1e-25 * skewed_noise(1, size), skewed_noise(1, size)]), backend)
    options = {"seed": 3, "reduction": "none", "backend": backend}
    z = x.requires_grad_()
    loss = gf.power_spectrum_loss(z, **options)
    (grad,) = torch.autograd.grad(loss.sum(), z)
    torch.testing.assert_close(loss[0].item(), reference.RAYLEIGH_MEAN, rtol=1e-6, atol=0)
    assert grad[0].eq(0).all()
    assert grad[1].ne(0).any()
    a, grad = statistics(x, backend)
    assert a[0].eq(0).all()
    assert grad[0].eq(0).all()
    assert grad[1].ne(0).any()


@pytest.mark.parametrize("scale", [1e-25, 1e-200])
def test_float64_has_no_floor(compare, scale):
    """The gradient is that of the sample at any size."""
    x = skewed_noise(2, 100, seed=1).double()
    (a, grad), (want_a, want_grad) = (statistics(t, "torch") for t in (scale * x, x))
    compare.vectors(a, scale * want_a, 1e-13, "value")
    compare.vectors(grad, want_grad, 1e-12)
