"""Optimisers whose gradients are projected: `WhiteNoiseProjection`."""

import copy
import io
import math
import warnings

import pytest
import torch
from draws import leaf, noise

import gaussreg_fast as gf

SHAPE = (3, 4, 8, 8)


def projected(grad):
    return gf.project_white_noise(grad)


OPTIMISERS = {
    "sgd": lambda ps: torch.optim.SGD(ps, lr=0.1),
    "nesterov": lambda ps: torch.optim.SGD(
        ps, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01
    ),
    "adam": lambda ps: torch.optim.Adam(ps, lr=0.1),
    "adam foreach": lambda ps: torch.optim.Adam(ps, lr=0.1, foreach=True),
    "adamw fused": lambda ps: torch.optim.AdamW(ps, lr=0.1, fused=True),
    "maximise": lambda ps: torch.optim.SGD(ps, lr=0.1, maximize=True),
    "rmsprop": lambda ps: torch.optim.RMSprop(ps, lr=0.1),
}


@pytest.fixture(params=OPTIMISERS)
def make(request):
    return OPTIMISERS[request.param]


# ---------------------------------------------------------------- steps


def test_steps_are_those_of_the_optimiser_with_projected_gradients(make):
    """Beside another parameter, over some steps; `.grad` is left as backward made it."""
    x, other = leaf(*SHAPE), leaf(5, seed=1)
    y, beside = (t.detach().clone().requires_grad_() for t in (x, other))
    optimizer, plain = gf.WhiteNoiseProjection(make([x, other]), [x]), make([y, beside])
    for step in range(3):
        grad, rest = noise(*SHAPE, seed=10 + step), noise(5, seed=20 + step)
        x.grad, other.grad = grad.clone(), rest.clone()
        before = x.grad
        assert optimizer.step() is None
        assert x.grad is before
        assert torch.equal(x.grad, grad)
        y.grad, beside.grad = projected(grad), rest
        plain.step()
        assert torch.equal(x, y)
        assert torch.equal(other, beside)


def test_sgd_moves_by_the_projected_gradient():
    x = leaf(*SHAPE)
    start, grad = x.detach().clone(), 1e-3 * noise(*SHAPE, seed=1) ** 3
    x.grad = grad.clone()
    gf.WhiteNoiseProjection(torch.optim.SGD([x], lr=0.5), [x]).step()
    moved = (start - x.detach()) / 0.5
    torch.testing.assert_close(moved, projected(grad), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        moved.flatten(1).norm(dim=1), torch.full((3,), 16.0), rtol=1e-4, atol=0
    )  # fmt: skip  (sqrt(D) = 16, however small the gradient)


def test_gradients_accumulate_as_without_it():
    x = leaf(2, 64)
    optimizer = gf.WhiteNoiseProjection(torch.optim.SGD([x], lr=0.0), [x])
    for _ in range(3):
        (2 * x).sum().backward()
        optimizer.step()
    assert torch.equal(x.grad, torch.full_like(x, 6.0))
    optimizer.zero_grad(set_to_none=False)
    assert x.grad.eq(0).all()
    optimizer.zero_grad()
    assert x.grad is None


def test_zero_and_bad_gradients_concern_their_own_sample():
    x = leaf(4, 64)
    start = x.detach().clone()
    x.grad = noise(4, 64, seed=1)
    x.grad[1] = 0
    x.grad[2, 3] = math.nan
    want = projected(x.grad)
    gf.WhiteNoiseProjection(torch.optim.SGD([x], lr=1.0), [x]).step()
    assert torch.equal(x[1], start[1])
    assert x[2].isnan().any()
    torch.testing.assert_close(start[::3] - x[::3], want[::3], rtol=1e-4, atol=1e-5)


def test_what_has_no_gradient_is_left_alone():
    x, y = leaf(2, 64), leaf(2, 64, seed=1)
    start = x.detach().clone()
    optimizer = gf.WhiteNoiseProjection(torch.optim.Adam([x, y]), [x, y], project="both")
    y.grad = noise(2, 64)
    optimizer.step()
    assert torch.equal(x, start)
    assert x.grad is None


def test_both_projects_the_parameters_after_the_step(make):
    x = leaf(*SHAPE)
    address = x.data_ptr()
    y = x.detach().clone().requires_grad_()
    x.grad = noise(*SHAPE, seed=1)
    y.grad = x.grad.clone()
    gf.WhiteNoiseProjection(make([x]), [x], project="both").step()
    gf.WhiteNoiseProjection(make([y]), [y]).step()
    assert torch.equal(x, projected(y.detach()))
    assert x.data_ptr() == address
    assert x.is_leaf
    assert x.requires_grad


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_dtypes(dtype):
    x = noise(2, 64).to(dtype).requires_grad_()
    start = x.detach().clone()
    x.grad = noise(2, 64, seed=1).to(dtype)
    gf.WhiteNoiseProjection(torch.optim.SGD([x], lr=1.0), [x]).step()
    want = start - projected(x.grad)
    torch.testing.assert_close(x.detach(), want)


