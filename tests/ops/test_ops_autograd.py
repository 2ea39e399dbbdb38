"""The operators under autograd: double backward, kept graphs, upstream gradients, hooks."""

import pytest
import torch
from losses_called import CALLS, FUSED, gradient, wide_noise

import gaussreg_fast as gf


@pytest.mark.filterwarnings("ignore:Using backward\\(\\) with create_graph")
@pytest.mark.parametrize("name", FUSED)
def test_double_backward_raises(name):
    x = wide_noise(2, 64).requires_grad_()
    (grad,) = torch.autograd.grad(CALLS[name](x), x, create_graph=True)
    torch.testing.assert_close(grad.detach(), gradient(CALLS[name], x))
    with pytest.raises(RuntimeError, match="double backward"):
        torch.autograd.grad(grad.square().sum(), x)
    CALLS[name](x).backward(create_graph=True)
    with pytest.raises(RuntimeError, match="double backward"):
        x.grad.square().sum().backward()
    with pytest.raises(RuntimeError, match="double backward"):
        torch.func.grad(lambda z: torch.func.grad(CALLS[name])(z).square().sum())(x.detach())
    x.grad = None


def test_double_backward_of_prno(compare):
    """The derivative of |grad|^2 / 2 along a direction, against central differences."""
    x, direction = (
        wide_noise(2, 64, dtype=torch.float64),
        wide_noise(2, 64, seed=1, dtype=torch.float64),
    )
    z = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(CALLS["prno"](z), z, create_graph=True)
    (second,) = torch.autograd.grad(0.5 * grad.square().sum(), z)
    h = 1e-5
    above, below = (
        0.5 * gradient(CALLS["prno"], x + s * h * direction).square().sum() for s in (1, -1)
    )
    compare.values((second * direction).sum(), (above - below) / (2 * h), 1e-5)


def test_retained_graph(call):
    x = wide_noise(2, 64).requires_grad_()
    value = call(x)
    (first,) = torch.autograd.grad(value, x, retain_graph=True)
    (second,) = torch.autograd.grad(value, x, grad_outputs=torch.tensor(2.0), retain_graph=True)
    value.backward()
    assert torch.equal(first, x.grad)
    torch.testing.assert_close(second, 2 * first, rtol=1e-6, atol=0)
    with pytest.raises(RuntimeError, match="second time"):
        value.backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("factor", [1.0, -2.5])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("batch", [1, 3])
def test_upstream_gradients_of_every_reduction(compare, batch, reduction, factor, dtype):
    """Backward scales its gradient in place, or not at all, and adds it to an earlier one."""
    x = wide_noise(batch, 64, dtype=dtype)
    _, unit = gf.gaussianity_value_and_grad(x.float(), seed=3, reduction=reduction)
    for before in (None, torch.ones_like(x)):
        z = x.clone().requires_grad_()
        z.grad = None if before is None else before.clone()
        (factor * gf.gaussianity_loss(z, seed=3, reduction=reduction)).sum().backward()
        want = factor * unit + (0 if before is None else 1)
        compare.vectors(z.grad, want, 1e-6 if dtype == torch.float32 else torch.finfo(dtype).eps)


def test_a_gradient_that_was_handed_on_is_nobody_elses():
    """With a factor of 1 backward returns the stored gradient; later calls do not change it."""
    x = wide_noise(1, 64).requires_grad_()
    value = gf.gaussianity_loss(x, seed=3)
    (kept,) = torch.autograd.grad(value, x, retain_graph=True)
    copy = kept.clone()
    value.backward()
    x.grad.zero_()
    again = gf.gaussianity_loss(x, seed=3)
    again.backward()
    assert torch.equal(kept, copy)
    assert torch.equal(x.grad, copy)


def test_tensors_that_leaked_from_a_transform(call):
    leaked = []
    x = wide_noise(2, 64)
    torch.func.grad(lambda z: (leaked.append(z), z.sum())[1])(x)
    assert torch.equal(call(leaked[0]), call(x))
    if call not in (CALLS["statistics"], CALLS["covariance"], CALLS["prno"]):
        with torch.no_grad():
            assert torch.equal(call(leaked[0]), call(x))


def test_compiled_autograd_of_an_eager_loss(call):
    torch.compiler.reset()
    x = wide_noise(2, 64).requires_grad_()
    value = call(x)
    with torch._dynamo.config.patch(compiled_autograd=True):
        torch.compile(lambda: value.backward(), backend="aot_eager")()
    torch.testing.assert_close(x.grad, gradient(call, x))


def test_hooks_and_inner_tensors(call):
    """Inputs that are results of other operations, hooks on them, and several uses of one."""
    w = wide_noise(2, 64, dtype=torch.float64).requires_grad_()
    x = torch.tanh(w) * 3
    seen = []
    x.register_hook(lambda g: seen.append(g.clone()) or 10 * g)
    (call(x) + 2 * call(x)).backward()
    grad = gradient(call, torch.tanh(w) * 3)
    torch.testing.assert_close(seen[0], 3 * grad)
    torch.testing.assert_close(w.grad, 30 * grad * 3 * (1 - torch.tanh(w.detach()) ** 2))


def test_parameters_and_optimisers(call):
    x = torch.nn.Parameter(wide_noise(2, 64))
    before = call(x).item()
    optimiser = torch.optim.Adam([x], lr=1e-2)
    for _ in range(20):
        optimiser.zero_grad()
        call(x).backward()
        optimiser.step()
    assert call(x).item() < before


def test_unused_outputs_of_statistics():
    x = wide_noise(2, 64, dtype=torch.float64)
    for output in (0, 1):
        z = x.clone().requires_grad_()
        gf.permuted_statistics(z, orders=(1, 4), seed=3)[output].sum().backward()
        both = x.clone().requires_grad_()
        m, a = gf.permuted_statistics(both, orders=(1, 4), seed=3)
        ((m, a)[output].sum() + 0 * (m, a)[1 - output].sum()).backward()
        torch.testing.assert_close(z.grad, both.grad)
        assert z.grad.abs().sum() > 0
