"""Unusual inputs, layouts, batches, seeds and memory, in every backend with its own kernels."""

import functools
import math

import pytest
import torch
from backend_calls import EXTRA_NATIVE, cases, same
from backends_here import quiet_interpreter
from hypothesis import given, settings
from hypothesis import strategies as st

import gaussreg_fast as gf
from gaussreg_fast import reference

pytestmark = quiet_interpreter
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SHAPES = [(64,), (2, 64), (4, 4, 8), (4, 8, 8), (3, 5, 7), (1, 100)]
# Interpreted kernels are slow.
LATENTS = {
    "native": st.one_of(
        st.sampled_from([*SHAPES, (4, 16, 16)]),
        st.tuples(st.integers(32, 300)),
        st.tuples(st.integers(1, 5), st.integers(6, 9), st.integers(6, 9)),
    ),
    "triton": st.sampled_from(SHAPES),
}
KINDS, SEEDS = st.sampled_from(("shared", "per_sample", "none")), st.integers(-(2**63), 2**63 - 1)
EXAMPLES = {"native": 150, "triton": 15}
LAYOUTS = ("transposed", "strided", "expanded", "channels_last", "negated", "sliced", "offset")

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


@st.composite
def latents(draw, calls):
    """A batch of samples in some layout, and the same numbers in order."""
    latent, dtype = draw(LATENTS[calls.backend]), draw(st.sampled_from(DTYPES))
    x = calls.samples(draw(st.integers(1, 4)), *latent, seed=draw(st.integers(0, 99)), dtype=dtype)
    y = laid_out(x, draw(st.sampled_from(LAYOUTS)), draw(st.integers(1, 7)))
    return y, y.resolve_neg().clone(memory_format=torch.contiguous_format)


def test_layouts(compare, calls):
    run, statistics = calls.value_and_grad, calls.statistics_and_pullback

    @settings(max_examples=EXAMPLES[calls.backend], deadline=None, derandomize=True)
    @given(latents(calls), KINDS, SEEDS)
    def check(pair, kind, seed):
        x, plain = pair
        options = {"permutation": kind, "seed": seed}
        z = x.detach().requires_grad_()
        value = gf.gaussianity_loss(z, reduction="none", backend=calls.backend, **options)
        value.sum().backward()  # an upstream gradient with stride 0
        assert same(run(x, **options), run(plain, **options))
        assert same(statistics(x, **options), statistics(plain, **options))
        want, want_grad = run(plain.double(), "torch", **options)
        compare.values(value, want, 1e-5)
        rounding = 0.0 if x.dtype == torch.float32 else torch.finfo(x.dtype).eps
        compare.vectors(z.grad, want_grad, 1e-4 + rounding)
        assert torch.equal(x, plain)  # inputs are not written to

    check()


@pytest.mark.parametrize("way", cases("native"), indirect=True)
@pytest.mark.parametrize("offset", range(1, 8))
def test_results_do_not_depend_on_the_alignment(way, offset):
    """Bit for bit: x, an upstream gradient and the results anywhere on a cache line."""
    calls, size = way
    x = calls.samples(2, size)
    shifted = laid_out(x, "offset", offset)
    assert shifted.data_ptr() % 64 == (4 * offset) % 64
    assert same(calls.value_and_grad(shifted), calls.value_and_grad(x))
    assert same(calls.statistics_and_pullback(shifted), calls.statistics_and_pullback(x))
    assert torch.equal(*(gf.moment_loss(t, orders=(1, 4), backend="native") for t in (x, shifted)))


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64])
@pytest.mark.parametrize("size", [64, 101])
def test_integer_types_and_layouts_of_explicit_permutations(calls, size, dtype):
    x = calls.samples(3, size)
    rows = reference.permutation(torch.tensor([8]), size, samples=3).to(dtype).to(calls.device)
    strided = torch.stack([rows, rows], -1)[..., 1]
    call = functools.partial(
        gf.power_spectrum_loss, x, seed=8, reduction="none", backend=calls.backend
    )
    assert torch.equal(call(permutation=strided), call(permutation="per_sample"))
    one = torch.stack([rows[0], rows[1]], -1)[:, 0]
    shared = call(permutation="shared")
    assert torch.equal(call(permutation=one), shared)
    assert torch.equal(call(permutation=rows[0].expand(3, -1)), shared)
    assert torch.equal(strided, rows)  # an index is not written to


def test_upstream_gradients_of_any_layout(way):
    calls, size = way
    x = calls.samples(3, size)
    value, grad = calls.value_and_grad(x)
    weights = torch.tensor([0.5, -2.0, 0.0], device=calls.device)
    strided = torch.stack([weights, weights + 1], -1)[:, 0]
    for upstream in (weights, strided, weights[:1].expand(3)):
        before = upstream.clone()
        z = x.clone().requires_grad_()
        loss = gf.gaussianity_loss(z, seed=3, reduction="none", backend=calls.backend)
        loss.backward(upstream)
        assert torch.equal(loss, value)
        torch.testing.assert_close(z.grad, grad * upstream[:, None], rtol=1e-6, atol=1e-9)
        assert torch.equal(upstream, before)


