"""The Triton backend in profilers: NVTX ranges, and metadata of launches."""

import functools
import sys
from types import SimpleNamespace

import draws
import pytest
import torch
from backends_here import TRITON_DEVICE, needs_triton, quiet_interpreter

import gaussreg_fast as gf

pytestmark = quiet_interpreter
device_noise = functools.partial(draws.noise, device=TRITON_DEVICE)


class Domain:
    """Notes what an NVTX domain is told."""

    def __init__(self):
        self.events = []

    def get_event_attributes(self, message):
        return message

    def push_range(self, message):
        self.events.append(message)

    def pop_range(self):
        self.events.append("pop")


@pytest.fixture
def domain(monkeypatch):
    from gaussreg_fast.backends.triton import _device

    fake = Domain()
    _device._range.cache_clear()
    monkeypatch.setattr(_device, "_ranges", lambda: fake)
    yield fake
    monkeypatch.undo()
    _device._range.cache_clear()


@needs_triton
def test_launches_are_ranges(domain):
    x = device_noise(2, 64)
    gf.gaussianity_value_and_grad(x, seed=1, backend="triton")
    assert domain.events[0] == "fused gradient"
    gf.gaussianity_loss(x, seed=1, backend="triton")
    gf.permuted_statistics(device_noise(1, 100), orders=(1,), seed=1, backend="triton")
    names = [event for event in domain.events if event != "pop"]
    assert {"fused gradient", "fused value", "general statistics"} <= set(names)
    assert domain.events.count("pop") == len(names)


@needs_triton
def test_ranges_end_where_a_launch_fails(domain, monkeypatch):
    from gaussreg_fast.backends.triton import _loss_fused

    class Failing:
        def __getitem__(self, grid):
            raise RuntimeError("out of resources")

    monkeypatch.setattr(_loss_fused, "fused", Failing())
    with pytest.raises(RuntimeError, match="out of resources"):
        gf.gaussianity_loss(device_noise(2, 64), permutation="none", backend="triton")
    assert domain.events == ["fused value", "pop"]


@needs_triton
def test_the_ranges_are_in_a_domain_of_their_own(monkeypatch):
    pytest.importorskip("nvtx")
    names = []
    monkeypatch.setattr("nvtx.get_domain", names.append)
    from gaussreg_fast.backends.triton import _device

    _device._ranges.__wrapped__()
    assert names == ["gaussreg_fast"]


@needs_triton
def test_without_nvtx_there_are_no_ranges_and_the_losses_run(monkeypatch):
    from gaussreg_fast.backends.triton import _device

    x = device_noise(2, 64)
    want = gf.gaussianity_value_and_grad(x, seed=1, backend="triton")
    monkeypatch.setitem(sys.modules, "nvtx", None)  # an import of it raises ImportError
    monkeypatch.setattr(_device, "_ranges", _device._ranges.__wrapped__)
    assert _device._ranges() is None
    got = gf.gaussianity_value_and_grad(x, seed=1, backend="triton")
    assert all(map(torch.equal, got, want))


@needs_triton
def test_launch_metadata_is_what_a_count_by_hand_gives():
    from gaussreg_fast.kernels.loss_fused import _fused_work
    from gaussreg_fast.kernels.metadata import by_part, work

    kernel = SimpleNamespace(name="fused")

    def metadata(task, batch=3, dtype=torch.float32, dimension=64, block=16):
        x = torch.empty(batch, dimension, dtype=dtype)
        args = {"x": x, "grad": torch.empty_like(x), "D": dimension, "TASK": task, "BLOCK": block}
        return work(by_part, _fused_work)((batch, 1, 1), kernel, args)

    def fft(dimension):  # 5 N log2 N for N complex numbers, N = D / 2
        n = dimension // 2
        return 5 * n * (n.bit_length() - 1)

    for task, transforms, numbers in (
        ("value", 1, 64),
        ("gradient", 2, 128),
        ("statistics", 1, 64 + 2),  # two blocks of 16 bins
        ("pullback", 2, 128 + 2),
    ):
        found = metadata(task)
        assert found["bytes"] == 3 * 4 * numbers
        assert found["flops32"] == 3 * (transforms * fft(64) + 10 * 64)
        assert "fused" in found["name"]
        assert "D=64" in found["name"]
        assert "B=3" in found["name"]
    halves = metadata("gradient", 1, torch.bfloat16, 32768)
    assert halves["bytes"] == 2 * 2 * 32768
    assert halves["flops32"] == 2 * fft(32768) + 10 * 32768


@needs_triton
def test_launch_metadata_of_the_three_launches():
    from gaussreg_fast.kernels import loss_large_columns as columns
    from gaussreg_fast.kernels import loss_large_rows as rows
    from gaussreg_fast.kernels.metadata import by_second, work

    d, samples = 65536, 5
    x, table = torch.empty(1, 1), torch.empty(1, 1, dtype=torch.int32)
    args = {
        "x": x, "xp": x, "grad": x, "table": table, "MODE": "table", "ORDERS": 6, "SAVE": True,
        "TASK": "gradient", "D": d, "N1": 512, "N2": 128,
    }  # fmt: skip
    kernel = SimpleNamespace(name="columns")
    moved = {
        columns._columns_work: 4 * 4,  # reads x and the table; writes the permuted sample and z
        rows._rows_work: 2 * 4,
        columns._columns_back_work: 4 * 4,
    }
    for numbers, each in moved.items():
        found = work(by_second, numbers)((8, samples, 1), kernel, args)
        assert found["bytes"] == samples * d * each
        assert found["flops32"] > samples * d * 15
        assert found["name"] == "gaussreg_fast.columns<D=65536, B=5>"
