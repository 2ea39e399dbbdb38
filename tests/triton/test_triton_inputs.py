"""What the Triton backend makes of unusual inputs, layouts, batches and memory."""

import functools
import math

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import gaussreg_fast as gf
from gaussreg_fast import reference
from gaussreg_fast.backends import choice
from gaussreg_fast.backends.triton import parameters

STATE = choice.triton_state()
pytestmark = [
    pytest.mark.skipif(STATE != "available", reason=STATE),
    # The interpreter computes with numpy, which warns of what is selected away.
    pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.runtime.interpreter"),
]
DEVICE = "cpu" if choice.interpreted() else "cuda"
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# One dimension of each way to compute: one launch, three (see `way`), any number.
WAYS = {"fused": 64, "large": 512, "general": 101}


def noise(*shape, seed=0, dtype=torch.float32):
    """Off its mean and scale: no loss is near its minimum."""
    z = np.random.default_rng(seed + 1000 * math.prod(shape[1:])).standard_normal(shape)
    return torch.from_numpy(1.3 * z + 0.4).to(dtype).to(DEVICE)


def run(x, backend="triton", **options):
    """The unreduced loss and its gradient."""
    return gf.gaussianity_value_and_grad(
        x, **{"seed": 3, "reduction": "none", "backend": backend, **options}
    )


def same(got, want):
    """Whether two tuples of tensors hold the same bits."""
    return all(
        torch.equal(g.nan_to_num(123.0), w.nan_to_num(123.0))
        for g, w in zip(got, want, strict=True)
    )


@pytest.fixture(params=WAYS)
def way(request, monkeypatch):
    """A dimension that goes each way; D = 512 goes that of 65536 and more."""
    monkeypatch.setattr(parameters, "FUSED_DIMENSIONS", (64, 256))
    monkeypatch.setitem(parameters.LARGE, 512, parameters.Large((4, 8, 1), (4, 1, 4), 8, 1, 1))
    dimension = WAYS[request.param]
    assert parameters.path(dimension, 16, 227 * 1024) == request.param
    return dimension


def small_pieces(monkeypatch, samples):
    """Lets batches go through in pieces of a few samples."""
    monkeypatch.setattr(parameters, "table_rows", lambda dimension: samples)
    monkeypatch.setattr(parameters, "large_chunk", lambda dimension: samples)
    monkeypatch.setattr(parameters, "GENERAL_WORKSPACE", samples * WAYS["general"])


def statistics_and_pullback(x, **options):
    """The statistics, and their gradient for upstream gradients that are all 1."""
    z = x.detach().requires_grad_()
    options = {"orders": (1, 2, 3), "seed": 3, "backend": "triton", **options}
    outputs = gf.permuted_statistics(z, **options)
    sum(t.sum() for t in outputs).backward()
    return (*(t.detach() for t in outputs), z.grad)


# ---------------------------------------------------------------- layouts


@st.composite
def latents(draw):
    """A batch of samples in some layout, and the same numbers in order."""
    batch = draw(st.integers(1, 3))
    latent = draw(st.sampled_from([(64,), (2, 64), (4, 4, 8), (4, 8, 8), (3, 5, 7), (1, 100)]))
    x = noise(batch, *latent, seed=draw(st.integers(0, 99)), dtype=draw(st.sampled_from(DTYPES)))
    layout = draw(
        st.sampled_from(("transposed", "strided", "expanded", "channels_last", "offset", "sliced"))
    )
    if layout == "transposed":
        y = x.transpose(0, -1).contiguous().transpose(0, -1)
    elif layout == "strided":
        y = torch.stack([x, torch.full_like(x, math.nan)], -1)[..., 0]
    elif layout == "expanded":
        y = x[:1].expand(x.shape)
    elif layout == "channels_last":
        y = x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x.mT
    elif layout == "offset":
        y = torch.cat([x.new_full((draw(st.integers(1, 7)),), math.nan), x.flatten()])
        y = y[-x.numel() :].view(x.shape)
    else:
        y = torch.cat([torch.full_like(x, math.nan), x, x], 1)[:, x.shape[1] : 2 * x.shape[1]]
    return y, y.clone(memory_format=torch.contiguous_format)


@settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    latents(), st.sampled_from(("shared", "per_sample", "none")), st.integers(-(2**63), 2**63 - 1)
)
def test_layouts(compare, pair, kind, seed):
    x, plain = pair
    if len(x) > len(x.flatten(1)[0]):
        x, plain = x.mT, plain.mT
    options = {"permutation": kind, "seed": seed, "backend": "triton"}
    z = x.detach().requires_grad_()
    value = gf.gaussianity_loss(z, reduction="none", **options)
    value.sum().backward()  # an upstream gradient with stride 0
    want, want_grad = gf.gaussianity_value_and_grad(
        plain.double(), reduction="none", **{**options, "backend": "torch"}
    )
    compare.values(value, want, 1e-5)
    rounding = 0.0 if x.dtype == torch.float32 else torch.finfo(x.dtype).eps
    compare.vectors(z.grad, want_grad, 1e-4 + rounding)
    assert torch.equal(x, plain)  # inputs are not written to


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64])
@pytest.mark.parametrize("dimension", [64, 101])
def test_integer_types_of_explicit_permutations(dimension, dtype):
    x = noise(3, dimension)
    rows = reference.permutation(torch.tensor([8]), dimension, samples=3).to(dtype).to(DEVICE)
    strided = torch.stack([rows, rows], -1)[..., 1]
    call = functools.partial(gf.power_spectrum_loss, x, seed=8, reduction="none", backend="triton")
    assert torch.equal(call(permutation=strided), call(permutation="per_sample"))
    one = torch.stack([rows[0], rows[1]], -1)[:, 0]
    shared = call(permutation="shared")
    assert torch.equal(call(permutation=one), shared)
    assert torch.equal(call(permutation=rows[0].expand(3, -1)), shared)
    assert torch.equal(strided[..., 0], rows[..., 0])
    assert torch.equal(strided, rows)  # an index is not written to


def test_upstream_gradients_of_any_layout(way):
    x = noise(3, way)
    value, grad = run(x)
    weights = torch.tensor([0.5, -2.0, 0.0], device=DEVICE)
    strided = torch.stack([weights, weights + 1], -1)[:, 0]
    for upstream in (weights, strided, weights[:1].expand(3)):
        before = upstream.clone()
        z = x.clone().requires_grad_()
        loss = gf.gaussianity_loss(z, seed=3, reduction="none", backend="triton")
        loss.backward(upstream)
        assert torch.equal(loss, value)
        torch.testing.assert_close(z.grad, grad * upstream[:, None], rtol=1e-6, atol=1e-9)
        assert torch.equal(upstream, before)


def test_upstream_gradients_of_statistics_of_any_layout(way):
    x = noise(2, way)
    ones = statistics_and_pullback(x)  # through sum(), whose gradient has stride 0
    z = x.clone().requires_grad_()
    m, a = gf.permuted_statistics(z, orders=(1, 2, 3), seed=3, backend="triton")
    upstream = [torch.ones(t.shape[::-1], device=DEVICE).T for t in (m, a)]
    torch.autograd.backward((m, a), upstream)
    assert torch.equal(z.grad, ones[2])


