"""What the native backend makes of unusual inputs, layouts, batches and memory."""

import functools
import math

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import gaussreg_fast as gf
from gaussreg_fast import reference
from gaussreg_fast.backends import native

pytestmark = pytest.mark.skipif(native.load()[0] is None, reason=native.load()[1])

SETTINGS = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# The fused kernels in one tile and in some, and any size, round torch.fft.
WAYS = {"fused": 64, "tiles": 2048, "general": 101}


@pytest.fixture(params=WAYS)
def way(request):
    """A size that goes each way."""
    size = WAYS[request.param]
    assert native.module().has_plan(size) == (request.param != "general")
    return size


def noise(*shape, seed=0, dtype=torch.float32):
    """Off its mean and scale: no loss is near its minimum."""
    z = np.random.default_rng(seed + 1000 * math.prod(shape[1:])).standard_normal(shape)
    return torch.from_numpy(1.3 * z + 0.4).to(dtype)


def run(x, backend="native", **options):
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


def statistics_and_pullback(x, **options):
    """The statistics, and their gradient for upstream gradients that are all 1."""
    z = x.detach().requires_grad_()
    options = {"orders": (1, 2, 3), "seed": 3, "backend": "native", **options}
    outputs = gf.permuted_statistics(z, **options)
    sum(t.sum() for t in outputs).backward()
    return (*(t.detach() for t in outputs), z.grad)


# ---------------------------------------------------------------- layouts


def laid_out(x, layout, offset):
    """The numbers of x in some layout, between NaN where there is room."""
    if layout == "transposed":
        return x.transpose(0, -1).contiguous().transpose(0, -1)
    if layout == "strided":
        return torch.stack([x, torch.full_like(x, math.nan)], -1)[..., 0]
    if layout == "expanded":
        return x[:1].expand(x.shape)
    if layout == "channels_last":
        return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x
    if layout == "negated":  # torch negates where it is read
        view = torch.complex(torch.zeros_like(x).float(), -x.float()).conj().imag
        assert view.is_neg()
        return view if x.dtype == torch.float32 else x
    if layout == "sliced":
        return torch.cat([torch.full_like(x, math.nan), x, x], 1)[:, x.shape[1] : 2 * x.shape[1]]
    memory = x.new_full((x.numel() + 7,), math.nan)
    view = memory[offset : offset + x.numel()].view(x.shape)
    return view.copy_(x)


LAYOUTS = ("transposed", "strided", "expanded", "channels_last", "negated", "sliced", "offset")


@st.composite
def latents(draw):
    """A batch of samples in some layout, and the same numbers in order."""
    latent = draw(
        st.one_of(
            st.sampled_from([(64,), (2, 64), (4, 4, 8), (4, 8, 8), (4, 16, 16)]),
            st.tuples(st.integers(32, 300)),
            st.tuples(st.integers(1, 5), st.integers(6, 9), st.integers(6, 9)),
        )
    )
    dtype = draw(st.sampled_from(DTYPES))
    x = noise(draw(st.integers(1, 4)), *latent, seed=draw(st.integers(0, 99)), dtype=dtype)
    y = laid_out(x, draw(st.sampled_from(LAYOUTS)), draw(st.integers(1, 7)))
    return y, y.resolve_neg().clone(memory_format=torch.contiguous_format)


@SETTINGS
@given(
    latents(), st.sampled_from(("shared", "per_sample", "none")), st.integers(-(2**63), 2**63 - 1)
)
def test_layouts(compare, pair, kind, seed):
    x, plain = pair
    options = {"permutation": kind, "seed": seed, "backend": "native"}
    z = x.detach().requires_grad_()
    value = gf.gaussianity_loss(z, reduction="none", **options)
    value.sum().backward()  # an upstream gradient with stride 0
    assert same(run(x, **options), run(plain, **options))
    assert same(statistics_and_pullback(x, **options), statistics_and_pullback(plain, **options))
    want, want_grad = run(plain.double(), **{**options, "backend": "torch"})
    compare.values(value, want, 1e-5)
    rounding = 0.0 if x.dtype == torch.float32 else torch.finfo(x.dtype).eps
    compare.vectors(z.grad, want_grad, 1e-4 + rounding)
    assert torch.equal(x, plain)  # inputs are not written to


@pytest.mark.parametrize("offset", range(1, 8))
def test_results_do_not_depend_on_the_alignment(way, offset):
    """Bit for bit: x, an upstream gradient and the results anywhere on a cache line."""
    x = noise(2, way)
    shifted = laid_out(x, "offset", offset)
    assert shifted.data_ptr() % 64 == (4 * offset) % 64
    assert same(run(shifted), run(x))
    assert same(statistics_and_pullback(shifted), statistics_and_pullback(x))
    alone = [gf.moment_loss(t, orders=(1, 4), backend="native") for t in (x, shifted)]
    assert torch.equal(*alone)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64])
