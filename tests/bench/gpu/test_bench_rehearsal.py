"""The GPU that is not there: what a run may ask of torch.cuda is answered as a device would."""

import os
import subprocess
import sys

import pytest
import torch

from bench import ROOT
from bench.gpu.rehearsal import Device, torch_cuda
from bench.harness.timing import GpuClock, OutOfTime, limit


@pytest.fixture
def device():
    pretended = Device(None)
    with torch_cuda(pretended):
        yield pretended


def test_tensors_for_cuda_are_on_the_cpu(device):
    x = torch.randn(3, 4, device="cuda")
    assert x.device.type == "cpu"
    assert torch.tensor([1], device=torch.device("cuda", 0)).device.type == "cpu"
    assert x.cuda().device.type == x.to("cuda").device.type == "cpu"
    assert x.to("cuda", torch.float64).dtype == torch.float64
    assert torch.zeros_like(x, device="cuda").shape == (3, 4)


def test_outside_everything_is_as_before():
    before = torch.cuda.is_available, torch.cuda.Event, torch.compile
    with torch_cuda(Device(None)):
        assert torch.cuda.is_available()
    assert (torch.cuda.is_available, torch.cuda.Event, torch.compile) == before


def test_a_graph_replays_what_was_captured(device):
    x, total = torch.ones(4, device="cuda"), torch.zeros(4, device="cuda")

    def call(_):
        total.add_(x)
        return x * 2 + torch.rand(4, device="cuda")

    replay = GpuClock.captured(call)
    total.zero_()
    x.fill_(5)
    seen = []
    for _ in range(3):
        replay(0)
        seen.append(replay.result.clone())
    assert total.tolist() == [15] * 4
    assert all(((s >= 10) & (s <= 11)).all() for s in seen)
    assert not torch.equal(seen[0], seen[1])  # random numbers are drawn anew


def test_a_graph_of_a_backward_pass(device):
    x = torch.ones(4, device="cuda", requires_grad=True)

    def call(_):
        x.grad = None
        x.square().sum().backward()
        return x.grad

    replay = GpuClock.captured(call)
    with torch.no_grad():
        x.fill_(3)
    replay(0)
    assert replay.result.tolist() == [6] * 4


@pytest.mark.parametrize("ask", [lambda x: x.sum().item(), lambda x: x.nonzero(), bool])
def test_nothing_is_asked_of_the_device_in_a_capture(device, ask):
    x = torch.ones(1, device="cuda")
    ask(x)
    graph = torch.cuda.CUDAGraph()
    with pytest.raises(RuntimeError, match="while a graph captures"), torch.cuda.graph(graph):
        ask(x)
    assert not torch.cuda.is_current_stream_capturing()


CAUGHT = """
import bench, torch, triton, triton.language as tl
from bench.gpu.rehearsal import rehearsed

@triton.jit
def beyond(x, N: tl.constexpr):
    tl.store(x + tl.arange(0, N), 1.0)

with rehearsed() as device:
    beyond[(1,)](torch.zeros(48, device="cuda"), N=64)
print(device.launches, device.errors()[0])
"""


def test_an_access_out_of_bounds_is_seen(tmp_path):
    path = tmp_path / "beyond.py"
    path.write_text(CAUGHT)
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, path], env=env | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.stdout.startswith("1 beyond(1, 1, 1): global: out of bounds"), done.stderr


# ---------------------------------------------------------------- limits within limits


def test_a_limit_within_a_limit():
    import time

    with pytest.raises(OutOfTime, match="stopped after 0 s"), limit(60), limit(0.05):
        time.sleep(5)
    begin = time.monotonic()

    def outlives_one_within():
        with limit(60):
            pass
        time.sleep(5)

    with pytest.raises(OutOfTime), limit(0.3):
        outlives_one_within()
    with pytest.raises(OutOfTime), limit(0.3), limit(60):
        time.sleep(5)
    with limit(60), pytest.raises(OutOfTime), limit(0.05):
        time.sleep(5)
    assert time.monotonic() - begin < 3
