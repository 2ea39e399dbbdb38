"""The public functions: reductions, types, seeds, gradients through autograd, NaN, layouts."""

import functools
import math
from concurrent.futures import ThreadPoolExecutor

import draws
import numpy as np
import pytest
import torch
from losses_called import with_gradient

import gaussreg_fast as gf
from gaussreg_fast import reference

LOSSES = {
    "gaussianity": functools.partial(gf.gaussianity_loss, seed=3),
    "power": functools.partial(gf.power_spectrum_loss, seed=3),
    "moment": functools.partial(gf.moment_loss, orders=(1, 2, 3, 4)),
    "kl": gf.kl_loss,
    "kurtosis": gf.kurtosis_loss,
    "norm": gf.norm_loss,
    "covariance": functools.partial(gf.covariance_loss, seed=3, permutation="shared"),
    "prno": functools.partial(gf.prno_loss, seed=3, shuffles=4),
}
HALVES = [torch.float16, torch.bfloat16]


# No loss is close to its minimum, where digits cancel.
tailed_noise = functools.partial(draws.noise, cubic=0.2, offset=0.3)


@pytest.fixture(params=LOSSES)
def loss(request):
    return LOSSES[request.param]


# ---------------------------------------------------------------- reductions


@pytest.mark.parametrize("batch", [1, 3])
def test_reductions(loss, batch):
    x = tailed_noise(batch, 2, 4, 8, dtype=torch.float64)
    each, each_grad = with_gradient(loss, x, reduction="none")
    assert each.shape == (batch,)
    for reduction, want, scale in (("mean", each.mean(), 1 / batch), ("sum", each.sum(), 1.0)):
        value, grad = with_gradient(loss, x, reduction=reduction)
        assert value.shape == ()
        torch.testing.assert_close(value, want, rtol=1e-13, atol=0)
        torch.testing.assert_close(grad, each_grad * scale, rtol=1e-12, atol=1e-16)
    torch.testing.assert_close(loss(x), each.mean(), rtol=1e-13, atol=0)  # mean is the default


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_empty_batch(loss, reduction):
    value, grad = with_gradient(loss, torch.zeros(0, 4, 16), reduction=reduction)
    assert value.dtype == torch.float32
    assert value.shape == ((0,) if reduction == "none" else ())
    assert value.sum() == 0
    assert grad.shape == (0, 4, 16)


def test_empty_batch_of_the_others():
    moments, amplitudes = gf.permuted_statistics(torch.zeros(0, 100), orders=(1, 2, 4))
    assert moments.shape == (0, 3)
    assert amplitudes.shape == (0, 4)
    value, grad = gf.gaussianity_value_and_grad(torch.zeros(0, 100))
    assert value == 0
    assert grad.shape == (0, 100)
    assert gf.project_white_noise(torch.zeros(0, 2, 32)).shape == (0, 2, 32)


def test_samples_do_not_see_each_other(loss):
    x = tailed_noise(4, 64, dtype=torch.float64)
    value, grad = with_gradient(loss, x, reduction="none")
    for b in range(4):
        one, one_grad = with_gradient(loss, x[b : b + 1], reduction="none")
        torch.testing.assert_close(value[b : b + 1], one, rtol=1e-13, atol=0)
        torch.testing.assert_close(grad[b : b + 1], one_grad, rtol=1e-11, atol=1e-15)


def test_latent_shape_is_only_a_shape(loss):
    x = tailed_noise(2, 4, 4, 6)
    value, grad = with_gradient(loss, x)
    flat, flat_grad = with_gradient(loss, x.reshape(2, 96))
    assert torch.equal(value, flat)
    assert torch.equal(grad.reshape(2, 96), flat_grad)


# ---------------------------------------------------------------- dtypes


@pytest.mark.parametrize("shape", [(3, 4, 16, 16), (2, 33), (1, 1000), (2, 4, 64, 64)])
def test_float32_against_float64(compare, loss, shape):
    if loss is LOSSES["prno"] and shape[1] == 33:
        loss = functools.partial(loss, factor=3)
    if loss is LOSSES["covariance"] and shape[-1] == 64:
        shape = (1, 1024)
    x = tailed_noise(*shape, seed=1)
    value, grad = with_gradient(loss, x, reduction="none")
    want, want_grad = with_gradient(loss, x.double(), reduction="none")
    assert (value.dtype, grad.dtype, want.dtype) == (torch.float32, torch.float32, torch.float64)
    compare.values(value, want, 1e-5)
    compare.vectors(grad, want_grad, 1e-4)


