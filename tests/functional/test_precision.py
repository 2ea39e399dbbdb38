"""Half precision, memory, default devices and numbers that are not plain Python's."""

import functools

import numpy as np
import pytest
import torch
from draws import noise
from fresh_python import printed
from losses_called import gradient, with_gradient
from torch.fx.experimental.proxy_tensor import make_fx

import gaussreg_fast as gf


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("form", ["root", "squared"])
def test_gradient_scaling_rescues_half_precision(form, dtype):
    """Unscaled, the gradient is below the smallest half; a scaler multiplies by 65536."""
    x = (1.3 * noise(2, 2**18)).to(dtype)
    loss = functools.partial(gf.moment_loss, orders=(2,), form=form)
    _, want = with_gradient(loss, x.double())
    z = x.clone().requires_grad_()
    (65536 * loss(z)).backward()
    assert z.grad.dtype == dtype
    error = (z.grad.double() / 65536 - want).norm() / want.norm()
    assert error < (1e-3 if dtype == torch.float16 else 4e-3)


def test_gradients_own_their_memory():
    """The gradient of m_1 alone is the same number everywhere, but not one number in memory."""
    x = noise(2, 4, 8, 8)
    _, grad = gf.gaussianity_value_and_grad(x, orders=(1,), power_weight=0)
    want = 2 * grad.clone()
    torch.testing.assert_close(grad.mul_(2), want)
    z = x.clone().requires_grad_()
    loss = functools.partial(gf.moment_loss, orders=(1,))
    torch.compile(loss, fullgraph=True, backend="aot_eager")(z).backward()
    torch.testing.assert_close(z.grad, gradient(functools.partial(gf.moment_loss, orders=(1,)), x))


def test_kl_near_its_minimum():
    """v - 1 - log v of noise is 1e-4 of its terms: their rounding must not be its error."""
    x = noise(50, 16384)
    want = gf.kl_loss(x.double(), reduction="none")
    error = (gf.kl_loss(x, reduction="none").double() - want).abs()
    assert (error < 1e-5 * want + 1e-9).all()


def test_numpy_numbers_are_numbers():
    x = noise(2, 64)
    got = gf.gaussianity_loss(
        x,
        orders=(np.int64(1), np.int32(2)),
        block_size=np.int64(8),
        power_weight=np.float32(2),
        seed=1,
    )
    assert torch.equal(got, gf.gaussianity_loss(x, block_size=8, power_weight=2, seed=1))
    assert torch.equal(gf.permutation(0, np.int64(9)), gf.permutation(0, 9))
    module = gf.PowerSpectrumLoss(block_size=np.int64(32), seed=1)
    assert torch.equal(module(x), gf.power_spectrum_loss(x, block_size=32, seed=1))
    m, _ = gf.permuted_statistics(x, orders={4, 2}, seed=0)
    assert torch.equal(m, gf.permuted_statistics(x, orders=(2, 4), seed=0)[0])


def test_nothing_is_drawn_for_a_backend_that_cannot_run():
    state = torch.get_rng_state()
    for call in (gf.gaussianity_loss, gf.power_spectrum_loss, gf.gaussianity_value_and_grad):
        with pytest.raises(RuntimeError, match="'triton' cannot run"):
            call(noise(2, 64).double(), backend="triton")
    assert torch.equal(torch.get_rng_state(), state)


DEFAULT_DEVICE = """
import torch, gaussreg_fast as gf
x = torch.randn(2, 4, 10, 10, generator=torch.Generator().manual_seed(0))
want = gf.gaussianity_loss(x, seed=1), gf.diagnose(x).p_value, gf.prno_loss(x, seed=1)
torch.set_default_device("meta")
assert gf.permutation(0, 100).device.type == "cpu"
assert torch.equal(gf.gaussianity_loss(x, seed=1), want[0])
assert (gf.diagnose(x).p_value == want[1]).all()
assert torch.equal(gf.prno_loss(x, seed=1), want[2])
assert torch.equal(gf.GaussianityLoss(seed=1)(x), want[0])
"""


def test_a_default_device_changes_nothing_for_tensors_elsewhere():
    printed(DEFAULT_DEVICE)


@pytest.mark.skipif(gf.backends()["native"] != "available", reason="no compiled kernels")
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_a_loss_and_its_backward_need_the_gradient_alone(reduction):
    x = noise(8, 16384).requires_grad_()
    upstream = noise(8) if reduction == "none" else torch.tensor(0.3)

    def run(**options):
        loss = gf.gaussianity_loss(x, seed=1, reduction=reduction, backend="native")
        return torch.autograd.grad(loss, x, upstream, **options)[0]

    want = run(retain_graph=True)
    with torch.profiler.profile(profile_memory=True) as profile:
        got = run()
    torch.testing.assert_close(got, want, rtol=0, atol=0)
    sizes = [e.nbytes() for e in profile.profiler.kineto_results.events() if e.nbytes() > 0]
    assert x.nbytes <= sum(sizes) <= 1.1 * x.nbytes


def test_a_kept_graph_gives_the_same_gradient_again():
    x = noise(3, 64).requires_grad_()
    loss = 2 * gf.gaussianity_loss(x, seed=1)
    grads = [torch.autograd.grad(loss, x, retain_graph=True)[0] for _ in range(2)]
    grads += torch.autograd.grad(loss, x)
    assert torch.equal(grads[0], grads[1])
    assert torch.equal(grads[0], grads[2])
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(loss, x)


def test_batched_gradients():
    x = noise(3, 64).requires_grad_()
    loss = gf.gaussianity_loss(x, seed=1, reduction="none")
    each = torch.autograd.grad(loss, x, torch.eye(3), is_grads_batched=True)[0]
    _, want = gf.gaussianity_value_and_grad(x, seed=1, reduction="none")
    torch.testing.assert_close(each[range(3), range(3)], want)
    assert each[0, 1:].count_nonzero() == 0


def test_a_recorded_backward_may_be_replayed():
    x = noise(3, 64).requires_grad_()
    loss = gf.gaussianity_loss(x, seed=1)
    (once,) = torch.autograd.grad(loss, x, retain_graph=True)
    recorded = make_fx(lambda up: torch.autograd.grad(loss, x, up)[0])(torch.tensor(2.0))
    for _ in range(2):
        torch.testing.assert_close(recorded(torch.tensor(3.0)), 3 * once)


def test_what_hooks_have_kept_stays_as_it_is():
    kept = []

    def pack(tensor):
        kept.append((tensor, tensor.clone()))
        return tensor

    x = noise(3, 64).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = 2 * gf.gaussianity_loss(x, seed=1)
    loss.backward()
    assert kept
    assert all(torch.equal(tensor, before) for tensor, before in kept)
