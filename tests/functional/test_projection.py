"""The white-noise projection of GPER (arXiv 2602.08646), by every backend that runs here."""

import functools
import math

import numpy as np
import pytest
import torch
from backends_here import device_of, quiet_interpreter
from draws import noise
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

import gaussreg_fast as gf

pytestmark = quiet_interpreter
RAYLEIGH = math.sqrt(math.pi) / 2
EXACT = ("torch", torch.float64)
SINGLE = [(name, torch.float32) for name in ("torch", "native", "triton")]


@pytest.fixture(params=[EXACT, *SINGLE], ids=lambda p: f"{p[0]}-{str(p[1])[6:]}")
def computed(request):
    """A backend, and the type that it is given to compute with."""
    return request.param


def project(x, backend, **options):
    """Project with a backend; Triton's runs on a GPU, or in the interpreter without one."""
    if (state := gf.backends()[backend]) != "available":
        pytest.skip(f"{backend}: {state}")
    return gf.project_white_noise(x.to(device_of(backend)), backend=backend, **options).to(x.device)


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


SHAPES = [
    ((2, 4, 32, 16), 16),
    ((3, 96), 16),
    ((1, 32), 16),
    ((2, 60), 3),
    ((2, 8), 2),
    ((2, 128), 8),
    ((2, 640), 40),  # a block in pieces
    ((1, 4100), 2050),
]


@pytest.mark.parametrize(("shape", "block"), SHAPES)
def test_block_norms_and_agreement_with_float64(compare, shape, block, computed):
    backend, dtype = computed
    x = 20 * noise(*shape, seed=3, dtype=dtype) ** 3
    out = project(x, backend, block_size=block)
    assert (out.shape, out.dtype) == (x.shape, dtype)
    assert_in_set(out, block, 1e-5 if dtype == torch.float32 else 1e-10)
    want = project(x.double(), "torch", block_size=block)
    compare.vectors(out, want, 1e-5, "projection")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("backend", ["torch", "native", "triton"])
@pytest.mark.parametrize("shape", [(2, 4, 16, 16), (2, 96)])
def test_half_precision(backend, dtype, shape):
    x = noise(*shape, dtype=dtype)
    out = project(x, backend)
    assert (out.shape, out.dtype) == (x.shape, dtype)
    single = project(x.float(), backend)
    eps = torch.finfo(dtype).eps  # the interpreter cuts bfloat16 off, where others round
    torch.testing.assert_close(out.float(), single, rtol=eps, atol=eps / 100)
    assert_in_set(out, tol=4 * eps)


@pytest.mark.parametrize("block", [2, 5, 16, 40])
def test_idempotent(block, computed):
    backend, dtype = computed
    x = noise(2, 4 * 2 * block, dtype=dtype) ** 3
    once = project(x, backend, block_size=block)
    twice = project(once, backend, block_size=block)
    assert (twice - once).norm() / once.norm() < 1e-6


@pytest.mark.parametrize(("dimension", "batch", "floor"), [(4096, 400, 0.985), (262144, 8, 0.988)])
def test_noise_is_close_to_its_projection(dimension, batch, floor):
    x = noise(batch, dimension, seed=1)
    similarity = cosine(x, gf.project_white_noise(x))  # by the backend that is taken by itself
    assert similarity.mean().item() == pytest.approx(0.989, abs=5e-4)
    assert similarity.min() > floor


def one_block(kind, block):
    """Samples of one block, (1, 2 block), float64."""
    z = np.random.default_rng(block).standard_normal((1, 2 * block))
    return {
        "noise": z,
        "heavy tails": z**3,
        "nearly flat": np.eye(1, 2 * block) * math.sqrt(2 * block) + 0.05 * z,
        "sparse": np.eye(1, 2 * block, 1) + 3 * np.eye(1, 2 * block, 3),
    }[kind]


@functools.cache
def searched_distance(kind, block):
    """The least squared distance that scipy's solver finds, from many starts.

    Directions y/|y| are kept by the nearest point, so the search is over magnitudes w >= 0.
    """
    rng = np.random.default_rng(block)
    a = amplitudes(torch.from_numpy(one_block(kind, block)), block)[0, 0]
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
            found.append(2 * result.fun)  # ||x||^2 = 2 ||y||^2
    return min(found)


@pytest.mark.parametrize("kind", ["noise", "heavy tails", "nearly flat", "sparse"])
@pytest.mark.parametrize("block", [2, 4, 9, 16])
def test_nearest_point(block, kind, computed):
    """No point of the set that a search finds is nearer."""
    backend, dtype = computed
    x = torch.from_numpy(one_block(kind, block)).to(dtype)
    out = project(x, backend, block_size=block)
    exact = dtype == torch.float64
    assert_in_set(out, block, 1e-8 if exact else 1e-5)
    change = amplitudes(out, block) - amplitudes(x, block)
    distance = 2 * np.sum(change**2)
    moved = (out.double() - x.double()).square().sum().item()
    assert moved == pytest.approx(distance, rel=1e-6 if exact else 1e-4)  # directions kept
    found = searched_distance(kind, block)
    assert distance <= found * (1 + 1e-6) + 1e-5
    assert distance == pytest.approx(found, rel=1e-3)  # or the search proved nothing