@pytest.mark.parametrize("dtype", HALVES)
def test_half_precision(compare, loss, dtype):
    """Computed in float32: only the input and the gradient are rounded."""
    x = tailed_noise(2, 4, 16, 16, seed=1, dtype=dtype)
    value, grad = with_gradient(loss, x, reduction="none")
    want, want_grad = with_gradient(loss, x.double(), reduction="none")
    assert value.dtype == torch.float32
    assert grad.dtype == dtype
    compare.values(value, want, 1e-5)
    compare.vectors(grad, want_grad, torch.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", HALVES)
def test_half_precision_statistics(compare, dtype):
    x = tailed_noise(2, 512, dtype=dtype)
    options = {"orders": (1, 2, 8), "seed": 0}
    got, want = (gf.permuted_statistics(t, **options) for t in (x, x.double()))
    for g, w in zip(got, want, strict=True):
        assert g.dtype == torch.float32
        compare.vectors(g, w, 1e-5, "value")
    grad = with_gradient(lambda z: gf.permuted_statistics(z, **options)[1].square(), x)[1]
    want = with_gradient(lambda z: gf.permuted_statistics(z, **options)[1].square(), x.double())[1]
    assert grad.dtype == dtype
    compare.vectors(grad, want, torch.finfo(dtype).eps)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_float16_under_a_loss_scale(compare, reduction, batch):
    """A gradient scaler multiplies the loss by 2^16, which float16 itself cannot hold."""
    x = tailed_noise(batch, 4, 32, 32, dtype=torch.float16).requires_grad_()
    (65536.0 * gf.gaussianity_loss(x, seed=0, reduction=reduction)).sum().backward()
    want = gf.gaussianity_value_and_grad(x.double(), seed=0, reduction=reduction)[1]
    compare.vectors(x.grad, 65536.0 * want, 1e-3)


def test_reduced_precision_is_bounded(compare):
    x = tailed_noise(2, 4, 32, 32)
    for call in (gf.gaussianity_value_and_grad, gf.permuted_statistics):
        options = {"orders": (1, 2), "seed": 0}
        got, want = call(x, precision="tf32", **options), call(x.double(), **options)
        compare.vectors(got[0][None], want[0][None], 2e-3, "value")
        compare.vectors(got[1], want[1], 2e-3)


# ---------------------------------------------------------------- autograd


def test_upstream_gradients(loss):
    x = tailed_noise(3, 64, dtype=torch.float64)
    weights = torch.tensor([0.5, -2.0, 0.0], dtype=torch.float64)
    each = with_gradient(loss, x, reduction="none")[1]
    z = x.clone().requires_grad_()
    loss(z, reduction="none").backward(weights)
    torch.testing.assert_close(z.grad, each * weights[:, None], rtol=1e-12, atol=1e-16)
    z.grad = None
    (-3.5 * loss(z)).backward()
    torch.testing.assert_close(z.grad, each * (-3.5 / 3), rtol=1e-12, atol=1e-16)


def test_expanded_upstream_gradient(loss):
    """sum() hands down a gradient with stride 0."""
    x = tailed_noise(3, 64, dtype=torch.float64)
    z = x.clone().requires_grad_()
    loss(z, reduction="none").sum().backward()
    want = with_gradient(loss, x, reduction="sum")[1]
    torch.testing.assert_close(z.grad, want, rtol=1e-12, atol=1e-16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, *HALVES])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("batch", [1, 3])
def test_value_and_grad_agrees_with_autograd(batch, reduction, dtype):
    x = tailed_noise(batch, 4, 8, 8, dtype=dtype)
    options = {"reduction": reduction, "seed": 9, "orders": (1, 2, 4)}
    want, want_grad = with_gradient(gf.gaussianity_loss, x, **options)
    value, grad = gf.gaussianity_value_and_grad(x.requires_grad_(), **options)
    assert torch.equal(value, want)
    assert (grad.dtype, grad.shape) == (dtype, x.shape)
    torch.testing.assert_close(grad, want_grad, rtol=torch.finfo(dtype).eps * 2, atol=1e-6)
    assert not value.requires_grad
    assert not grad.requires_grad


