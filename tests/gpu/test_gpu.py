"""Tests that need a GPU: compiled kernels against float64, repetition, graphs, streams, size."""

import functools
import threading

import draws
import pytest
import torch

from gaussreg_fast import (
    gaussianity_loss,
    gaussianity_value_and_grad,
    permutation,
    permuted_statistics,
    reference,
)
from gaussreg_fast.backends.triton import parameters

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="no GPU: torch.cuda.is_available() is False"
)

FUSED = [64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768]
LARGE = [2**n for n in range(16, 23)]
GENERAL = [100, 36864]
ONE_OF_EACH = [256, 16384, 65536, 36864]
gpu_noise = functools.partial(draws.noise, scale=1.1, offset=0.05, device="cuda")


def value_and_grad(x, **options):
    return gaussianity_value_and_grad(x, backend="triton", **options)


def expected(x, index, **options):
    """Loss, gradient in float64, and the rows where no kink is so near that signs are open."""
    y = x.double().cpu()
    loss, grad = reference.loss_and_gradient(y, index, **options)
    _, blocks, _ = reference.permuted_statistics(y, index, [1], 16, "amplitude")
    return loss, grad, (blocks - reference.RAYLEIGH_MEAN).abs().amin(1) > 2e-6


# ---------------------------------------------------------------- numbers


@pytest.mark.parametrize(
    ("dimension", "mode"),
    [(dimension, "shared") for dimension in FUSED + LARGE + GENERAL]
    + [(dimension, mode) for dimension in ONE_OF_EACH for mode in ("per_sample", "none", "index")],
)
def test_value_and_gradient(compare, dimension, mode):
    x = gpu_noise(8, dimension, seed=dimension)
    seed = torch.tensor([dimension])
    index = None
    if mode != "none":
        many = 8 if mode == "per_sample" else None
        index = reference.permutation(seed, dimension, samples=many)
    given = index.cuda() if mode == "index" else mode
    options = {"permutation": given} | ({"seed": dimension} if isinstance(given, str) else {})
    torch.full_like(x, torch.nan)  # what is not written shows
    loss, grad = value_and_grad(x, reduction="none", **options)
    want, want_grad, smooth = expected(x, index)
    compare.values(loss, want, 1e-5)
    assert smooth.any()
    compare.leave_out("rows", int((~smooth).sum()))
    compare.vectors(grad[smooth.cuda()], want_grad[smooth], 1e-4)
    assert grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dimension", ONE_OF_EACH)
def test_half_precision(compare, dimension, dtype):
    x = gpu_noise(8, dimension, seed=dimension, dtype=dtype)
    loss, grad = value_and_grad(x, reduction="none", seed=1)
    want, want_grad, smooth = expected(x, reference.permutation(torch.tensor([1]), dimension))
    assert grad.dtype == dtype
    compare.values(loss, want, 1e-5)
    if dtype == torch.bfloat16:  # in float16 gradients this small are below the normal numbers
        compare.vectors(grad[smooth.cuda()], want_grad[smooth], 3e-3)


@pytest.mark.parametrize("dimension", ONE_OF_EACH)
def test_autograd_and_statistics(compare, dimension):
    x = gpu_noise(4, dimension).requires_grad_()
    _, grad = value_and_grad(x, seed=3)
    gaussianity_loss(x, seed=3, backend="triton").backward()
    compare.vectors(x.grad, grad, 1e-6)

    orders = (1, 2, 4)
    index = reference.permutation(torch.tensor([3]), dimension)
    want = reference.permuted_statistics(x.detach().double().cpu(), index, orders, 16, "amplitude")
    m, a = permuted_statistics(x, orders=orders, seed=3, backend="triton")
    compare.vectors(m, want[0], 1e-5, "moments")
    compare.vectors(a, want[1], 1e-5, "blocks")
    up = gpu_noise(*m.shape, seed=1), gpu_noise(*a.shape, seed=2)
    got = torch.autograd.grad((m, a), x, up)[0]
    up = [u.double().cpu() for u in up]
    y = x.detach().double().cpu()
    pulled = reference.permuted_statistics_pullback(y, want[2], index, orders, 16, "amplitude", *up)
    compare.vectors(got, pulled, 1e-4)


def test_permutations_are_those_of_the_cpu():
    for dimension in (2, 63, 1000, 4096, 2**18):
        for inverse in (False, True):
            got = permutation(9, dimension, inverse=inverse, device="cuda")
            assert torch.equal(got.cpu(), permutation(9, dimension, inverse=inverse))


def test_under_compile(compare):
    torch.compiler.reset()
    loss = torch.compile(lambda x: gaussianity_loss(x, seed=3), fullgraph=True)
    x = gpu_noise(4, 4096).requires_grad_()
    loss(x).backward()
    value, grad = value_and_grad(x, seed=3)
    compare.values(loss(x).detach(), value, 1e-6)
    compare.vectors(x.grad, grad, 1e-6)


# ---------------------------------------------------------------- repetition


@pytest.mark.parametrize("mode", ["shared", "per_sample"])
@pytest.mark.parametrize("dimension", ONE_OF_EACH)
def test_a_hundred_runs_are_bitwise_equal(dimension, mode):
    x = gpu_noise(40, dimension)  # more than one piece of a batch of large samples
    loss, grad = value_and_grad(x, seed=7, permutation=mode, reduction="none")
    for _ in range(100):
        again = value_and_grad(x, seed=7, permutation=mode, reduction="none")
        assert torch.equal(again[0], loss)
        assert torch.equal(again[1], grad)