@pytest.mark.parametrize("fused", [False, True])
def test_layouts_of_memory(fused):
    """A fused optimiser reads a gradient as its parameter lies in memory."""
    x = noise(2, 4, 8, 8).contiguous(memory_format=torch.channels_last).requires_grad_()
    y = x.detach().contiguous().requires_grad_()
    for p in (x, y):
        (p * noise(2, 4, 8, 8, seed=1)).sum().backward()
        gf.WhiteNoiseProjection(torch.optim.Adam([p], lr=0.1, fused=fused), [p]).step()
    torch.testing.assert_close(x.detach(), y.detach())


def test_options_reach_the_projection():
    x = leaf(2, 64)
    x.grad = noise(2, 64, seed=1) ** 3
    start = x.detach().clone()
    adam = torch.optim.SGD([x], lr=1.0)
    gf.WhiteNoiseProjection(adam, [x], block_size=8, backend="torch").step()
    want = gf.project_white_noise(x.grad, block_size=8, backend="torch")
    torch.testing.assert_close(start - x.detach(), want, rtol=1e-4, atol=1e-5)


def test_two_wrappers_with_blocks_of_their_own():
    x, y = leaf(2, 64), leaf(2, 32, seed=1)
    starts = [t.detach().clone() for t in (x, y)]
    inner = gf.WhiteNoiseProjection(torch.optim.SGD([x, y], lr=1.0), [x], block_size=16)
    optimizer = gf.WhiteNoiseProjection(inner, [y], block_size=4)
    for t in (x, y):
        t.grad = noise(*t.shape, seed=3)
    optimizer.step()
    for t, start, size in zip((x, y), starts, (16, 4), strict=True):
        want = gf.project_white_noise(t.grad, block_size=size)
        torch.testing.assert_close(start - t.detach(), want, rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------- closures


def test_a_closure_is_called_with_gradients_as_they_are(make):
    x, y = leaf(2, 64), leaf(2, 64)
    target = noise(2, 64, seed=1)
    optimizer, plain = gf.WhiteNoiseProjection(make([x]), [x]), make([y])
    for _ in range(3):
        seen = []

        def closure(seen=seen):
            optimizer.zero_grad(set_to_none=False)
            loss = (x - target).square().sum()
            loss.backward()
            seen.append(x.grad.clone())
            return loss

        loss = optimizer.step(closure)
        y.grad = projected(2 * (y.detach() - target))
        plain.step()
        assert loss.requires_grad
        assert torch.equal(x.grad, seen[0])  # and not a projection
        torch.testing.assert_close(x, y)


class Twice(torch.optim.Optimizer):
    """Half a step by the gradient that is there, half by that of the closure: as SAM does."""

    def __init__(self, params):
        super().__init__(params, {})
        self.seen = []

    def step(self, closure):
        for gradient in range(2):
            if gradient:
                with torch.enable_grad():
                    closure()
            (x,) = self.param_groups[0]["params"]
            self.seen.append(x.grad.clone())


def test_gradients_are_projected_before_and_after_each_closure():
    x = leaf(2, 64)
    first, second = noise(2, 64, seed=1), noise(2, 64, seed=2)
    inner = Twice([x])
    x.grad = first.clone()

    def closure():
        assert torch.equal(x.grad, first)
        x.grad = second.clone()

    gf.WhiteNoiseProjection(inner, [x]).step(closure)
    assert torch.equal(inner.seen[0], projected(first))
    assert torch.equal(inner.seen[1], projected(second))
    assert torch.equal(x.grad, second)


def test_gradients_are_put_back_when_a_step_fails():
    x = leaf(2, 64)
    x.grad = noise(2, 64)
    before = x.grad

    class Broken(torch.optim.SGD):
        def step(self, closure=None):
            assert x.grad is not before
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        gf.WhiteNoiseProjection(Broken([x], lr=0.1), [x]).step()
    assert x.grad is before


# ---------------------------------------------------------------- what works with optimisers


def test_learning_rate_schedulers():
    x = leaf(2, 64)
    inner = torch.optim.SGD([x], lr=1.0)
    optimizer = gf.WhiteNoiseProjection(inner, [x])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.1)
        for rate in (1.0, 0.1, 0.01):
            start = x.detach().clone()
            x.grad = noise(2, 64, seed=1)
            optimizer.step()
            scheduler.step()
            want = rate * projected(x.grad)
            torch.testing.assert_close(start - x.detach(), want, rtol=1e-3, atol=1e-5)
    assert inner.param_groups[0]["lr"] == pytest.approx(0.001)
    torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
    assert copy.deepcopy(optimizer).param_groups[0]["lr"] == pytest.approx(0.001)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("unscale", [False, True])
