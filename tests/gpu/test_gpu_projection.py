"""The white-noise projection on a GPU: compiled kernels, repetition, graphs, size, optimisers."""

import functools

import draws
import pytest
import torch
from against_reference import exact_projection

import gaussreg_fast as gf

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="no GPU: torch.cuda.is_available() is False"
)

ONE_OF_EACH = [256, 16384, 65536, 36864]
gpu_cubes = functools.partial(draws.noise, scale=0.0, cubic=1.0, device="cuda")


@pytest.mark.parametrize("dimension", [*(2**n for n in range(6, 23)), 96, 36864])
def test_agreement_with_float64(compare, dimension):
    x = gpu_cubes(3, dimension)
    got = gf.project_white_noise(x)
    assert torch.equal(got, gf.project_white_noise(x, backend="triton"))
    compare.vectors(got, exact_projection(x), 1e-5, "projection")
    compare.vectors(gf.project_white_noise(got), got, 1e-6, "projection again")


@pytest.mark.parametrize("block", [2, 8, 32, 64, 2048])
@pytest.mark.parametrize("dimension", [4096, 12288])
def test_blocks_of_other_sizes(compare, block, dimension):
    x = gpu_cubes(2, dimension)
    got = gf.project_white_noise(x, block_size=block)
    compare.vectors(got, exact_projection(x, block_size=block), 1e-5, "projection")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dimension", ONE_OF_EACH)
def test_half_precision(dimension, dtype):
    x = gpu_cubes(2, dimension, dtype=dtype)
    got = gf.project_white_noise(x)
    assert torch.equal(got, gf.project_white_noise(x.float()).to(dtype))


@pytest.mark.parametrize("scale", [3e38, 1e30, 1e-30, 0.0])
@pytest.mark.parametrize("dimension", ONE_OF_EACH)
def test_scales(compare, dimension, scale):
    x = gpu_cubes(2, dimension)
    x = x / x.abs().max() * scale
    compare.vectors(gf.project_white_noise(x), exact_projection(x), 1e-5, "projection")


@pytest.mark.parametrize("dimension", ONE_OF_EACH)
def test_a_hundred_runs_are_bitwise_equal_and_samples_alone(dimension):
    x = gpu_cubes(5, dimension)
    x[1, 3] = torch.nan
    want = gf.project_white_noise(x)
    assert want.isnan().all(1).tolist() == [False, True, False, False, False]
    for _ in range(100):
        assert torch.equal(gf.project_white_noise(x)[::2], want[::2])
    assert torch.equal(gf.project_white_noise(x[2:3]), want[2:3])


@pytest.mark.parametrize("dimension", ONE_OF_EACH)
def test_in_a_graph(dimension):
    x = gpu_cubes(2, dimension)
    gf.project_white_noise(x)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = gf.project_white_noise(x)
    x.copy_(gpu_cubes(2, dimension, seed=1))
    graph.replay()
    assert torch.equal(out, gf.project_white_noise(x))


@pytest.mark.parametrize("dimension", [16384, 65536, 36864])
def test_more_than_two_to_the_31_elements(compare, dimension):
    batch = 2**31 // dimension + 2
    if torch.cuda.mem_get_info()[0] < 2 * batch * dimension * 4:
        pytest.skip("too little memory")
    x = torch.zeros(batch, dimension, dtype=torch.bfloat16, device="cuda")
    x[-1] = gpu_cubes(dimension, dtype=torch.bfloat16)
    got = gf.project_white_noise(x)
    compare.vectors(got[-1:], exact_projection(x[-1:]), 1e-2, "projection")


@pytest.mark.parametrize("fused", [False, True])
def test_an_optimiser_with_a_gradient_scaler(fused):
    x = gpu_cubes(2, 4, 64, 64).requires_grad_()
    y = x.detach().clone().requires_grad_()
    weights = gpu_cubes(2, 4, 64, 64, seed=1)
    optimizer = gf.WhiteNoiseProjection(torch.optim.Adam([x], lr=0.1, fused=fused), [x], "both")
    plain = torch.optim.Adam([y], lr=0.1, fused=fused)
    scaler = torch.amp.GradScaler("cuda")
    for _ in range(3):
        optimizer.zero_grad()
        scaler.scale((x * weights).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        y.grad = gf.project_white_noise(weights)
        plain.step()
        with torch.no_grad():
            y.copy_(gf.project_white_noise(y.detach()))
        torch.testing.assert_close(x, y, rtol=1e-3, atol=1e-3)