@pytest.mark.parametrize("dimension", ONE_OF_EACH)
def test_a_sample_does_not_depend_on_its_batch(dimension):
    x = gpu_noise(40, dimension)
    loss, grad = value_and_grad(x, seed=7, reduction="none")
    # Fewer large samples have other kernels, with other last digits.
    count = parameters.FEW if dimension in parameters.LARGE else 1
    for b in (0, 17, 36):
        alone = value_and_grad(x[b : b + count], seed=7, reduction="none")
        assert torch.equal(alone[0], loss[b : b + count])
        assert torch.equal(alone[1], grad[b : b + count])


# ---------------------------------------------------------------- CUDA graphs


def capture(call):
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = call()
    return graph, result


@pytest.mark.parametrize("dimension", ONE_OF_EACH)
def test_each_replay_draws_a_permutation(dimension):
    x = gpu_noise(2, dimension)
    graph, (loss, grad) = capture(lambda: value_and_grad(x))
    losses, grads = [], []
    for _ in range(8):
        graph.replay()
        losses.append(loss.item())
        grads.append(grad.clone())
    assert len(set(losses)) > 4
    assert torch.isfinite(torch.tensor(losses)).all()
    assert all(g.isfinite().all() for g in grads)
    assert not torch.equal(grads[0], grads[1])
    # Still the loss of noise: eager calls scatter about the same mean.
    eager = torch.stack([value_and_grad(x)[0] for _ in range(8)])
    assert abs(eager.mean().item() - sum(losses) / 8) < 0.3 * eager.mean().item()


@pytest.mark.parametrize("dimension", ONE_OF_EACH)
def test_a_replay_equals_the_eager_call_of_its_seed(dimension):
    x, seed = gpu_noise(2, dimension), torch.tensor([0]).cuda()
    graph, (loss, grad) = capture(lambda: value_and_grad(x, seed=seed))
    for number in range(1, 5):
        x.copy_(gpu_noise(2, dimension, seed=number))
        seed.fill_(number)
        graph.replay()
        eager = value_and_grad(x, seed=number)
        assert torch.equal(loss, eager[0])
        assert torch.equal(grad, eager[1])


def test_forward_and_backward_in_a_graph():
    x = gpu_noise(2, 4096).requires_grad_()

    def step():
        x.grad = None
        gaussianity_loss(x, seed=seed, backend="triton").backward()

    seed = torch.tensor([3]).cuda()
    graph, _ = capture(step)
    inside = x.grad
    inside.fill_(torch.nan)
    graph.replay()
    assert torch.equal(inside, value_and_grad(x.detach(), seed=3)[1])


# ---------------------------------------------------------------- streams and threads


@pytest.mark.parametrize("dimension", [4096, 65536])
def test_streams_do_not_disturb_each_other(dimension):
    xs = [gpu_noise(64, dimension, seed=k) for k in range(4)]
    alone = [value_and_grad(x, seed=k) for k, x in enumerate(xs)]
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in xs]
    for _ in range(10):
        results = []
        for k, (x, stream) in enumerate(zip(xs, streams, strict=True)):
            with torch.cuda.stream(stream):
                results.append(value_and_grad(x, seed=k))
        torch.cuda.synchronize()
        for got, want in zip(results, alone, strict=True):
            assert torch.equal(got[0], want[0])
            assert torch.equal(got[1], want[1])


def test_threads_do_not_disturb_each_other():
    x = gpu_noise(16, 2048)
    want = value_and_grad(x, seed=1)[1]
    wrong = []

    def work():
        with torch.cuda.stream(torch.cuda.Stream()):
            for _ in range(20):
                got = value_and_grad(x, seed=1)[1]
                torch.cuda.current_stream().synchronize()
                if not torch.equal(got, want):
                    wrong.append(1)

    torch.cuda.synchronize()
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# ---------------------------------------------------------------- size


@pytest.mark.parametrize("dimension", [16384, 65536, 36864])
def test_more_than_two_to_the_31_elements(dimension):
    rows = 2**31 // dimension + 5
    # x, its gradient, and two more of each for what the general route keeps in float32
    need = 2 * rows * dimension * (12 if dimension == 36864 else 3)
    if torch.cuda.mem_get_info()[0] < need:
        pytest.skip(f"needs {need / 2**30:.0f} GiB of free memory on the device")
    x = torch.empty(rows, dimension, dtype=torch.bfloat16, device="cuda").normal_()
    loss, grad = value_and_grad(x, seed=5, reduction="none")
    picked = [0, rows // 2, rows - 6, rows - 5, rows - 1]
    few_loss, few_grad = value_and_grad(x[picked], seed=5, reduction="none")
    torch.testing.assert_close(loss[picked], few_loss, rtol=1e-6, atol=0)
    torch.testing.assert_close(grad[picked], few_grad, rtol=1e-2, atol=1e-7)
    assert all(loss[k : k + 4096].isfinite().all() for k in range(0, rows, 4096))
    del x, grad
    torch.cuda.empty_cache()


def test_rows_far_apart():
    """Strides beyond 2^31 elements."""
    stride = 2**31 + 4096
    if torch.cuda.mem_get_info()[0] < 2 * (stride + 8192) * 2:
        pytest.skip("needs 10 GiB of free memory on the device")
    storage = torch.empty(stride + 4096, dtype=torch.bfloat16, device="cuda")
    x = storage.as_strided((2, 4096), (stride, 1))
    x.copy_(gpu_noise(2, 4096))
    want = value_and_grad(x.clone(), seed=2)
    got = value_and_grad(x, seed=2)
    assert torch.equal(got[0], want[0])
    assert torch.equal(got[1], want[1])
