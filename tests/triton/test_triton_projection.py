"""The Triton kernels of the white-noise projection: every way to compute it."""

import functools
import importlib
import math

import draws
import pytest
import torch
from against_reference import SPLITS_OF_2048, exact_projection
from backends_here import (
    TRITON_DEVICE,
    needs_triton,
    quiet_interpreter,
    take_512_in_three_launches,
)
from torch.library import opcheck

import gaussreg_fast as gf
from gaussreg_fast.backends.triton import parameters

pytestmark = [needs_triton, quiet_interpreter]
WAYS = {"fused": 64, "large": 512, "general": 96}
cubes = functools.partial(draws.noise_by_size, scale=0.0, cubic=1.0, device=TRITON_DEVICE)


def project(x, **options):
    return gf.project_white_noise(x, backend="triton", **options)


@pytest.fixture
def three_launches(monkeypatch):
    """D = 512 and 2048 go the way of 65536, which takes the interpreter seconds."""
    take_512_in_three_launches(monkeypatch)
    split = parameters.Large((4, 8, 2), (4, 2, 4), 4, 1, 1, edge_radix=2)
    monkeypatch.setitem(parameters.LARGE, 2048, split)


@pytest.fixture(params=WAYS)
def way(request, three_launches):
    dimension = WAYS[request.param]
    assert parameters.projection_route(dimension, 16, 227 * 1024) == request.param
    return dimension


@pytest.mark.parametrize("dimension", [2**n for n in range(6, 16)])
def test_every_dimension_of_one_launch(compare, dimension):
    assert parameters.projection_route(dimension, 16, 227 * 1024) == "fused"
    x = cubes(2 if dimension < 8192 else 1, dimension)
    compare.vectors(project(x), exact_projection(x), 1e-5, "projection")


def test_65536_numbers_in_three_launches(compare):
    x = cubes(1, 4, 128, 128)
    assert parameters.projection_route(65536, 16, 227 * 1024) == "large"
    compare.vectors(project(x), exact_projection(x), 1e-5, "projection")


@pytest.mark.parametrize("split", SPLITS_OF_2048.values(), ids=SPLITS_OF_2048)
@pytest.mark.usefixtures("three_launches")
def test_splits_of_three_launches(compare, monkeypatch, split):
    monkeypatch.setitem(parameters.LARGE, 2048, split)
    x = cubes(1, 2048)
    compare.vectors(project(x), exact_projection(x), 1e-5, "projection")


@pytest.mark.parametrize("block", [2, 8, 32, 64])
@pytest.mark.parametrize("dimension", [128, 384])
def test_blocks_of_other_sizes(compare, block, dimension):
    x = cubes(2, dimension)
    got = project(x, block_size=block)
    compare.vectors(got, exact_projection(x, block_size=block), 1e-5, "projection")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_types(compare, way, dtype):
    x = cubes(2, way, dtype=dtype)
    got = project(x)
    assert got.dtype == dtype
    rounding = 0 if dtype == torch.float32 else torch.finfo(dtype).eps
    compare.vectors(got, exact_projection(x), 1e-5 + rounding, "projection")


@pytest.mark.parametrize("scale", [3e38, 1e30, 1e-30, 1e-38])
def test_scales(compare, way, scale):
    x = cubes(2, way)
    x = x / x.abs().max() * scale
    compare.vectors(project(x), exact_projection(x), 1e-5, "projection")


def test_energy_in_one_place(compare, way):
    """Tiles of a sample that are far apart in size, and samples that are."""
    x = cubes(3, way)
    x[0, : way // 2] *= 1e-12
    x[1, ::7] *= 1e9
    x[2] *= 1e-20
    compare.vectors(project(x), exact_projection(x), 1e-5, "projection")
    z = torch.zeros(1, way, device=TRITON_DEVICE)
    compare.vectors(project(z), exact_projection(z), 1e-6, "projection")


@pytest.mark.parametrize("bad", [math.nan, -math.inf])
def test_a_bad_number_spoils_all_of_its_sample_alone(way, bad):
    x = cubes(2, way)
    clean = project(x[:1])
    x[1, 7 * way // 8] = bad
    got = project(x)
    assert got[1].isnan().all()
    assert torch.equal(got[:1], clean)


def test_pieces_of_a_batch_and_repeated_calls_give_the_same_bits(way, monkeypatch):
    x = cubes(2, way)
    want = project(x)
    assert torch.equal(project(x), want)
    monkeypatch.setattr(parameters, "large_chunk", lambda dimension: 1)
    monkeypatch.setattr(parameters, "GENERAL_WORKSPACE", WAYS["general"])
    assert torch.equal(project(x), want)
    assert torch.equal(project(x[1:2]), want[1:2])


def test_rows_of_a_wider_tensor(way):
    wide = torch.cat([cubes(2, way) * math.nan, cubes(2, way)], 1)
    before = wide.clone()
    assert torch.equal(project(wide[:, way:]), project(cubes(2, way)))
    assert torch.equal(wide.nan_to_num(), before.nan_to_num())


def test_results_do_not_depend_on_what_new_memory_holds(way, request):
    x = cubes(2, way)
    want = project(x)
    request.getfixturevalue("poison")
    assert torch.equal(project(x), want)


def test_launches(way, monkeypatch):
    """The kernels of a call, in order."""
    found = []

    class Noted:
        def __init__(self, name, kernel):
            self.name, self.kernel = name, kernel

        def __getitem__(self, grid):
            found.append(self.name)
            return self.kernel[grid]

    room = importlib.import_module("gaussreg_fast.backends.triton._projection")
    for name, value in list(vars(room).items()):
        if value.__class__.__module__.startswith("triton."):
            monkeypatch.setattr(room, name, Noted(name, value))
    project(cubes(2, way))
    assert (
        found
        == {
            "fused": ["project"],
            "large": ["project_columns", "project_rows", "columns_back"],
            "general": ["scaled", "project_spectrum"],
        }[parameters.projection_route(way, 16, 227 * 1024)]
    )


def test_as_an_operator():
    x = cubes(1, 64)
    opcheck(torch.ops.gaussreg_fast.project_white_noise.default, (x, 16, "triton"))
    compiled = torch.compile(project, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), project(x))
