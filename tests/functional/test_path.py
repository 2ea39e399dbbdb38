"""Path KL of every backend against its definition in float64; one step at a time."""

import functools

import draws
import numpy as np
import pytest
import torch
from against_reference import DTYPES, rounding
from backends_here import device_of

import gaussreg_fast as gf

ABLE = [name for name, state in gf.backends().items() if state == "available"]
SHAPES = [(3, 2, 4, 8, 8), (5, 1, 40000), (2, 3, 33), (9, 4, 2), (4, 3), (40, 2, 5), (1, 2, 16384)]
double_noise = functools.partial(draws.noise, dtype=torch.float64)


def case(shape, per_sample, dtype=torch.float32, backend="torch"):
    """dmu, in a type, and sigma."""
    dmu = double_noise(*shape).to(device_of(backend), dtype)
    sigma = (0.3 + double_noise(*shape[: 1 + per_sample], seed=1).abs()).float()
    return dmu, sigma.to(device_of(backend))


def by_numpy(dmu, sigma, upstream=None):
    """The definition, element by element."""
    x, s = dmu.detach().cpu().double().numpy(), sigma.cpu().double().numpy()
    s = s.reshape(*s.shape, *[1] * (x.ndim - s.ndim))
    axes = (0, *range(2, x.ndim))
    value = (x**2 / (2 * s**2)).sum(axes)
    up = np.ones(x.shape[1]) if upstream is None else upstream.cpu().double().numpy()
    up = up.reshape(1, -1, *[1] * (x.ndim - 2))
    by_sigma = -up * x**2 / s**3
    keep = 2 if sigma.dim() == 2 else 1
    return value, up * x / s**2, by_sigma.sum(tuple(range(keep, x.ndim)))


# ---------------------------------------------------------------- numbers


@pytest.mark.parametrize("backend", ABLE)
@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_value_and_gradients(compare, shape, per_sample, backend):
    dmu, sigma = case(shape, per_sample, backend=backend)
    upstream = double_noise(shape[1], seed=2).to(dmu)
    want, by_dmu, by_sigma = by_numpy(dmu, sigma, upstream)
    x, s = dmu.requires_grad_(), sigma.clone().requires_grad_()
    value = gf.path_kl(x, s, backend=backend)
    value.backward(upstream)
    compare.values(value, want, 1e-6)
    compare.vectors(x.grad, by_dmu, 1e-6)
    compare.vectors(s.grad[None], by_sigma[None], 1e-6)
    with torch.no_grad():
        assert torch.equal(gf.path_kl(x, sigma, backend=backend), value)
    both, grad = gf.path_kl_value_and_grad(x, sigma, backend=backend)
    assert torch.equal(both, value)
    compare.vectors(grad, by_numpy(dmu, sigma)[1], 1e-6)
    assert not grad.requires_grad


@pytest.mark.skipif("triton" not in ABLE, reason="needs triton")
def test_more_steps_than_a_program_takes_at_once(compare, monkeypatch):
    from gaussreg_fast.backends.triton import parameters

    monkeypatch.setattr(parameters, "path_sums", lambda steps, parts: (4, 2, 1))
    dmu, sigma = case((9, 2, 5000), True, backend="triton")  # 3 parts
    compare.values(gf.path_kl(dmu, sigma, backend="triton"), by_numpy(dmu, sigma)[0], 1e-6)


@pytest.mark.parametrize("backend", ABLE)
@pytest.mark.parametrize("dtype", DTYPES)
def test_half_precision(compare, dtype, backend):
    dmu, sigma = case((4, 2, 1000), False, dtype, backend)
    x = dmu.requires_grad_()
    value = gf.path_kl(x, sigma, backend=backend)
    value.sum().backward()
    want, by_dmu, _ = by_numpy(dmu, sigma)
    assert (value.dtype, x.grad.dtype) == (torch.float32, dtype)
    compare.values(value, want, 1e-5)
    compare.vectors(x.grad, by_dmu, 1e-5 + rounding(dtype))


@pytest.mark.parametrize("backend", ABLE)
def test_sizes_at_both_ends_of_float32(compare, backend):
    """sigma^2 is no number of float32, the cost is."""
    dmu, sigma = case((3, 2, 100), False, backend=backend)
    for scale in (1e-25, 1e25):
        value, grad = gf.path_kl_value_and_grad(dmu * scale, sigma * scale, backend=backend)
        want, by_dmu, _ = by_numpy(dmu * scale, sigma * scale)
        compare.values(value, want, 1e-5)
        compare.vectors(grad, by_dmu, 1e-5)


@pytest.mark.parametrize("backend", ABLE)
def test_layouts(backend):
    dmu, sigma = case((3, 4, 2, 6, 6), True, backend=backend)
    want = gf.path_kl(dmu, sigma, backend=backend)
    for other in (
        dmu.transpose(0, 1).contiguous().transpose(0, 1),
        torch.cat([dmu, dmu], 4)[..., :6],
        dmu.flatten(0, 1).to(memory_format=torch.channels_last).unflatten(0, (3, 4)),
    ):
        assert not other.is_contiguous()
        x = other.clone(memory_format=torch.preserve_format).requires_grad_()
        value = gf.path_kl(x, sigma.t().contiguous().t(), backend=backend)
        value.sum().backward()
        assert torch.equal(value, want)
        assert torch.equal(x.grad, gf.path_kl_value_and_grad(dmu, sigma, backend=backend)[1])
    expanded = dmu[:1].expand(3, -1, -1, -1, -1)
    assert torch.equal(
        gf.path_kl(expanded, sigma, backend=backend),
        gf.path_kl(expanded.contiguous(), sigma, backend=backend),
    )


