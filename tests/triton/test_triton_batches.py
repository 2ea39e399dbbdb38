"""Batches, repeated calls, new memory and seeds in the Triton backend. Inputs: test_inputs."""

import functools

import draws
import pytest
import torch
from backends_here import TRITON_DEVICE, needs_triton, quiet_interpreter

import gaussreg_fast as gf
from gaussreg_fast.backends.triton import parameters

pytestmark = [needs_triton, quiet_interpreter]
# One dimension of each way to compute: one launch, three (see `way`), any number.
WAYS = {"fused": 64, "large": 512, "general": 101}
device_noise = functools.partial(draws.noise_by_size, scale=1.3, offset=0.4, device=TRITON_DEVICE)


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


# ---------------------------------------------------------------- batches


def test_powers_overflow_where_those_of_the_torch_backend_do(way):
    x = device_noise(2, way)
    x[1] *= 1e10
    value, grad = run(x, orders=(8,))
    want, want_grad = run(x, "torch", orders=(8,))
    assert value.isfinite().tolist() == want.isfinite().tolist() == [True, False]
    assert torch.equal(grad.isfinite().all(1), want_grad.isfinite().all(1))


@pytest.mark.parametrize("kind", ["per_sample", "shared", "explicit"])
def test_samples_and_pieces_of_a_batch_do_not_see_each_other(way, kind, monkeypatch):
    """Bit for bit: a batch in pieces is the batch at once, and samples are as alone."""
    x = device_noise(3, way)
    if kind == "explicit":
        kind = torch.stack([gf.permutation(s, way, device=TRITON_DEVICE) for s in range(3)])
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
    x = device_noise(2, 65536)
    want = run(x, permutation="per_sample")
    monkeypatch.setattr(parameters, "large_chunk", lambda dimension: 1)
    assert same(run(x, permutation="per_sample"), want)


# ---------------------------------------------------------------- the same bits again


@pytest.mark.parametrize("kind", ["shared", "per_sample"])
def test_repeated_calls_give_the_same_bits_and_values_need_no_gradient(way, kind):
    x = device_noise(2, way, dtype=torch.bfloat16)
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
        x = device_noise(3, way, dtype=dtype)
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
    x = device_noise(2, way)
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
    x = device_noise(1, way)

    def call(**options):
        return gf.power_spectrum_loss(x, backend="triton", **options)

    five = call(seed=5)
    assert torch.equal(five, call(seed=torch.tensor(5, device=TRITON_DEVICE)))
    assert torch.equal(five, call(seed=torch.tensor([5], device=TRITON_DEVICE)))
    assert torch.equal(five, call(permutation="per_sample", seed=5))  # sample 0
    assert torch.equal(call(seed=-1), call(seed=torch.tensor([-1], device=TRITON_DEVICE)))
    torch.manual_seed(0)
    first, second = call(), call()
    assert not torch.equal(first, second)
    torch.manual_seed(0)
    assert torch.equal(call(), first)
    generator = torch.Generator(TRITON_DEVICE).manual_seed(4)
    drawn = [call(generator=generator) for _ in range(2)]
    assert not torch.equal(*drawn)
    assert torch.equal(call(generator=generator.manual_seed(4)), drawn[0])
