"""`DriftDecay` and `WhiteNoiseProjection` of optimisers inside wrappers, which leave steps out."""

import copy
import math

import pytest
import torch
from draws import noise
from torch.optim import Optimizer

import gaussreg_fast as gf

SHAPE = (2, 64)
WEIGHT = 0.7


class Wrapper(Optimizer):
    """An optimiser around another, which steps only if `ready`, perhaps through a scaler.

    Like accelerate's it is an Optimizer whose constructor does not call that of Optimizer.
    """

    def __init__(self, optimizer, scaler=None):
        self.optimizer, self.scaler, self.ready = optimizer, scaler, True

    param_groups = property(lambda self: self.optimizer.param_groups)
    state = property(lambda self: self.optimizer.state)
    defaults = property(lambda self: self.optimizer.defaults)

    def zero_grad(self, set_to_none=True):
        if self.ready:
            self.optimizer.zero_grad(set_to_none)

    def step(self, closure=None):
        if self.ready and self.scaler is None:
            self.optimizer.step(closure)
        elif self.ready:
            self.scaler.step(self.optimizer, closure)
            self.scaler.update()


def accelerated(optimizer, scaler=None):
    """Returns accelerate's wrapper, whose `ready` is that of its gradients' state."""
    accelerate = pytest.importorskip("accelerate")
    accelerate.Accelerator(cpu=True)  # its optimisers need that there has been one

    class Accelerated(accelerate.optimizer.AcceleratedOptimizer):
        @property
        def ready(self):
            return self.gradient_state.sync_gradients

        @ready.setter
        def ready(self, value):
            self.gradient_state._set_sync_gradients(value)

    wrapped = Accelerated(optimizer, scaler=scaler)
    wrapped.ready = True
    return wrapped


@pytest.fixture(params=[Wrapper, accelerated], ids=["stand-in", "accelerate"])
def wrap(request):
    return request.param


def new_scaler():
    return torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=100)


def assert_same_steps(count, scaler, scaled, plain):
    """Makes steps of a leaf and its optimiser through the scaler, and of others without it."""
    (x, outer), (y, optimizer) = scaled, plain
    for step in range(count):
        outer.zero_grad()
        scaler.scale((x * gradient(step)).sum()).backward()
        outer.step()
        y.grad = gradient(step)
        optimizer.step()
        torch.testing.assert_close(x.detach(), y.detach(), rtol=1e-4, atol=1e-5)


KINDS = {
    "sgd": lambda ps: torch.optim.SGD(ps, lr=0.1),
    "adamw": lambda ps: torch.optim.AdamW(ps, lr=0.1),
    "fused": lambda ps: torch.optim.AdamW(ps, lr=0.1, fused=True),
}


@pytest.fixture(params=KINDS)
def make(request):
    return KINDS[request.param]


def leaf():
    return noise(*SHAPE).requires_grad_()


def decay_of(x):
    """Returns what a decay is made of: the parameter, its base and options."""
    return [x], [torch.zeros(SHAPE)], {"weight": WEIGHT}


def gradient(step):
    return noise(*SHAPE, seed=10 + step)


# ---------------------------------------------------------------- decay


def test_decay_happens_at_real_steps_only(wrap, make):
    """While gradients accumulate nothing moves; then a step is one of the optimiser by itself."""
    x, y = leaf(), leaf()
    wrapped, plain = wrap(make([x])), make([y])
    params, base, options = decay_of(x)
    decay = gf.DriftDecay(wrapped, params, base, **options)
    gf.DriftDecay(plain, [y], base, **options)
    for step in range(6):
        wrapped.ready = step % 3 == 2
        before = x.detach().clone()
        x.grad = gradient(step)
        wrapped.step()
        assert torch.equal(x, before) != wrapped.ready
        if wrapped.ready:
            y.grad = gradient(step)
            plain.step()
            assert torch.equal(x, y)
    decay.remove()
    x.grad, y.grad = gradient(9), gradient(9)
    wrapped.step()
    plain.step()
    assert not torch.equal(x, y)


@pytest.mark.parametrize("wrapped", [False, True])
def test_decay_is_skipped_with_the_step_after_an_overflow(wrap, make, wrapped):
    """Also for fused optimisers, whose `step` a scaler calls although it is to change nothing."""
    x, scaler = leaf(), new_scaler()
    optimizer = make([x])
    outer = wrap(optimizer, scaler) if wrapped else optimizer
    params, base, options = decay_of(x)
    gf.DriftDecay(outer, params, base, **options)

    def step(factor):
        outer.zero_grad()
        scaler.scale((x * factor).sum()).backward()
        if wrapped:
            outer.step()
        else:
            scaler.step(outer)
            scaler.update()

    before = x.detach().clone()
    step(math.inf)
    assert torch.equal(x, before)
    step(0.0)  # SGD does not move, and AdamW's own decay is small
    rate = math.exp(-2 * 0.1 * WEIGHT)
    torch.testing.assert_close(x.detach(), before * rate, rtol=2e-3, atol=0)