@pytest.mark.parametrize("backend", ABLE)
def test_the_same_bits_for_any_batch_and_run(backend):
    dmu, sigma = case((3, 4, 20000), True, backend=backend)
    value, grad = gf.path_kl_value_and_grad(dmu, sigma, backend=backend)
    again = gf.path_kl_value_and_grad(dmu, sigma, backend=backend)
    assert torch.equal(value, again[0])
    assert torch.equal(grad, again[1])
    alone = gf.path_kl(dmu[:, 2:3], sigma[:, 2:3], backend=backend)
    assert torch.equal(value[2:3], alone)


@pytest.mark.skipif("native" not in ABLE, reason="needs the compiled module")
def test_the_same_bits_for_any_number_of_threads():
    dmu, sigma = case((3, 2, 100000), True)
    want = gf.path_kl_value_and_grad(dmu, sigma, backend="native")
    torch.set_num_threads(2)
    try:
        got = gf.path_kl_value_and_grad(dmu, sigma, backend="native")
    finally:
        torch.set_num_threads(1)
    assert torch.equal(got[0], want[0])
    assert torch.equal(got[1], want[1])


@pytest.mark.parametrize("backend", ABLE)
def test_a_broken_sample_leaves_the_others(backend):
    dmu, sigma = case((3, 4, 50), False, backend=backend)
    want = gf.path_kl(dmu, sigma, backend=backend)
    dmu[1, 2, 7] = torch.nan
    value, grad = gf.path_kl_value_and_grad(dmu, sigma, backend=backend)
    assert value.isnan().tolist() == [False, False, True, False]
    assert torch.equal(value[[0, 1, 3]], want[[0, 1, 3]])
    assert int(grad.isnan().sum()) == 1


@pytest.mark.parametrize("backend", ABLE)
def test_nothing_to_add_up(backend):
    for shape in ((0, 3, 5), (2, 0, 5), (2, 3, 0)):
        x = torch.zeros(shape, device=device_of(backend), requires_grad=True)
        value = gf.path_kl(x, x.new_ones(shape[0]), backend=backend)
        assert torch.equal(value, x.new_zeros(shape[1]))
        value.sum().backward()
        assert x.grad.shape == shape


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu():
    """No call waits for the device: it can be captured, and a step without noise gives inf."""
    dmu, sigma = case((20, 2, 16384), False, backend="triton")
    want = gf.path_kl_value_and_grad(dmu, sigma)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = gf.path_kl_value_and_grad(dmu, sigma)
    graph.replay()
    assert torch.equal(got[0], want[0])
    assert torch.equal(got[1], want[1])
    sigma[3] = 0
    assert gf.path_kl(dmu, sigma).isposinf().all()
    sigma[3] = -1
    assert gf.path_kl(dmu, sigma).isnan().all()


# ---------------------------------------------------------------- one step at a time


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_streaming_is_the_sum(dtype):
    dmu, sigma = (v.to(dtype) for v in case((40, 3, 200), True))
    x = dmu.requires_grad_()
    kl = gf.PathKL()
    costs = [kl.add(x[t], sigma[t]) for t in range(40)]
    assert kl.steps == 40
    tolerance = 1e-6 if dtype == torch.float32 else 1e-13
    want = gf.path_kl(x, sigma)
    torch.testing.assert_close(kl.value, want, rtol=tolerance, atol=0)
    torch.testing.assert_close(torch.stack(costs).sum(0), want, rtol=10 * tolerance, atol=0)
    assert kl.value.dtype == dtype
    kl.value.mean().backward()
    grad = gf.path_kl_value_and_grad(x, sigma)[1] / 3
    torch.testing.assert_close(x.grad, grad, rtol=tolerance, atol=0)


def test_streaming_without_a_graph():
    kl = gf.PathKL(keep_graph=False)
    w = torch.tensor(2.0, requires_grad=True)
    for t in range(3):
        kl.add(w * torch.ones(2, 5), 0.5 + t).mean().backward()  # each step is freed
    assert not kl.value.requires_grad
    inverse = sum(1 / (0.5 + t) ** 2 for t in range(3))
    torch.testing.assert_close(kl.value, torch.full((2,), 10 * inverse))
    torch.testing.assert_close(w.grad, torch.tensor(10 * inverse))
    kl.reset()
    with pytest.raises(RuntimeError, match="no step"):
        _ = kl.value
    kl.add(torch.ones(4, 2), torch.tensor(1.0))
    assert kl.value.tolist() == [1.0] * 4


def test_streaming_keeps_numbers_alone():
    import weakref

    kl = gf.PathKL()
    dmu = torch.ones(2, 5)
    seen = weakref.ref(dmu)
    kl.add(dmu, 1.0)
    del dmu
    assert seen() is None
