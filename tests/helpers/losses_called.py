"""Losses called in every way that torch's machinery is tested with, and their gradients."""

import functools

import draws

import gaussreg_fast as gf


def with_gradient(loss, x, **options):
    """Returns a loss of x, and the gradient of its sum."""
    z = x.detach().clone().requires_grad_()
    value = loss(z, **options)
    value.sum().backward()
    return value.detach(), z.grad


def gradient(loss, x, **options):
    """Returns the gradient of a loss of x, summed, alone."""
    return with_gradient(loss, x, **options)[1]


def _from_statistics(x, reduction="mean"):
    """Returns a loss that a caller builds on the differentiable statistics."""
    m, a = gf.permuted_statistics(x, orders=(1, 4), seed=3)
    each = m.square().sum(-1) + (a - 1).square().mean(-1) * m[:, 1]
    return each if reduction == "none" else each.mean()


CALLS = {
    "gaussianity": functools.partial(gf.gaussianity_loss, seed=3, orders=(1, 2, 3)),
    "per_sample": functools.partial(gf.gaussianity_loss, seed=3, permutation="per_sample"),
    "power": functools.partial(gf.power_spectrum_loss, seed=3, statistic="power"),
    "kl": gf.kl_loss,
    "statistics": _from_statistics,
    "covariance": functools.partial(gf.covariance_loss, seed=3, permutation="shared"),
    "prno": functools.partial(gf.prno_loss, seed=3, shuffles=3),
}
FUSED = [name for name in CALLS if name != "prno"]
# No loss of it is near its minimum, where digits cancel.
wide_noise = functools.partial(draws.noise, scale=1.4)
