"""Guards of the loop: values and gradients, and settings that are refused."""

import math

import pytest
import torch
from toy_latents import SHAPE, ToyModel, problem, samples

import gaussreg_fast
from gaussreg_fast.errors import InputError
from gaussreg_fast.latent.guards import Guard
from gaussreg_fast.latent.loop import Batch

BACKEND = "native" if gaussreg_fast.backends()["native"] == "available" else "torch"


@pytest.mark.parametrize("name", ["norm", "kl", "kurtosis", "prno", "mpgr"])
def test_guards_are_the_public_losses(name):
    functions = {"norm": "norm_loss", "kl": "kl_loss", "kurtosis": "kurtosis_loss",
                 "prno": "prno_loss", "mpgr": "gaussianity_loss"}  # fmt: skip
    x = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(1), requires_grad=True)
    random = {"seed": 5} if name in ("prno", "mpgr") else {}
    loss = getattr(gaussreg_fast, functions[name])(x, reduction="none", **random)
    (gradient,) = torch.autograd.grad(loss.sum(), x)
    value, ours = Guard(name).loss_and_gradient(x.detach(), 5)
    torch.testing.assert_close(value, loss.detach())
    torch.testing.assert_close(ours, gradient)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"name": "mpgrr"}, "none, norm, kl, kurtosis, prno, mpgr, projection, got 'mpgrr'"),
        ({"name": "mpgr", "weight": -1.0}, "weight must be finite"),
        ({"name": "mpgr", "weight": math.nan}, "weight must be finite"),
        (
            {"name": "mpgr", "project": "gradient"},
            "project must be 'gradient' or 'both' for the guard 'projection'",
        ),
        ({"name": "projection"}, "must be 'gradient' or 'both'"),
        ({"name": "projection", "project": "latent"}, "none, gradient, both, got 'latent'"),
        (
            {"name": "kl", "options": {"orders": (1,)}},
            "options of 'kl' may hold backend, got 'orders'",
        ),
        ({"name": "mpgr", "options": {"power_weight": math.nan}}, "guard.options: power_weight"),
        ({"name": "mpgr", "options": {"orders": "abc"}}, "guard.options: orders"),
        ({"name": "mpgr", "options": {"backend": "cuda9"}}, "guard.options: .*cuda9"),
        ({"name": "prno", "options": {"shuffles": "x"}}, "guard.options: shuffles"),
    ],
)
def test_guards_that_are_none(settings, said):
    with pytest.raises(InputError, match=said):
        Guard(**settings)


class Sized(ToyModel):
    """A toy model whose latents have another size; none of these tests makes an image."""

    def __init__(self, *shape):
        super().__init__()
        self.latent_shape = shape


@pytest.mark.parametrize(
    ("guard", "fits", "does_not", "said"),
    [
        (Guard("mpgr", options={"block_size": 4096}), (4, 64, 64), (4, 32, 32), "8192 numbers"),
        (Guard("mpgr"), (4, 4, 2), (3, 3, 3), "at least 2"),
        (Guard("prno", options={"factor": 3, "shuffles": 2}), (3, 64, 64), (4, 64, 64), "16384"),
        (Guard("prno"), (4, 5, 5), (3, 5, 5), "factor must divide .* 75, got 4"),
        (Guard("projection", project="gradient"), (4, 8, 8), (3, 5, 5), "multiple of 2"),
        (Guard("projection", project="both"), (4, 8, 8), (3, 5, 5), "multiple of 2"),
        (
            Guard("mpgr", options={"permutation": torch.arange(8192)}),
            (2, 64, 64), (4, 64, 64), "permutation must have shape",
        ),
    ],
    ids=str,
)  # fmt: skip
def test_options_are_tried_on_the_latents_of_the_model(guard, fits, does_not, said):
    problem(model=Sized(*fits), guard=guard)
    with pytest.raises(InputError, match=rf"guard '{guard.name}' cannot take latents.*{said}"):
        problem(model=Sized(*does_not), guard=guard)


def test_a_factor_of_three_guards_a_model_whose_latents_it_divides():
    class RGB(ToyModel):
        latent_shape = (3, 8, 8)

        def generate(self, latents, conditioning, *, seeds):
            return torch.sigmoid(latents)

    guard = Guard("prno", options={"factor": 3, "shuffles": 2})
    batch = Batch(problem(model=RGB(), guard=guard, iterations=1), samples(2))
    record = batch.step()
    want = gaussreg_fast.prno_loss(
        batch.start, factor=3, shuffles=2, seed=0, reduction="none"
    ).double()
    torch.testing.assert_close(record.values["guard"], want)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_memory_that_runs_out_while_options_are_tried_is_not_their_fault(monkeypatch, error):
    def fails(*args, **kwargs):
        raise error

    guard = Guard("mpgr")
    monkeypatch.setattr(Guard, "loss_and_gradient", fails)
    with pytest.raises(type(error)) as raised:
        guard.check(torch.zeros(1, 4, 8, 8))
    assert raised.value is error


def test_trying_options_computes_nothing_and_draws_nothing():
    before = torch.get_rng_state()
    problem(model=Sized(16, 2048, 2048), guard=Guard("mpgr"))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", ["mpgr", "prno", "kl"])
def test_options_are_tried_alike_whatever_torchs_defaults(name):
    options = {} if name == "prno" else {"backend": BACKEND}
    guard = Guard(name, options=options)
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        with torch.device("meta"):
            problem(model=Sized(4, 8, 8), guard=guard)
    finally:
        torch.set_default_dtype(before)
    with torch.inference_mode():
        problem(model=Sized(4, 8, 8), guard=guard)
