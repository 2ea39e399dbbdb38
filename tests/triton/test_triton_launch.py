"""The route and backend of a call, launch parameters, torch.compile."""

import functools
import importlib

import draws
import pytest
import torch
from backends_here import TRITON_DEVICE, needs_triton, quiet_interpreter
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.library import opcheck

import gaussreg_fast as gf
from gaussreg_fast.backends import choice
from gaussreg_fast.backends.triton import parameters

pytestmark = quiet_interpreter
CUDA = torch.device("cuda")
OPS = torch.ops.gaussreg_fast
device_noise = functools.partial(draws.noise, scale=1.3, offset=0.4, device=TRITON_DEVICE)


# ---------------------------------------------------------------- permutations


@needs_triton
@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    st.one_of(st.integers(1, 300), st.integers(1, 2000)),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(0, 2),
    st.booleans(),
)
@example(1, 0, 0, False)
@example(1, 5, 2, True)
@example(2, 5, 3, False)
@example(32768, -1, 1, True)
@example(65536, 2**63 - 1, 0, False)
@example(3000, -(2**63), 0, True)
def test_permutations_are_those_of_the_torch_backend(size, seed, samples, inverse):
    """The permutations agree to the bit, for every D."""
    seed = torch.tensor([seed], device=TRITON_DEVICE)
    got, want = (
        OPS.permutation(seed, size, samples, inverse, backend) for backend in ("triton", "torch")
    )
    assert got.dtype == torch.int64
    assert torch.equal(got, want)


# ---------------------------------------------------------------- which backend


@pytest.fixture
def machine(monkeypatch):
    """Pretends another machine: machine(version of triton, a GPU's compute capability or None)."""

    def pretend(triton="3.6.0", capability=(9, 0), hip=None):
        def version():
            if triton is None:
                raise ImportError("triton")
            return triton

        monkeypatch.setattr(choice, "version", version)
        monkeypatch.setattr(choice, "interpreted", lambda: False)
        monkeypatch.setattr(torch.version, "hip", hip)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: capability is not None)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "Some GPU")
        clear()

    def clear():
        choice.triton_state.cache_clear()
        choice.device_state.cache_clear()
        choice._warn_once.cache_clear()

    clear()
    yield pretend
    monkeypatch.undo()
    clear()


@pytest.mark.parametrize(
    ("properties", "reason"),
    [
        ({"triton": None}, "triton is not installed"),
        ({"triton": "3.5.1"}, "triton 3.5.1 is too old, at least 3.6 is needed"),
        ({"triton": "2.12.0+git1a2b"}, r"triton 2.12.0\+git1a2b is too old"),
        ({"capability": None}, "no GPU"),
        ({"capability": (7, 5)}, r"Some GPU is too old: compute capability \(7, 5\)"),
    ],
    ids=str,
)
def test_what_is_missing_is_said_and_auto_warns_of_it_once(machine, properties, reason):
    machine(**properties)
    state = gf.backends()["triton"]
    with pytest.warns(UserWarning, match=f"falls back to its torch backend: .*{reason}") as caught:
        picked = [choice.resolve("auto", CUDA, torch.float32) for _ in range(3)]
    assert picked == ["torch"] * 3
    assert len(caught) == 1
    assert state in str(caught[0].message)
    with pytest.raises(RuntimeError, match=rf"'triton' cannot run here: .*{reason}.*'torch'"):
        choice.resolve("triton", CUDA, torch.float32)


@needs_triton
@pytest.mark.parametrize(
    "properties", [{"triton": "3.10.0"}, {"triton": "4.0"}, {"capability": (8, 0)},
                   {"capability": (12, 0)}, {"capability": (9, 4), "hip": "6.2"}],
    ids=str,
)  # fmt: skip
def test_auto_takes_triton_on_a_gpu(machine, properties, recwarn):
    machine(**properties)
    assert gf.backends()["triton"] == "available"
    for dtype in (torch.float32, torch.float16, torch.bfloat16, None):
        assert choice.resolve("auto", CUDA, dtype) == "triton"
    assert choice.resolve("auto", CUDA, torch.float64) == "torch"
    assert choice.resolve("auto", torch.device("cpu"), torch.float32) != "triton"
    assert not recwarn.list