def test_grad_scaler(fused, unscale):
    """Scaled gradients are unscaled before the projection, and bad ones skip the step."""
    x, y = leaf(2, 64), leaf(2, 64)
    optimizer = gf.WhiteNoiseProjection(torch.optim.Adam([x], lr=0.1, fused=fused), [x])
    plain = torch.optim.Adam([y], lr=0.1, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=100)
    weights = noise(2, 64, seed=1)
    for _ in range(2):
        optimizer.zero_grad()
        scaler.scale((x * weights).sum()).backward()
        if unscale:
            scaler.unscale_(optimizer)
            torch.testing.assert_close(x.grad, weights)
        scaler.step(optimizer)
        scaler.update()
        y.grad = projected(weights)
        plain.step()
        torch.testing.assert_close(x, y)
    before = x.detach().clone()
    optimizer.zero_grad()
    scaler.scale((x * math.inf).sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert torch.equal(x, before)
    assert scaler.get_scale() == 512


def test_state_groups_and_checkpoints_are_those_of_the_wrapped_one():
    x, y = leaf(2, 64), leaf(3, seed=1)
    inner = torch.optim.Adam([x], lr=0.1)
    optimizer = gf.WhiteNoiseProjection(inner, [x])
    optimizer.add_param_group({"params": [y], "lr": 0.5})
    assert optimizer.param_groups is inner.param_groups
    assert optimizer.defaults is inner.defaults
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.5]
    for t in (x, y):
        t.grad = torch.ones_like(t)
    optimizer.step()
    assert optimizer.state is inner.state
    assert len(optimizer.state) == 2
    saved = copy.deepcopy(optimizer.state_dict())

    def again():
        a, b = x.detach().clone().requires_grad_(), y.detach().clone().requires_grad_()
        plain = torch.optim.Adam([{"params": [a]}, {"params": [b], "lr": 0.5}], lr=0.2)
        return a, b, plain

    a, b, plain = again()
    wrapped = gf.WhiteNoiseProjection(plain, [a])
    wrapped.load_state_dict(saved)
    assert wrapped.param_groups[0]["lr"] == 0.1
    assert wrapped.param_groups is plain.param_groups
    for one, theirs in ((optimizer, (x, y)), (wrapped, (a, b))):
        for t in theirs:
            t.grad = noise(*t.shape, seed=4)
        one.step()
    assert torch.equal(a, x)
    assert torch.equal(b, y)
    again()[2].load_state_dict(saved)  # without the wrapper


def test_copies_and_files():
    x = leaf(2, 64)
    optimizer = gf.WhiteNoiseProjection(torch.optim.Adam([x], lr=0.1), [x], "both", block_size=8)
    torch.optim.lr_scheduler.StepLR(optimizer, 1)
    file = io.BytesIO()
    torch.save(optimizer, file)
    file.seek(0)
    for twin in (copy.deepcopy(optimizer), torch.load(file, weights_only=False)):
        (z,) = twin.params
        assert z is twin.param_groups[0]["params"][0]
        assert z is not x
        x.grad, z.grad = noise(2, 64, seed=1), noise(2, 64, seed=1)
        expected = copy.deepcopy(x)
        expected.grad = x.grad.clone()
        gf.WhiteNoiseProjection(
            torch.optim.Adam([expected], lr=0.1), [expected], "both", block_size=8
        ).step()
        twin.step()
        assert torch.equal(z, expected)
    assert "Adam" in repr(optimizer)
    assert "both" in repr(optimizer)


def test_hooks_see_projected_gradients():
    x = leaf(2, 64)
    optimizer = gf.WhiteNoiseProjection(torch.optim.SGD([x], lr=0.1), [x])
    seen = []
    optimizer.register_step_pre_hook(lambda *_: seen.append(x.grad.clone()))
    x.grad = noise(2, 64, seed=1)
    optimizer.step()
    assert len(seen) == 1
    assert torch.equal(seen[0], projected(x.grad))


def test_attributes_of_the_wrapped_one():
    x = leaf(2, 64)
    inner = Twice([x])
    optimizer = gf.WhiteNoiseProjection(inner, [x])
    assert optimizer.seen is inner.seen
    with pytest.raises(AttributeError, match="unknown"):
        _ = optimizer.unknown