# ---------------------------------------------------------------- NaN, inf, 0, huge and tiny


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_bad_number_spoils_its_own_sample_alone(way, bad):
    x = noise(3, way)
    clean = run(x, permutation="per_sample")
    broken = x.clone()
    broken[1, 7 * way // 8] = bad
    value, grad = run(broken, permutation="per_sample")
    assert value.isnan().tolist() == [False, True, False]
    assert same((value[::2], grad[::2]), (clean[0][::2], clean[1][::2]))
    silent = gf.moment_loss(broken, orders=(2,), reduction="none", backend="triton")
    assert silent.isnan().tolist() == [False, True, False]


def test_a_bad_number_anywhere_makes_the_loss_nan():
    x = torch.zeros(64, 64, device=DEVICE)
    x.diagonal().fill_(math.inf)
    for options in ({}, {"power_weight": 0.0, "orders": (3,)}, {"block_size": 32}):
        loss = gf.gaussianity_loss(x, seed=1, reduction="none", backend="triton", **options)
        assert loss.isnan().all()


@pytest.mark.parametrize("statistic", ["amplitude", "power"])
def test_all_zero_samples(way, statistic):
    x = torch.zeros(2, way, device=DEVICE)
    options = {"orders": (1, 2, 3, 4), "statistic": statistic}
    value, grad = run(x, **options)
    torch.testing.assert_close(value, run(x, "torch", **options)[0], rtol=1e-6, atol=0)
    assert grad.eq(0).all()


@pytest.mark.parametrize("size", [1e10, 1e-15])
@pytest.mark.parametrize("statistic", ["amplitude", "power"])
def test_huge_and_tiny_samples(compare, way, statistic, size):
    x = noise(2, way) * size
    options = {"orders": (1, 2), "statistic": statistic}
    value, grad = run(x, **options)
    want, want_grad = run(x.double(), "torch", **options)
    compare.values(value, want, 1e-5)
    compare.vectors(grad, want_grad, 1e-4)


def test_powers_overflow_where_those_of_the_torch_backend_do(way):
    x = noise(2, way)
    x[1] *= 1e10
    value, grad = run(x, orders=(8,))
    want, want_grad = run(x, "torch", orders=(8,))
    assert value.isfinite().tolist() == want.isfinite().tolist() == [True, False]
    assert torch.equal(grad.isfinite().all(1), want_grad.isfinite().all(1))


# ---------------------------------------------------------------- batches


def test_empty_batches(way):
    x = torch.zeros(0, 1, way, device=DEVICE, requires_grad=True)
    for reduction in ("none", "mean", "sum"):
        loss = gf.gaussianity_loss(x, reduction=reduction, backend="triton")
        assert loss.shape == ((0,) if reduction == "none" else ())
        loss.sum().backward()
        assert x.grad.shape == x.shape
    m, a = gf.permuted_statistics(x, orders=(1, 2), backend="triton")
    assert (m.shape, a.shape) == ((0, 2), (0, -(-(way // 2) // 16)))
    assert gf.kl_loss(x, backend="triton") == 0


@pytest.mark.parametrize("kind", ["per_sample", "shared", "explicit"])
def test_samples_and_pieces_of_a_batch_do_not_see_each_other(way, kind, monkeypatch):
    """Bit for bit: a batch in pieces is the batch at once, and samples are as alone."""
    x = noise(3, way)
    if kind == "explicit":
        kind = torch.stack([gf.permutation(s, way, device=DEVICE) for s in range(3)])
    options = {"permutation": kind}
    want = run(x, **options)
    statistics = statistics_and_pullback(x, **options)
    small_pieces(monkeypatch, 2)
    assert same(run(x, **options), want)
    assert same(statistics_and_pullback(x, **options), statistics)
    value = gf.gaussianity_loss(x, seed=3, reduction="none", backend="triton", **options)
    assert torch.equal(value, want[0])
    one = x[:1].clone()
    options["permutation"] = kind if isinstance(kind, str) else kind[:1]
    assert same(run(one, **options), [t[:1] for t in want])


@pytest.mark.slow
def test_pieces_of_a_batch_of_65536(monkeypatch):
    x = noise(2, 65536)
    want = run(x, permutation="per_sample")
    monkeypatch.setattr(parameters, "large_chunk", lambda dimension: 1)
    assert same(run(x, permutation="per_sample"), want)


# ---------------------------------------------------------------- the same bits again


@pytest.mark.parametrize("kind", ["shared", "per_sample"])
def test_repeated_calls_give_the_same_bits_and_values_need_no_gradient(way, kind):
    x = noise(2, way, dtype=torch.bfloat16)
    options = {"permutation": kind, "orders": (1, 2, 4)}
    value, grad = run(x, **options)
    assert same(run(x, **options), (value, grad))
    options |= {"seed": 3, "reduction": "none", "backend": "triton"}
    with torch.no_grad():
        silent = gf.gaussianity_loss(x.clone().requires_grad_(), **options)
    assert not silent.requires_grad
    assert torch.equal(silent, value)
    assert torch.equal(gf.gaussianity_loss(x, **options), value)
    del options["reduction"]
    loss = gf.gaussianity_value_and_grad(x, **options)[0]
    torch.testing.assert_close(loss, value.mean())


def test_value_and_grad_is_the_loss_and_its_backward(way):
    for reduction, dtype in (("mean", torch.float32), ("sum", torch.float16)):
        x = noise(3, way, dtype=dtype)
        options = {"seed": 3, "reduction": reduction, "backend": "triton"}
        value, grad = gf.gaussianity_value_and_grad(x, **options)
        z = x.clone().requires_grad_()
        loss = gf.gaussianity_loss(z, **options)
        loss.backward()
        assert torch.equal(loss, value)
        assert grad.dtype == z.grad.dtype == dtype
        torch.testing.assert_close(grad, z.grad, rtol=2 * torch.finfo(dtype).eps, atol=1e-7)


@pytest.fixture
def poison():
    """New memory holds NaN, or the largest integer."""
    assert torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("kind", ["shared", "per_sample"])
def test_results_do_not_depend_on_what_new_memory_holds(way, kind, request):
    x = noise(2, way)
    calls = [
        lambda: run(x, permutation=kind),
        lambda: run(x, permutation=kind, orders=(4,), power_weight=0.0),
        lambda: (gf.power_spectrum_loss(x, permutation=kind, seed=1, backend="triton"),),
        lambda: statistics_and_pullback(x, permutation=kind),
    ]
    want = [call() for call in calls]
    request.getfixturevalue("poison")
    for call, before in zip(calls, want, strict=True):
        got = call()
        assert all(t.isfinite().all() for t in got)
        assert same(got, before)


# ---------------------------------------------------------------- seeds


def test_seeds_and_draws(way):
    x = noise(1, way)

    def call(**options):
        return gf.power_spectrum_loss(x, backend="triton", **options)

    five = call(seed=5)
    assert torch.equal(five, call(seed=torch.tensor(5, device=DEVICE)))
    assert torch.equal(five, call(seed=torch.tensor([5], device=DEVICE)))
    assert torch.equal(five, call(permutation="per_sample", seed=5))  # sample 0
    assert torch.equal(call(seed=-1), call(seed=torch.tensor([-1], device=DEVICE)))
    torch.manual_seed(0)
    first, second = call(), call()
    assert not torch.equal(first, second)
    torch.manual_seed(0)
    assert torch.equal(call(), first)
    generator = torch.Generator(DEVICE).manual_seed(4)
    drawn = [call(generator=generator) for _ in range(2)]
    assert not torch.equal(*drawn)
    assert torch.equal(call(generator=generator.manual_seed(4)), drawn[0])