def test_kernels_that_cannot_be_imported_are_a_reason(machine, monkeypatch):
    machine()

    def broken(name):
        raise OSError(f"no symbol in {name}")

    monkeypatch.setattr(importlib, "import_module", broken)
    assert (
        "cannot be imported: no symbol in gaussreg_fast.backends.triton.launch"
        in gf.backends()["triton"]
    )


@needs_triton
def test_float64_is_refused_by_name():
    x = device_noise(2, 64).double()
    for call in (
        gf.gaussianity_loss,
        gf.gaussianity_value_and_grad,
        gf.kl_loss,
        functools.partial(gf.permuted_statistics, orders=(1,)),
    ):
        with pytest.raises(RuntimeError, match=r"'triton' cannot run here.*float64.*'torch'"):
            call(x, backend="triton")


@pytest.mark.skipif(not choice.interpreted(), reason="the kernels run on a GPU")
def test_the_interpreter_runs_only_by_name(recwarn):
    assert gf.backends()["triton"] == "available"
    for device in ("cpu", "cuda", "meta"):
        assert choice.resolve("auto", torch.device(device), torch.float32) != "triton"
    with pytest.raises(RuntimeError, match=r"'triton' cannot run here.*interpreter"):
        choice.resolve("triton", CUDA, torch.float32)
    assert not recwarn.list


# ---------------------------------------------------------------- which route, and its parameters


@given(st.integers(1, 2**20), st.integers(0, 64), st.integers(0, 2**18))
@example(32768, 16, 4 * 32768)
@example(32768, 16, 4 * 32768 - 1)
@example(64, 64, 2**18)
@example(65536, 16, 2**18)
@example(65536, 8, 2**18)
@example(1024, 0, 2**18)
def test_a_route_takes_what_its_kernels_can(dimension, block_size, memory):
    route = parameters.route(dimension, block_size, memory)
    assert route in ("fused", "large", "general")
    if route != "general":
        assert dimension.bit_count() == block_size.bit_count() == 1
        assert 2 * block_size <= dimension
    if route == "fused":  # two exchanges of M complex numbers
        assert 64 <= dimension <= 32768
        assert 4 * dimension <= memory
        parameters.fused(dimension, "sm_90")
    if route == "large":
        assert block_size == 16
        parameters.large(dimension, "sm_90")


def test_small_shared_memory_sends_samples_another_way():
    limits = {48: 8192, 99: 16384, 163: 32768, 227: 32768}  # KiB -> the largest D
    for kib, largest in limits.items():
        fused = [d for d in parameters.FUSED if parameters.route(d, 16, kib * 1024) == "fused"]
        assert max(fused) == largest


def test_parameters_of_one_launch_fit_together():
    assert list(parameters.FUSED) == [2**n for n in range(6, 16)]
    for table in (parameters.FUSED, *parameters.TUNED.values()):
        for dimension, p in table.items():
            r1, r2, r3 = p.radices
            assert r1 * r2 * r3 == dimension // 2
            assert all(parameters.is_power_of_two(n) for n in (*p.radices, p.num_warps))
            assert 2 * r1 >= parameters.VECTOR
            assert p.num_warps <= 32
            if dimension >= 256:  # or mirrors would cross shared memory
                assert 4 * r3 * 32 * p.num_warps <= dimension


def test_parameters_of_three_launches_fit_together():
    assert list(parameters.LARGE) == [2**n for n in range(16, 23)]
    for table in (parameters.LARGE, parameters.LARGE_FEW, *parameters.TUNED_LARGE.values()):
        for dimension, p in table.items():
            assert p.n1 * p.n2 == dimension
            assert p.n1 % 32 == 0
            assert p.n1 // p.column_radices[2] % 16 == 0  # rows by which a tile's pieces differ
            assert p.n2 // 2 % p.width == 0
            numbers = (*p.column_radices, *p.row_radices, p.width, p.column_warps, p.row_warps)
            assert all(parameters.is_power_of_two(n) for n in (*numbers, p.edge_radix))
            # Halves of a row are halves of these.
            assert p.row_radices[0] >= 2
            assert p.row_radices[2] >= 2
            assert max(p.column_warps, p.row_warps) <= 32
            assert 2 <= p.edge_radix <= p.row_radices[0] * p.row_radices[1]
            assert p.width % p.neighbours == 0  # a thread's samples lie side by side
            # A program's complex tile goes through shared memory: 64 KiB is what every GPU has.
            assert 8 * max(p.n1 * p.width, 16 * p.n2) <= 64 * 1024