def test_value_only(loss):
    x = tailed_noise(2, 100)
    value = with_gradient(loss, x)[0]
    with torch.no_grad():
        silent = loss(x.clone().requires_grad_())
    assert not silent.requires_grad
    # PRNO's eigenvalue solver is another one where eigenvectors are not wanted.
    rtol = 1e-6 if loss is LOSSES["prno"] else 0.0
    torch.testing.assert_close(silent, value, rtol=rtol, atol=0)
    assert torch.equal(loss(x), silent)
    with torch.inference_mode():
        assert torch.equal(loss(x), silent)


def test_bitwise_repeatable(loss):
    x = tailed_noise(3, 4, 33, 7)
    runs = [with_gradient(loss, x, reduction="none") for _ in range(3)]
    for value, grad in runs[1:]:
        assert torch.equal(value, runs[0][0])
        assert torch.equal(grad, runs[0][1])


# ---------------------------------------------------------------- seeds and permutations

SEEDED = {
    "gaussianity": gf.gaussianity_loss,
    "power": gf.power_spectrum_loss,
    "statistics": lambda x, **o: gf.permuted_statistics(x, orders=(1,), **o)[1],
    "value_and_grad": lambda x, **o: gf.gaussianity_value_and_grad(x, **o)[1],
    "covariance": functools.partial(gf.covariance_loss, permutation="shared"),
    "prno": functools.partial(gf.prno_loss, shuffles=3),
}


@pytest.mark.parametrize("name", SEEDED)
def test_seeds(name):
    call = functools.partial(SEEDED[name], tailed_noise(2, 160))
    assert torch.equal(call(seed=5), call(seed=5))
    for tensor in (torch.tensor(5), torch.tensor([5])):
        assert torch.equal(call(seed=tensor), call(seed=5))
    assert not torch.equal(call(seed=5), call(seed=6))
    assert torch.equal(call(seed=-1), call(seed=torch.tensor([-1])))
    assert torch.equal(call(seed=np.int64(5)), call(seed=5))
    assert call(seed=2**63 - 1).isfinite().all()


@pytest.mark.parametrize("name", SEEDED)
def test_default_draws_and_generators(name):
    call = functools.partial(SEEDED[name], tailed_noise(2, 160))
    torch.manual_seed(0)
    first, second = call(), call()
    assert not torch.equal(first, second)
    torch.manual_seed(0)
    assert torch.equal(call(), first)
    generator = torch.Generator().manual_seed(4)
    state = torch.get_rng_state()
    drawn = [call(generator=generator) for _ in range(2)]
    assert torch.equal(torch.get_rng_state(), state)  # the default generator was left alone
    assert not torch.equal(*drawn)
    assert torch.equal(call(generator=generator.manual_seed(4)), drawn[0])


def test_backends_draw_the_same_seeds():
    """Each backend draws from torch's generator and leaves it in the same state."""
    x = tailed_noise(2, 64)
    able = [name for name, state in gf.backends().items() if state == "available"]

    def two(backend):
        torch.manual_seed(9)
        losses = [gf.gaussianity_loss(x, backend=backend, reduction="none") for _ in range(2)]
        return torch.stack(losses), torch.rand(1)

    want, following = two("torch")
    assert not torch.equal(want[0], want[1])
    for backend in able:
        losses, after = two(backend)
        torch.testing.assert_close(losses, want, rtol=1e-5, atol=0)
        assert torch.equal(after, following)


def test_draws_in_inference_mode_and_in_other_threads():
    x = tailed_noise(2, 64)

    def draw():
        with torch.inference_mode():
            first = gf.gaussianity_loss(x)
        losses = torch.stack([first, gf.gaussianity_loss(x), gf.gaussianity_loss(x)])
        assert len(set(losses.tolist())) == 3

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(draw) for _ in range(2)]:
            done.result()