@pytest.mark.parametrize("layout", ["strided", "transposed", "expanded", "offset"])
def test_upstream_gradients_of_statistics_of_any_layout(way, layout):
    calls, size = way
    x = calls.samples(3, size)
    grads = []
    for lay_out in (lambda t: laid_out(t, layout, 3), torch.clone):
        z = x.clone().requires_grad_()
        m, a = gf.permuted_statistics(z, orders=(1, 2, 3), seed=3, backend=calls.backend)
        upstream = [lay_out(calls.samples(*t.shape, seed=5)) for t in (m, a)]
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
    calls, size = way
    x = calls.samples(3, size)
    broken = x.clone()
    broken[1, 7 * size // 8] = bad
    options = {"reduction": "none", "backend": calls.backend}
    called = [
        functools.partial(calls.value_and_grad, permutation=kind),
        functools.partial(calls.value_and_grad, permutation=kind, block_size=5, statistic="power"),
        functools.partial(calls.statistics_and_pullback, permutation=kind),
        lambda t: (gf.norm_loss(t, **options), gf.moment_loss(t, orders=(2,), **options)),
    ]
    for call in called:
        for got, want in zip(call(broken), call(x), strict=True):
            assert torch.equal(got[::2], want[::2])
            assert want.isfinite().all()
            assert not got[1].isfinite().all()
    value, _ = calls.value_and_grad(broken, permutation=kind)
    moments = gf.moment_loss(broken, orders=(2,), **options)
    assert value.isnan().tolist() == moments.isnan().tolist() == [False, True, False]
    if size % 2 == 0:
        project = functools.partial(gf.project_white_noise, block_size=16, backend=calls.backend)
        got, want = project(broken), project(x)
        assert torch.equal(got[::2], want[::2])
        assert got[1].isnan().any()


@pytest.mark.parametrize("size", [64, 101])
def test_a_bad_number_anywhere_makes_the_loss_nan(calls, size):
    x = torch.zeros(size, size, device=calls.device)
    x.diagonal()[:] = math.inf
    for options in ({}, {"power_weight": 0.0, "orders": (3,)}, {"block_size": 32}):
        assert calls.value_and_grad(x, **options)[0].isnan().all()


@pytest.mark.parametrize("statistic", ["amplitude", "power"])
def test_all_zero_samples(way, statistic):
    calls, size = way
    x = torch.zeros(2, size, device=calls.device)
    options = {"orders": (1, 2, 3, 4), "statistic": statistic}
    value, grad = calls.value_and_grad(x, **options)
    want, _ = calls.value_and_grad(x, "torch", **options)
    torch.testing.assert_close(value, want, rtol=1e-6, atol=0)
    assert grad.eq(0).all()


@pytest.mark.parametrize("scale", [1e10, 1e-15])
@pytest.mark.parametrize("statistic", ["amplitude", "power"])
def test_huge_and_tiny_samples(compare, way, scale, statistic):
    calls, size = way
    x = calls.samples(2, size) * scale
    options = {"orders": (1, 2), "statistic": statistic}
    value, grad = calls.value_and_grad(x, **options)
    want, want_grad = calls.value_and_grad(x.double(), "torch", **options)
    compare.values(value, want, 1e-5)
    compare.vectors(grad, want_grad, 1e-4)


def test_empty_batches(way):
    calls, size = way
    x = torch.zeros(0, 1, size, device=calls.device, requires_grad=True)
    for reduction in ("none", "mean", "sum"):
        loss = gf.gaussianity_loss(x, reduction=reduction, backend=calls.backend)
        assert loss.shape == ((0,) if reduction == "none" else ())
        loss.sum().backward()
        assert x.grad.shape == x.shape
    m, a = gf.permuted_statistics(x, orders=(1, 2), backend=calls.backend)
    assert (m.shape, a.shape) == ((0, 2), (0, -(-(size // 2) // 16)))
    (m.sum() + a.sum()).backward()
    assert gf.kl_loss(x, backend=calls.backend) == 0
    if size % 2 == 0:
        assert gf.project_white_noise(x.detach(), backend=calls.backend).shape == x.shape


# ---------------------------------------------------------------- batches and repeated calls


def test_powers_overflow_where_those_of_the_torch_backend_do(way):
    calls, size = way
    x = calls.samples(2, size)
    x[1] *= 1e10
    value, grad = calls.value_and_grad(x, orders=(8,))
    want, want_grad = calls.value_and_grad(x, "torch", orders=(8,))
    assert value.isfinite().tolist() == want.isfinite().tolist() == [True, False]
    assert torch.equal(grad.isfinite().all(1), want_grad.isfinite().all(1))


@pytest.mark.parametrize("way", [*cases("native", "triton"), *EXTRA_NATIVE], indirect=True)
@pytest.mark.parametrize("kind", ["shared", "per_sample", "none", "explicit"])
def test_samples_and_pieces_of_a_batch_do_not_see_each_other(way, kind, monkeypatch):
    """Bit for bit: a batch in pieces is the batch at once, and samples are as alone.

    In Triton large samples of one permutation have other kernels if there are fewer than FEW.
    """
    calls, size = way
    x, others = calls.samples(5, size), calls.samples(4, size, seed=1)
    if kind == "explicit":
        kind = torch.stack([gf.permutation(s, size, device=calls.device) for s in range(5)])
    want = calls.everything(x, permutation=kind)
    calls.take_small_pieces(monkeypatch, 2)
    assert same(calls.everything(x, permutation=kind), want)
    options = {"permutation": kind, "seed": 3, "reduction": "none", "backend": calls.backend}
    assert torch.equal(gf.gaussianity_loss(x, **options), want[0])  # without its gradient
    first = [t[:1] for t in want]
    beside = calls.everything(torch.cat([x[:1], others]), permutation=kind)
    assert same([t[:1] for t in beside], first)
    count = calls.fewest(size) if kind == "shared" else 1
    alone = kind if isinstance(kind, str) else kind[:count]  # the first sample has the shared one
    assert same(calls.everything(x[:count].clone(), permutation=alone), [t[:count] for t in want])


@pytest.mark.parametrize("kind", ["shared", "per_sample"])
def test_repeated_calls_give_the_same_bits_and_values_need_no_gradient(way, kind):
    calls, size = way
    x = calls.samples(2, size, dtype=torch.bfloat16)
    options = {"permutation": kind, "orders": (1, 2, 4)}
    value, grad = calls.value_and_grad(x, **options)
    assert same(calls.value_and_grad(x, **options), (value, grad))
    options |= {"seed": 3, "backend": calls.backend}
    with torch.no_grad():
        silent = gf.gaussianity_loss(x.clone().requires_grad_(), reduction="none", **options)
    assert not silent.requires_grad
    assert torch.equal(silent, value)
    assert torch.equal(gf.gaussianity_loss(x, reduction="none", **options), value)
    loss = gf.gaussianity_value_and_grad(x, **options)[0]
    torch.testing.assert_close(loss, value.mean())


def test_value_and_grad_is_the_loss_and_its_backward(way):
    calls, size = way
    for reduction, dtype in (("mean", torch.float32), ("sum", torch.float16)):
        x = calls.samples(3, size, dtype=dtype)
        options = {"seed": 3, "reduction": reduction, "backend": calls.backend}
        value, grad = gf.gaussianity_value_and_grad(x, **options)
        z = x.clone().requires_grad_()
        loss = gf.gaussianity_loss(z, **options)
        loss.backward()
        assert torch.equal(loss, value)
        assert grad.dtype == z.grad.dtype == dtype
        torch.testing.assert_close(grad, z.grad, rtol=2 * torch.finfo(dtype).eps, atol=1e-7)


# ---------------------------------------------------------------- what new memory holds


@pytest.mark.parametrize("kind", ["shared", "per_sample", "none"])
def test_results_do_not_depend_on_what_new_memory_holds(way, kind, request):
    calls, size = way
    x, run = calls.samples(2, size), functools.partial(calls.value_and_grad, permutation=kind)
    power = functools.partial(gf.power_spectrum_loss, permutation=kind, backend=calls.backend)
    called = [
        lambda: calls.everything(x, permutation=kind),
        lambda: run(x[:1], block_size=5),
        lambda: run(x, orders=(4,), power_weight=0.0),
        lambda: (power(x, seed=1),),
    ]
    want = [call() for call in called]
    request.getfixturevalue("poison")
    for call, before in zip(called, want, strict=True):
        if calls.backend == "native":  # a thread keeps its working memory: leave NaN there
            spoiled = calls.value_and_grad(
                torch.full((2, 8192), math.nan), permutation="per_sample"
            )
            assert spoiled[0].isnan().all()
        got = call()
        assert all(t.isfinite().all() for t in got)
        assert same(got, before)


# ---------------------------------------------------------------- seeds


def test_seeds_and_draws(way):
    calls, size = way
    device = calls.device
    call = functools.partial(gf.power_spectrum_loss, calls.samples(1, size), backend=calls.backend)
    five = call(seed=5)
    assert torch.equal(five, call(seed=torch.tensor(5, device=device)))
    assert torch.equal(five, call(seed=torch.tensor([5], device=device)))
    assert torch.equal(five, call(permutation="per_sample", seed=5))  # sample 0
    assert torch.equal(call(seed=-1), call(seed=torch.tensor([-1], device=device)))
    torch.manual_seed(0)
    first, second = call(), call()
    assert not torch.equal(first, second)
    torch.manual_seed(0)
    assert torch.equal(call(), first)
    generator = torch.Generator(device).manual_seed(4)
    drawn = [call(generator=generator) for _ in range(2)]
    assert not torch.equal(*drawn)
    assert torch.equal(call(generator=generator.manual_seed(4)), drawn[0])
