"""The white-noise projection of GPER (arXiv 2602.08646)."""

import math

import numpy as np
import pytest
import torch
from scipy import optimize

import gaussreg_fast as gf

RAYLEIGH = math.sqrt(math.pi) / 2


def amplitudes(x, block_size=16):
    """|y_k| in blocks, through numpy, (B, P, b)."""
    flat = x.double().reshape(len(x), -1).numpy()
    full = np.fft.rfft(flat, norm="ortho")
    first = np.hypot(full[:, :1].real, full[:, -1:].real) / math.sqrt(2)
    y = np.concatenate([first, np.abs(full[:, 1:-1])], 1)
    return y.reshape(len(x), -1, block_size)


def assert_in_set(x, block_size=16, tol=1e-5):
    assert x.isfinite().all()
    a = amplitudes(x, block_size)
    np.testing.assert_allclose(a.sum(-1), RAYLEIGH * block_size, rtol=tol)
    np.testing.assert_allclose((a**2).sum(-1), block_size, rtol=tol)


def cosine(a, b):
    return torch.cosine_similarity(a.double().flatten(1), b.double().flatten(1))


def noise(*shape, seed=0, dtype=torch.float32):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("shape", "block"),
    [
        ((3, 4096), 16),
        ((2, 4, 64, 64), 16),
        ((2, 96), 16),
        ((1, 32), 16),
        ((2, 60), 3),
        ((2, 8), 2),
    ],
)
def test_block_norms(shape, block, dtype):
    x = noise(*shape, dtype=dtype)
    for scale in (1.0, 0.1, 20.0):
        out = gf.project_white_noise(scale * x, block_size=block)
        assert (out.shape, out.dtype) == (x.shape, dtype)
        assert_in_set(out, block, 1e-5 if dtype == torch.float32 else 1e-10)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    x = noise(2, 4, 16, 16, dtype=dtype)
    out = gf.project_white_noise(x)
    assert (out.shape, out.dtype) == (x.shape, dtype)
    assert torch.equal(out, gf.project_white_noise(x.float()).to(dtype))
    assert_in_set(out, tol=4 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("block", [2, 5, 16])
def test_idempotent(block):
    x = noise(4, 20 * 2 * block, dtype=torch.float64) ** 3
    once = gf.project_white_noise(x, block_size=block)
    twice = gf.project_white_noise(once, block_size=block)
    assert (twice - once).norm() / once.norm() < 1e-6


@pytest.mark.parametrize(("dimension", "batch", "floor"), [(4096, 400, 0.985), (262144, 8, 0.988)])
def test_noise_is_close_to_its_projection(dimension, batch, floor):
    x = noise(batch, dimension, seed=1)
    similarity = cosine(x, gf.project_white_noise(x))
    assert similarity.mean().item() == pytest.approx(0.989, abs=5e-4)
    assert similarity.min() > floor


@pytest.mark.parametrize("kind", ["noise", "heavy tails", "nearly flat", "sparse"])
@pytest.mark.parametrize("block", [2, 4, 9, 16])
def test_nearest_point(block, kind):
    """No point of the set that scipy's solver finds, from many starts, is nearer.

    Directions y/|y| are kept by the nearest point, so the search is over magnitudes w >= 0.
    """
    rng = np.random.default_rng(block)
    z = rng.standard_normal((1, 2 * block))
    x = {
        "noise": z,
        "heavy tails": z**3,
        "nearly flat": np.eye(1, 2 * block) * math.sqrt(2 * block) + 0.05 * z,
        "sparse": np.eye(1, 2 * block, 1) + 3 * np.eye(1, 2 * block, 3),
    }[kind]
    out = gf.project_white_noise(torch.from_numpy(x), block_size=block)
    assert_in_set(out, block, 1e-8)
    a = amplitudes(torch.from_numpy(x), block)[0, 0]
    distance = 2 * np.sum((amplitudes(out, block)[0, 0] - a) ** 2)  # ||x||^2 = 2 ||y||^2
    assert np.sum((out.numpy() - x) ** 2) == pytest.approx(distance, rel=1e-6)  # directions kept

    constraints = [
        {
            "type": "eq",
            "fun": lambda w: w.sum() - RAYLEIGH * block,
            "jac": lambda w: np.ones(block),
        },
        {"type": "eq", "fun": lambda w: w @ w - block, "jac": lambda w: 2 * w},
    ]
    found = []
    for _ in range(20):
        result = optimize.minimize(
            lambda w: np.sum((w - a) ** 2),
            rng.rayleigh(math.sqrt(0.5), block),
            jac=lambda w: 2 * (w - a),
            bounds=[(0, None)] * block,
            constraints=constraints,
            method="SLSQP",
            options={"maxiter": 300, "ftol": 1e-12},
        )
        if result.success and max(abs(c["fun"](result.x)) for c in constraints) < 1e-7:
            found.append(2 * result.fun)
    assert found
    assert distance <= min(found) + 1e-5
    assert distance == pytest.approx(min(found), rel=1e-3)  # or the search proved nothing


def spike(size=64):
    x = torch.zeros(1, size)
    x[0, 5] = 3.0
    return x


def two_tones(size=128):
    """Two equal maxima in one block, zeros elsewhere."""
    j = torch.arange(size)
    return (torch.cos(2 * math.pi * 3 * j / size) + torch.cos(2 * math.pi * 9 * j / size))[None]


def flat_but_for_one_bin(size=64):
    """So many equal maxima that they alone could not have both norms."""
    x = torch.zeros(size)
    x[0] = 4.0
    return (x - 8.0 / size * torch.cos(2 * math.pi * 5 * torch.arange(size) / size))[None]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "x",
    [
        torch.zeros(2, 64),
        spike(),
        two_tones(),
        flat_but_for_one_bin(),
        torch.ones(1, 96),
        torch.tensor([[1.0, -1.0] * 48]),
        1e30 * noise(2, 256),
        1e-30 * noise(2, 256),
        torch.cat([noise(1, 64), torch.zeros(1, 64)]),
    ],
    ids=[
        "zero",
        "spike",
        "two tones",
        "flat",
        "constant",
        "alternating",
        "huge",
        "tiny",
        "one zero sample",
    ],
)
def test_hard_inputs(x, dtype):
    x = x.to(dtype)
    out = gf.project_white_noise(x)
    assert (out.shape, out.dtype) == (x.shape, dtype)
    assert_in_set(out)
    assert torch.equal(out, gf.project_white_noise(x.clone()))