def test_pieces_of_a_batch_stay_within_the_workspace():
    for dimension in parameters.LARGE:
        samples = parameters.large_chunk(dimension)
        assert samples >= 1
        assert samples == 1 or 8 * samples * dimension <= parameters.LARGE_WORKSPACE
        group = parameters.LARGE[dimension].width  # whole groups, even where they take more
        assert group == 1 or 8 * group * dimension <= 2 * parameters.LARGE_WORKSPACE
    for dimension in parameters.FUSED:
        assert 1 <= parameters.table_rows(dimension) <= 2**24 // (4 * dimension)
    for dimension in (32, 1001, 65537, 10**7):
        for batch in (1, 2, 1000):
            samples = parameters.chunk(dimension, batch)
            assert 1 <= samples <= batch
            assert samples == 1 or samples * dimension <= parameters.GENERAL_WORKSPACE


@given(st.integers(1, 2**27))
def test_the_general_route_gives_every_number_to_one_program(dimension):
    blocks = -(-max(dimension // 2, 1) // 16)
    for size, split in (
        (dimension, parameters.general(dimension)),
        (blocks, parameters.general_blocks(max(dimension // 2, 1), 16)[0]),
    ):
        assert parameters.is_power_of_two(split.tile)
        assert parameters.is_power_of_two(split.num_warps)
        assert 1 <= split.parts <= parameters.GENERAL_PARTS
        assert split.parts * split.steps * split.tile >= size
        assert (split.parts - 1) * split.steps * split.tile < size  # and none has nothing to do


@given(st.integers(1, 2**31))
def test_permutation_parameters(dimension):
    bits = parameters.permutation_bits(dimension)
    assert bits >= 2
    assert dimension <= 2**bits
    assert bits == 2 or dimension > 2 ** (bits - 1)
    assert parameters.is_power_of_two(parameters.table_tile(dimension))


# ---------------------------------------------------------------- torch's machinery


@needs_triton
@pytest.mark.parametrize(("dimension", "kind"), [(64, "per_sample"), (100, "shared")])
def test_compiled_code_computes_the_same(dimension, kind):
    x = device_noise(2, dimension)

    def step(z):
        loss = gf.gaussianity_loss(z, seed=3, permutation=kind, backend="triton")
        return 2.0 * loss + z.square().mean()

    def run(call):
        z = x.clone().requires_grad_()
        loss = call(z)
        loss.backward()
        return loss.detach(), z.grad

    want = run(step)
    got = run(torch.compile(step, fullgraph=True, backend="aot_eager"))
    for g, w in zip(got, want, strict=True):
        torch.testing.assert_close(g, w, rtol=1e-6, atol=1e-8)


@needs_triton
def test_function_transforms():
    x = device_noise(2, 64)

    def call(z, **options):
        options = {"permutation": "none", "backend": "triton", **options}
        return gf.gaussianity_loss(z, **options)

    want = gf.gaussianity_value_and_grad(x, permutation="none", backend="triton")[1]
    got = torch.func.grad(call)(x)
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-9)
    each = torch.func.vmap(torch.func.grad(lambda z: call(z[None])))(x)
    torch.testing.assert_close(each, 2 * want, rtol=1e-6, atol=1e-9)
    with torch.autocast(TRITON_DEVICE, dtype=torch.bfloat16):  # computed in float32 all the same
        assert torch.equal(
            gf.gaussianity_value_and_grad(x, permutation="none", backend="triton")[1], want
        )


@needs_triton
@pytest.mark.slow
def test_opcheck():
    x = device_noise(2, 64).requires_grad_()
    seed = torch.tensor([5], device=TRITON_DEVICE)
    options = ([1, 2], "root", 25.0, 16, 0.886, "amplitude", "mean", "kept", "triton")
    opcheck(OPS.loss.default, (x, seed, None, False, *options))
    options = (seed, None, True, [4, 1], 16, "amplitude", "triton")
    opcheck(OPS.statistics.default, (x, *options))
    opcheck(OPS.statistics_backward.default, (x.detach(), None, device_noise(2, 2), *options))
    opcheck(OPS.permutation.default, (seed, 100, 2, True, "triton"))