def test_decay_of_an_optimiser_that_is_projected_and_wrapped(wrap, make):
    x, y = leaf(), leaf()
    params, base, options = decay_of(x)
    outer = gf.WhiteNoiseProjection(wrap(make([x])), [x])
    gf.DriftDecay(outer, params, base, **options)
    plain = make([y])
    gf.DriftDecay(plain, [y], base, **options)
    x.grad, y.grad = gradient(0), gf.project_white_noise(gradient(0))
    outer.step()
    plain.step()
    assert torch.equal(x, y)


class WithoutHooks(Optimizer):
    def __init__(self, params):
        self.param_groups = [{"params": params, "lr": 0.1}]


def test_decay_refuses_an_optimiser_without_hooks():
    x = leaf()
    with pytest.raises(TypeError, match="optimizer must have step hooks, got WithoutHooks without"):
        gf.DriftDecay(WithoutHooks([x]), [x], [torch.zeros(SHAPE)])


# ---------------------------------------------------------------- projection


@pytest.mark.parametrize("project", ["gradient", "both"])
def test_projection_happens_at_real_steps_only(wrap, make, project):
    x, y = leaf(), leaf()
    inner = wrap(make([x]))
    outer = gf.WhiteNoiseProjection(inner, [x], project)
    plain = gf.WhiteNoiseProjection(make([y]), [y], project)
    for step in range(6):
        inner.ready = step % 3 == 2
        before, x.grad = x.detach().clone(), gradient(step)
        kept = x.grad
        outer.step()
        assert x.grad is kept
        assert torch.equal(x.grad, gradient(step))
        assert torch.equal(x, before) != inner.ready
        if inner.ready:
            y.grad = gradient(step)
            plain.step()
            assert torch.equal(x, y)


@pytest.mark.parametrize("project", ["gradient", "both"])
def test_projection_inside_of_a_scaler(wrap, make, project):
    """The scaler is the wrapper's: gradients are unscaled, then projected; a fused step too."""
    x, y, scaler = leaf(), leaf(), new_scaler()
    outer = gf.WhiteNoiseProjection(wrap(make([x]), scaler), [x], project)
    plain = gf.WhiteNoiseProjection(make([y]), [y], project)
    assert_same_steps(3, scaler, (x, outer), (y, plain))
    before = x.detach().clone()
    outer.zero_grad()
    scaler.scale((x * math.inf).sum()).backward()
    outer.step()
    assert torch.equal(x, before)


def test_a_projection_may_be_wrapped_in_turn(wrap, make):
    x, y, scaler = leaf(), leaf(), new_scaler()
    outer = wrap(gf.WhiteNoiseProjection(make([x]), [x]), scaler)
    plain = gf.WhiteNoiseProjection(make([y]), [y])
    assert_same_steps(2, scaler, (x, outer), (y, plain))


def test_closures_pass_through_wrappers(wrap, make):
    x, y = leaf(), leaf()
    outer = gf.WhiteNoiseProjection(wrap(make([x])), [x])
    plain = gf.WhiteNoiseProjection(make([y]), [y])
    for p, optimizer in ((x, outer), (y, plain)):

        def closure(p=p):
            p.grad = gradient(0)
            return p.sum()

        optimizer.step(closure)
        assert torch.equal(p.grad, gradient(0))
    assert torch.equal(x, y)


def test_each_step_of_a_wrapper_that_makes_several_is_projected(make):
    class Twice(Wrapper):
        def step(self, closure=None):
            for step in range(2):
                x.grad = gradient(step)
                self.optimizer.step()

    x, y = leaf(), leaf()
    gf.WhiteNoiseProjection(Twice(make([x])), [x]).step()
    plain = make([y])
    for step in range(2):
        y.grad = gf.project_white_noise(gradient(step))
        plain.step()
    assert torch.equal(x, y)
    assert torch.equal(x.grad, gradient(1))


def test_gradients_are_put_back_when_a_wrapped_step_fails(wrap):
    x = leaf()

    class Broken(torch.optim.SGD):
        def step(self, closure=None):
            raise RuntimeError("broken")

    inner = Broken([x], lr=0.1)
    outer = gf.WhiteNoiseProjection(wrap(inner), [x])
    x.grad = kept = gradient(0)
    with pytest.raises(RuntimeError, match="broken"):
        outer.step()
    assert x.grad is kept
    assert not inner._optimizer_step_pre_hooks
    assert not inner._optimizer_step_post_hooks


def test_a_wrapped_lbfgs_is_refused(wrap):
    x = leaf()
    with pytest.raises(TypeError, match="LBFGS"):
        gf.WhiteNoiseProjection(wrap(torch.optim.LBFGS([x])), [x])


# ---------------------------------------------------------------- replaced parameters


def test_parameters_that_were_replaced_are_reported(make):
    """As `Accelerator.prepare` does with FSDP2: they would be left without decay or projection."""
    x = leaf()
    for watch in (
        lambda optimizer: gf.DriftDecay(optimizer, *decay_of(x)[:2]) and optimizer,
        lambda optimizer: gf.WhiteNoiseProjection(optimizer, [x]),
    ):
        optimizer = make([x])
        watched = watch(optimizer)
        replaced = copy.deepcopy(x)
        replaced.grad = gradient(0)
        optimizer.param_groups[0]["params"] = [replaced]
        with pytest.raises(RuntimeError, match=r"params\[0\] is no longer a parameter of the opt"):
            watched.step()