def test_tied_maxima_stay_on_top():
    """Equal bins lose to no other bin, and the result hardly depends on how the tie is broken."""
    x = two_tones().double()
    a, before = amplitudes(gf.project_white_noise(x))[0, 0], amplitudes(x)[0, 0]
    top = before > before.max() / 2
    assert top.sum() == 2
    assert a[top].min() > a[~top].max() - 1e-9
    nudged = amplitudes(gf.project_white_noise(x + 1e-7 * noise(1, 128, dtype=x.dtype)))[0, 0]
    np.testing.assert_allclose(a[top], nudged[top], atol=1e-3)


@pytest.mark.parametrize("scale", [1e30, 1e-30])
def test_extreme_scales_keep_their_digits(scale):
    x = noise(2, 256)
    got, want = gf.project_white_noise(x * scale), gf.project_white_noise((x * scale).double())
    assert (got - want).norm() / want.norm() < 1e-4


def test_samples_and_bad_samples_are_independent():
    x = noise(3, 64)
    clean = gf.project_white_noise(x)
    for b in range(3):
        torch.testing.assert_close(gf.project_white_noise(x[b : b + 1]), clean[b : b + 1])
    x[1, 9] = math.nan
    out = gf.project_white_noise(x)
    assert out[1].isnan().any()
    assert torch.equal(out[::2], clean[::2])


def test_no_gradient():
    x = noise(2, 64).requires_grad_()
    out = gf.project_white_noise(x)
    with pytest.raises(RuntimeError, match="project_white_noise has no gradient"):
        out.sum().backward()
    with torch.no_grad():
        silent = gf.project_white_noise(x)
    assert not silent.requires_grad
    assert torch.equal(silent, out)
    assert not gf.project_white_noise(x.detach()).requires_grad
