"""Parameter drift: how lists are given, and what autograd and transforms make of them."""

import numpy as np
import pytest
import torch
from drift_lists import expected, model, tensors

import gaussreg_fast as gf

# ---------------------------------------------------------------- how lists are given


def test_forms_of_lists():
    a, b = model(0), model(1).requires_grad_(False)
    want = expected(list(a.parameters()), list(b.parameters()), 1, "sum")[0]
    named = dict(b.named_parameters())
    shuffled = dict(reversed(named.items()))
    for params in (a, dict(a.named_parameters()), a.named_parameters()):
        for base in (b, named, shuffled, b.named_parameters(), b.parameters(), b.state_dict()):
            params = list(params) if not isinstance(params, (dict, torch.nn.Module)) else params
            assert gf.parameter_drift(params, base).item() == pytest.approx(want, rel=1e-6)
    assert gf.parameter_drift(a.parameters(), tuple(named.values())).item() == pytest.approx(want)


def test_only_what_requires_grad_gets_one():
    params, base = tensors("auto", [(5,), (6,), (7,)])
    params[1].requires_grad_(False)
    want = expected(params, base, 1, "sum")[0]
    for call in (
        lambda: gf.parameter_drift(params, base).backward(),
        lambda: gf.accumulate_parameter_drift(params, base),
    ):
        call()
        assert params[1].grad is None
    assert params[0].grad is not None
    assert gf.accumulate_parameter_drift(params, base).item() == pytest.approx(want, rel=1e-6)
    frozen = [p.detach() for p in params]
    assert not gf.parameter_drift(frozen, base).requires_grad


def test_gradient_of_intermediate_tensors():
    """Parameters need not be leaves: they may be what a network makes of others."""
    z = torch.randn(6, requires_grad=True)
    gf.parameter_drift([2 * z, z[1:3] ** 2], [torch.zeros(6), torch.ones(2)]).backward()
    w = z.detach().clone().requires_grad_()
    ((2 * w).square().sum() + (w[1:3] ** 2 - 1).square().sum()).backward()
    torch.testing.assert_close(z.grad, w.grad)


@pytest.mark.parametrize(
    "call",
    [gf.parameter_drift, gf.parameter_drift_value_and_grad, gf.accumulate_parameter_drift,
     lambda p, b: gf.parameter_drift_decay_(p, b, rate=0.1)],
)  # fmt: skip
def test_a_base_that_is_the_model_itself_is_refused(call):
    """It would follow the model, and the drift stay 0."""
    model = torch.nn.Linear(3, 2)
    for base in (model.state_dict(), [p.detach() for p in model.parameters()]):
        with pytest.raises(ValueError, match=r"base must be a copy.*params\[0\], 'weight'"):
            call(model, base)
    copies = [p.detach().clone() for p in model.parameters()]
    call(model, copies)
    model.weight.requires_grad_(False)  # what is not trained may be shared
    call(model, [model.weight.detach(), copies[1]])


# ---------------------------------------------------------------- autograd and transforms


def test_no_double_backward():
    params, base = tensors("auto", [(5,), (6,)])
    value = gf.parameter_drift(params, base)
    grads = torch.autograd.grad(value**2, params, create_graph=True)
    with pytest.raises(RuntimeError, match="double backward"):
        grads[0].sum().backward()


def test_a_parameter_changed_before_backward_is_noticed():
    for change in (
        lambda p, b: p.data.add_(0) if False else p.detach().add_(1),
        lambda p, b: b.add_(1),
        lambda p, b: gf.parameter_drift_decay_([p], [b], rate=0.1),
    ):
        params, base = tensors("auto", [(5,), (6,)])
        value = gf.parameter_drift(params, base)
        change(params[0], base[0])
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            value.backward()


def test_a_parameter_that_was_replaced_before_backward_is_safe():
    params, base = tensors("auto", [(5000,)])
    value = gf.parameter_drift(params, base)
    params[0].data = torch.zeros(3)
    with pytest.raises(RuntimeError):
        value.backward()


def test_transforms_work_or_raise():
    params, base = tensors("auto", [(33,), (4, 5)])
    named = {"a": params[0].detach(), "b": params[1].detach()}
    other = {"b": base[1], "a": base[0]}
    grads = torch.func.grad(lambda p: gf.parameter_drift(p, other))(named)
    _, want = expected(params, base, 1, "sum")
    for g, w in zip(grads.values(), want, strict=True):
        np.testing.assert_allclose(g.numpy(), w, rtol=1e-5)
    with pytest.raises(RuntimeError):
        torch.func.jvp(lambda p: gf.parameter_drift([p], base[:1]), (params[0],), (base[0],))
    with pytest.raises(RuntimeError):
        torch.func.vmap(lambda p: gf.parameter_drift([p], [base[0][:4]]))(torch.zeros(3, 4))
    for call in (gf.parameter_drift_value_and_grad, gf.accumulate_parameter_drift):
        with pytest.raises(RuntimeError, match="in eager code"):
            torch.func.grad(lambda p, call=call: call([p], [base[0]])[0])(named["a"])
    with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = [mode.from_tensor(p.detach()) for p in params]
        assert type(gf.parameter_drift(fake, base)).__name__ == "FakeTensor"
        with pytest.raises(RuntimeError, match="in eager code"):
            gf.parameter_drift_decay_(fake, base, rate=0.1)
