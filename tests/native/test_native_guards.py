"""Only sound addresses reach C++: tracing, fake tensors, operators called by hand."""

import os
import threading
import time

import pytest
import torch
from backends_here import needs_native
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

import gaussreg_fast as gf
from gaussreg_fast.backends import native
from gaussreg_fast.spec import LossSpec

pytestmark = needs_native

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
    """A tracer does not see writes through addresses, unless an operator makes them."""
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


def loss_op(x, index=None, block_size=16, gradient="reduced"):
    return OPS.loss(
        x, None, index, False, [1, 2], "root", 25.0, block_size, 0.886, "amplitude", "mean",
        gradient, "native",
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
                "native",
            ),
            ValueError,
        ),
        (lambda x: OPS.project_white_noise(x, 7, "native"), ValueError),
        (lambda x: loss_op(x, gradient="stored"), ValueError),
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
    for loss in LOSSES.values():
        view = torch.randn(200)[3:131].view(2, 64)
        view.untyped_storage().resize_(0)
        with pytest.raises(RuntimeError, match="freed"):
            loss(view)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_negated_views_are_read_as_what_they_stand_for(loss):
    x = 1 + torch.randn(2, 64)
    assert torch.equal(loss(torch._neg_view(x)), loss(-x))


def test_a_request_of_a_size_without_a_plan_is_refused():
    x = torch.randn(1, 100)
    request = native.module().Request(
        "loss", 1, 100, x.data_ptr(), orders=[1], block_size=16, threads=1
    )
    with pytest.raises(ValueError, match="plan"):
        request.fused()
    with pytest.raises(ValueError, match="plan"):
        native.module().time_stages(100, x.data_ptr(), x.data_ptr(), 1)


# ---------------------------------------------------------------- tensors that C++ reads itself

needs_exchange = pytest.mark.skipif(
    native._module.EXCHANGE is None, reason="torch without the exchange API"
)
SPEC = LossSpec((1, 2), "root", 25.0, 16, 0.886, "amplitude", "mean")
MISFITS = {
    "dimensions": {"x": torch.zeros(64)},
    "empty": {"x": torch.zeros(0, 64), "loss": torch.zeros(0), "grad": torch.zeros(0, 64)},
    "strides": {"x": torch.zeros(64, 2).T, "grad": torch.zeros(2, 64)},
    "type": {"x": torch.zeros(2, 64, dtype=torch.bfloat16)},  # with a gradient in float32
    "float64": {"x": torch.zeros(2, 64, dtype=torch.float64)},
    "size": {"x": torch.zeros(2, 100), "grad": torch.zeros(2, 100)},
    "block": {"x": torch.zeros(2, 16), "grad": torch.zeros(2, 16)},
    "no tensor": {"x": [[0.0] * 64] * 2},
    "another device": {"x": torch.zeros(2, 64, device="meta")},
    "losses": {"loss": torch.zeros(3)},
    "type of losses": {"loss": torch.zeros(2, dtype=torch.float64)},
    "shape of the gradient": {"grad": torch.zeros(64, 2)},
    "type of the gradient": {"grad": torch.zeros(2, 64, dtype=torch.bfloat16)},
}


@needs_exchange
@pytest.mark.parametrize("misfit", MISFITS.values(), ids=MISFITS)
def test_tensors_that_do_not_fit_are_left_alone(misfit):
    plain = {"x": torch.randn(2, 64), "loss": torch.zeros(2), "grad": torch.zeros(2, 64)}
    loss = native._samples._loss_of(SPEC)
    rest = {"seed": 5, "per_sample": False, "scale": 1.0, "threads": 1}
    assert loss(**plain, **rest)
    assert plain["loss"].all()
    assert plain["grad"].any()
    tensors = {**plain, "loss": torch.zeros(2), "grad": torch.zeros(2, 64), **misfit}
    assert not loss(**tensors, **rest)
    for name in ("loss", "grad"):
        assert not tensors[name].any()


@needs_exchange
def test_orders_and_forms_that_make_no_sense():
    with pytest.raises(ValueError, match="orders"):
        native._samples._loss_of(SPEC._replace(orders=(9,)))
    with pytest.raises(ValueError, match="unknown form cubed"):
        native._samples._loss_of(SPEC._replace(form="cubed"))


@needs_exchange
@pytest.mark.parametrize("options", [{}, {"permutation": "per_sample"}, {"power_weight": 0.0}])
@pytest.mark.parametrize("shape", [(1, 64), (3, 4, 8, 8), (2, 100), (2, 3, 16, 64)], ids=str)
def test_the_same_bits_without_the_exchange_api(monkeypatch, shape, options):
    x = torch.randn(shape)
    quick = gf.gaussianity_value_and_grad(x, seed=3, reduction="none", **options)
    monkeypatch.setattr(native._module, "EXCHANGE", None)
    slow = gf.gaussianity_value_and_grad(x, seed=3, reduction="none", **options)
    assert all(torch.equal(a, b) for a, b in zip(quick, slow, strict=True))


# ---------------------------------------------------------------- forks


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
