"""Nothing but sound addresses reaches C++: tracing, fake tensors, operators called by hand."""

import os
import threading
import time

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

import gaussreg_fast as gf
from gaussreg_fast import native

pytestmark = pytest.mark.skipif(native.load()[0] is None, reason=native.load()[1])

OPS = torch.ops.gaussreg_fast
LOSSES = {
    "gaussianity": lambda x: gf.gaussianity_loss(x, permutation="none"),
    "moments": lambda x: gf.moment_loss(x, reduction="mean"),
    "statistics": lambda x: gf.permuted_statistics(x, orders=(2,), permutation="none")[1],
    "projection": lambda x: gf.project_white_noise(x, block_size=16),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_recorded_graphs_compute(loss):
    """What writes through addresses is invisible to a tracer, unless it is an operator."""
    x, other = torch.randn(2, 64), torch.randn(2, 64)
    want = loss(other)
    assert torch.equal(make_fx(loss)(x)(other), want)
    assert torch.equal(torch.jit.trace(loss, x, check_trace=False)(other), want)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_fake_tensor_mode_computes_nothing(loss):
    with FakeTensorMode(allow_non_fake_inputs=True):
        result = loss(torch.randn(2, 64))
    assert type(result).__name__ == "FakeTensor"
    x = torch.randn(2, 64)
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert loss(x).shape == loss(x).shape


def loss_op(x, index=None, block_size=16):
    return OPS.loss(
        x, None, index, False, [1, 2], "root", 25.0, block_size, 0.886, "amplitude", "mean",
        "reduced", "native", "fp32",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda x: loss_op(x, block_size=0), ValueError),
        (lambda x: loss_op(x, block_size=33), ValueError),
        (lambda x: loss_op(x, index=torch.arange(32)), ValueError),
        (lambda x: loss_op(x, index=torch.arange(64).expand(3, 64)), ValueError),
        (lambda x: loss_op(x.long()), TypeError),
        (
            lambda x: OPS.statistics_backward(
                x, torch.ones(1, 1), torch.ones(1, 1), None, None, False, [1, 2], 16, "amplitude",
                "native", "fp32",
            ),
            ValueError,
        ),
        (lambda x: OPS.project_white_noise(x, 7, "native"), ValueError),
    ],
)  # fmt: skip
def test_operators_called_by_hand_are_guarded(call, error):
    with pytest.raises(error):
        call(torch.randn(2, 64))


def test_memory_that_was_freed_is_refused():
    x = torch.randn(2, 64)
    x.untyped_storage().resize_(0)
    with pytest.raises(RuntimeError, match="no memory"):
        gf.gaussianity_loss(x)


def test_a_job_of_a_size_without_a_plan_is_refused():
    x = torch.randn(1, 100)
    job = native.module().Job("loss", 1, 100, x.data_ptr(), orders=[1], block_size=16, threads=1)
    with pytest.raises(ValueError, match="plan"):
        job.fused()
    with pytest.raises(ValueError, match="plan"):
        native.module().time_stages(100, x.data_ptr(), x.data_ptr(), 1)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_child_forked_while_a_plan_is_made_does_not_wait_for_it():
    sizes = [2**n for n in range(17, 22)]
    maker = threading.Thread(
        target=lambda: [gf.gaussianity_loss(torch.zeros(1, size), seed=1) for size in sizes]
    )
    x = torch.randn(1, 64)
    maker.start()
    children = []
    for _ in range(8):
        time.sleep(0.02)
        child = os.fork()
        if child == 0:
            gf.gaussianity_value_and_grad(x, seed=1)
            os._exit(0)
        children.append(child)
    maker.join()
    deadline = time.monotonic() + 20
    for child in children:
        done = 0
        while not done and time.monotonic() < deadline:
            done, status = os.waitpid(child, os.WNOHANG)
            time.sleep(0.01)
        if not done:
            os.kill(child, 9)
            os.waitpid(child, 0)
        assert done, "the child hangs"
        assert status == 0