@pytest.mark.parametrize("size", [64, 101])
def test_integer_types_and_layouts_of_explicit_permutations(size, dtype):
    x = noise(3, size)
    rows = reference.permutation(torch.tensor([8]), size, samples=3).to(dtype)
    strided = torch.stack([rows, rows], -1)[..., 1]
    call = functools.partial(gf.power_spectrum_loss, x, seed=8, reduction="none", backend="native")
    assert torch.equal(call(permutation=strided), call(permutation="per_sample"))
    one = torch.stack([rows[0], rows[1]], -1)[:, 0]
    shared = call(permutation="shared")
    assert torch.equal(call(permutation=one), shared)
    assert torch.equal(call(permutation=rows[0].expand(3, -1)), shared)
    assert torch.equal(strided, rows)  # an index is not written to


def test_upstream_gradients_of_any_layout(way):
    x = noise(3, way)
    value, grad = run(x)
    weights = torch.tensor([0.5, -2.0, 0.0])
    strided = torch.stack([weights, weights + 1], -1)[:, 0]
    for upstream in (weights, strided, weights[:1].expand(3)):
        before = upstream.clone()
        z = x.clone().requires_grad_()
        loss = gf.gaussianity_loss(z, seed=3, reduction="none", backend="native")
        loss.backward(upstream)
        assert torch.equal(loss, value)
        torch.testing.assert_close(z.grad, grad * upstream[:, None], rtol=1e-6, atol=1e-9)
        assert torch.equal(upstream, before)


@pytest.mark.parametrize("layout", ["strided", "transposed", "expanded", "offset"])
def test_upstream_gradients_of_statistics_of_any_layout(way, layout):
    x = noise(3, way)
    grads = []
    for lay_out in (lambda t: laid_out(t, layout, 3), torch.clone):
        z = x.clone().requires_grad_()
        m, a = gf.permuted_statistics(z, orders=(1, 2, 3), seed=3, backend="native")
        upstream = [lay_out(noise(*t.shape, seed=5)) for t in (m, a)]
        if layout == "expanded":
            upstream = [g[:1].expand(3, -1) for g in upstream]
        torch.autograd.backward((m, a), upstream)
        grads.append(z.grad)
    assert torch.equal(*grads)
    assert grads[0].count_nonzero() > 0


# ---------------------------------------------------------------- NaN, inf, 0, huge and tiny


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("kind", ["shared", "per_sample"])
def test_a_bad_number_spoils_its_own_sample_alone(way, kind, bad):
    x = noise(3, way)
    broken = x.clone()
    broken[1, 7 * way // 8] = bad
    calls = [
        functools.partial(run, permutation=kind),
        functools.partial(run, permutation=kind, block_size=5, statistic="power"),
        functools.partial(statistics_and_pullback, permutation=kind),
        lambda t: (gf.norm_loss(t, reduction="none", backend="native"),),
    ]
    for call in calls:
        for got, want in zip(call(broken), call(x), strict=True):
            assert torch.equal(got[::2], want[::2])
            assert want.isfinite().all()
            assert not got[1].isfinite().all()
    assert run(broken, permutation=kind)[0].isnan().tolist() == [False, True, False]
    if way % 2 == 0:
        got, want = (
            gf.project_white_noise(t, block_size=16, backend="native") for t in (broken, x)
        )
        assert torch.equal(got[::2], want[::2])
        assert got[1].isnan().any()


def test_a_bad_number_anywhere_makes_the_loss_nan():
    x = torch.zeros(101, 101)
    x.diagonal().fill_(math.inf)
    for size in (64, 101):
        y = x[:size, :size].contiguous()
        for options in ({}, {"power_weight": 0.0, "orders": (3,)}, {"block_size": 32}):
            assert run(y, **options)[0].isnan().all()


@pytest.mark.parametrize("statistic", ["amplitude", "power"])
def test_all_zero_samples(way, statistic):
    x = torch.zeros(2, way)
    options = {"orders": (1, 2, 3, 4), "statistic": statistic}
    value, grad = run(x, **options)
    torch.testing.assert_close(value, run(x, "torch", **options)[0], rtol=1e-6, atol=0)
    assert grad.eq(0).all()


@pytest.mark.parametrize("scale", [1e10, 1e-15])
@pytest.mark.parametrize("statistic", ["amplitude", "power"])
def test_huge_and_tiny_samples(compare, way, scale, statistic):
    x = noise(2, way) * scale
    options = {"orders": (1, 2), "statistic": statistic}
    value, grad = run(x, **options)
    want, want_grad = run(x.double(), "torch", **options)
    compare.values(value, want, 1e-5)
    compare.vectors(grad, want_grad, 1e-4)


# ---------------------------------------------------------------- batches


def test_empty_batches(way):
    x = torch.zeros(0, 1, way, requires_grad=True)
    for reduction in ("none", "mean", "sum"):
        loss = gf.gaussianity_loss(x, reduction=reduction, backend="native")
        assert loss.shape == ((0,) if reduction == "none" else ())
        loss.sum().backward()
        assert x.grad.shape == x.shape
    m, a = gf.permuted_statistics(x, orders=(1, 2), backend="native")
    assert (m.shape, a.shape) == ((0, 2), (0, -(-(way // 2) // 16)))
    (m.sum() + a.sum()).backward()
    assert gf.kl_loss(x, backend="native") == 0
    if way % 2 == 0:
        assert gf.project_white_noise(x.detach(), backend="native").shape == x.shape
