"""Guards of the loop: values and gradients, and settings that are refused."""

import math

import pytest
import torch
from toy_latents import SHAPE

import gaussreg_fast
from gaussreg_fast.errors import InputError
from gaussreg_fast.latent.guards import Guard


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