@st.composite
def spectra(draw):
    """Samples whose blocks are of very different kinds, of any scale, and the block size."""
    block = draw(st.sampled_from([2, 3, 7, 16, 16, 16, 20, 33]))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    kinds = draw(st.lists(st.integers(0, 6), min_size=2, max_size=8))
    if block == 16 and draw(st.booleans()):  # a power of two: the kernels' own transforms
        kinds = (kinds * 8)[: 2 ** draw(st.integers(1, 3))]
    if not any(kinds):
        kinds[0] = 2
    parts = []
    for kind in kinds:
        a = rng.rayleigh(math.sqrt(0.5), block)
        near = 10.0 ** -rng.integers(1, 8)
        parts.append({
            0: 0 * a,
            1: a,
            2: np.exp(3 * rng.standard_normal(block)),
            3: 1 + near * a,  # nearly tied
            4: np.where(rng.random(block) < 0.15, 0, 1 + near * a),
            5: np.where(rng.random(block) < 0.8, 0, a),
            6: 1e-3 * a,
        }[kind])  # fmt: skip
    y = np.concatenate(parts)
    y = y * np.exp(2j * math.pi * rng.random(len(y)))
    full = np.concatenate([[y[0].real], y[1:] / math.sqrt(2), [y[0].imag]])
    x = np.fft.irfft(full, norm="ortho")[None]
    scale = 10.0 ** draw(st.integers(-30, 30))
    return torch.from_numpy(x / np.abs(x).max() * scale).float(), block


def test_whatever_comes_in_a_nearest_point_comes_out(computed):
    """Between points of the set, of one norm, the nearer one has the larger inner product."""
    backend, dtype = computed

    @settings(max_examples=8 if backend == "triton" else 60, deadline=None, derandomize=True)
    @given(spectra())
    def check(case):
        x, block = case
        out = project(x.to(dtype), backend, block_size=block)
        assert_in_set(out, block)
        want = project(x.double(), "torch", block_size=block)
        unit = x.double() / x.double().norm()
        scale = math.sqrt(x.shape[1])
        got, best = ((unit * t).sum().item() / scale for t in (out.double(), want))
        assert got == pytest.approx(best, abs=2e-6)

    check()


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
        torch.full((1, 64), 3.4e38),
        torch.full((1, 96), -3.4e38),
        1e-44 * noise(1, 64),
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
        "largest",
        "largest, general route",
        "subnormal",
        "one zero sample",
    ],
)
def test_hard_inputs(x, computed):
    backend, dtype = computed
    x = x.to(dtype)
    out = project(x, backend)
    assert (out.shape, out.dtype) == (x.shape, dtype)
    assert_in_set(out)
    assert torch.equal(out, project(x.clone(), backend))


@pytest.mark.parametrize(("size", "block"), [(64, 16), (96, 16), (80, 40), (128, 8)])
def test_zeros_give_the_same_point_everywhere(compare, size, block, computed):
    backend, dtype = computed
    x = torch.zeros(2, size, dtype=dtype)
    want = project(x.double(), "torch", block_size=block)
    compare.vectors(project(x, backend, block_size=block), want, 1e-6, "projection")


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
def test_extreme_scales_keep_their_digits(compare, scale, computed):
    backend, dtype = computed
    x = noise(2, 256, dtype=dtype) * scale
    want = project(x.double(), "torch")
    compare.vectors(project(x, backend), want, 1e-5, "projection")


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("size", [64, 96])
def test_samples_and_bad_samples_are_independent(bad, size, computed):
    backend, dtype = computed
    x = noise(3, size, dtype=dtype)
    clean = project(x, backend)
    torch.testing.assert_close(project(x[2:], backend), clean[2:])
    x[1, 9] = bad
    out = project(x, backend)
    assert out[1].isnan().any()
    assert torch.equal(out[::2], clean[::2])


def test_layouts_and_empty_batches(computed):
    backend, dtype = computed
    x = noise(2, 4, 4, 4, dtype=dtype)
    want = project(x, backend)
    layouts = {
        "channels last": x.contiguous(memory_format=torch.channels_last),
        "strided": torch.stack([x, x * math.nan], -1)[..., 0],
        "transposed": x.transpose(1, 3).contiguous().transpose(1, 3),
        "offset": torch.cat([x.new_full((3,), math.nan), x.flatten()])[3:].view(x.shape),
        "wide": torch.cat([x * math.nan, x], 1)[:, 4:],
    }
    for name, y in layouts.items():
        before = y.clone()
        assert torch.equal(project(y, backend), want), name
        assert torch.equal(y.nan_to_num(), before.nan_to_num()), name
    assert torch.equal(project(x[:1].expand(3, -1, -1, -1), backend)[2], want[0])
    assert project(x[:0], backend).shape == (0, 4, 4, 4)


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