@pytest.mark.parametrize("dimension", [64, 101])
@pytest.mark.parametrize("name", ["gaussianity", "power", "covariance"])
def test_modes_are_explicit_permutations(name, dimension):
    x = tailed_noise(3, dimension, dtype=torch.float64)
    call = functools.partial(SEEDED[name], x, reduction="none")
    shared = gf.permutation(8, dimension)
    rows = reference.permutation(torch.tensor([8]), dimension, samples=3)
    assert torch.equal(rows[0], shared)
    assert torch.equal(call(permutation="shared", seed=8), call(permutation=shared))
    assert torch.equal(call(permutation="shared", seed=8), call(permutation=shared.int()))
    assert torch.equal(call(permutation="per_sample", seed=8), call(permutation=rows))
    assert torch.equal(call(permutation="none"), call(permutation=torch.arange(dimension)))
    by_hand = SEEDED[name](x[:, shared], permutation="none", reduction="none")
    torch.testing.assert_close(call(permutation="shared", seed=8), by_hand, rtol=1e-13, atol=0)
    # Sample 0 of "per_sample" has the shared permutation, the others their own.
    same = call(permutation="per_sample", seed=8) == call(permutation="shared", seed=8)
    assert same.tolist() == [True, False, False]


# ---------------------------------------------------------------- NaN and inf


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dimension", [64, 33])
def test_one_bad_sample(loss, bad, dimension):
    if loss is LOSSES["prno"] and dimension == 33:
        loss = functools.partial(loss, factor=3)
    x = tailed_noise(3, dimension)
    clean, clean_grad = with_gradient(loss, x, reduction="none")
    for position in range(dimension):
        broken = x.clone()
        broken[1, position] = bad
        value, grad = with_gradient(loss, broken, reduction="none")
        assert value.isnan().tolist() == [False, True, False]
        assert torch.equal(value[::2], clean[::2])
        assert torch.equal(grad[::2], clean_grad[::2])
        assert loss(broken).isnan()  # and the mean does not hide it


# ---------------------------------------------------------------- layouts


def layouts(x):
    """The numbers of x, shape (3, 4, 6, 8), in other places of memory."""
    b, c, h, w = x.shape
    sliced = torch.full((2 * b, c + 1, h, 3 * w), math.nan)
    sliced[::2, 1:, :, 1::3] = x
    return {
        "channels_last": x.clone(memory_format=torch.channels_last),
        "transposed": x.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0),
        "sliced": sliced[::2, 1:, :, 1::3],
        "offset": torch.cat([torch.zeros(1), x.flatten()])[1:].view(x.shape),
    }


@pytest.mark.parametrize("layout", ["channels_last", "transposed", "sliced", "offset"])
def test_layouts(loss, layout):
    x = tailed_noise(3, 4, 6, 8)
    other = layouts(x)[layout]
    want, want_grad = with_gradient(loss, x, reduction="none")
    z = other.detach().requires_grad_()
    version = z._version
    value = loss(z, reduction="none")
    value.sum().backward()
    assert torch.equal(value, want)
    assert torch.equal(z.grad, want_grad)
    assert z._version == version
    assert torch.equal(z.detach(), x)  # inputs are not written to


def test_expanded_batch(loss):
    base = tailed_noise(1, 4, 6, 8, dtype=torch.float64).requires_grad_()
    value = loss(base.expand(3, -1, -1, -1), reduction="none")
    assert torch.equal(value, value[:1].expand(3))
    value.sum().backward()
    want = with_gradient(loss, base)[1]
    torch.testing.assert_close(base.grad, 3 * want, rtol=1e-12, atol=1e-16)


@pytest.mark.parametrize("layout", ["channels_last", "transposed", "sliced", "offset"])
def test_layouts_of_the_others(layout):
    x = tailed_noise(3, 4, 6, 16)
    other = layouts(x)[layout]
    for call in (
        gf.project_white_noise,
        functools.partial(gf.permuted_statistics, orders=(1, 4), seed=0),
        functools.partial(gf.gaussianity_value_and_grad, seed=0),
    ):
        got, want = call(other), call(x)
        pairs = [(got, want)] if isinstance(got, torch.Tensor) else zip(got, want, strict=True)
        assert all(torch.equal(g, w) for g, w in pairs)
    assert torch.equal(other, x)
