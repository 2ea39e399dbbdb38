"""The check of a loss's arguments."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from gaussreg_fast import checks, reference
from gaussreg_fast.backends import require
from gaussreg_fast.functional._common import Seed, check_draw
from gaussreg_fast.spec import NONE, Draw, LossSpec


def _check_options(
    form: str,
    power_weight: float,
    block_size: int,
    target: str,
    statistic: str,
    reduction: str,
    backend: str,
    precision: str,
    moments: bool,
    *orders: int,
) -> LossSpec:
    """Check the options, which do not depend on x; without `moments`, orders are ignored."""
    orders = tuple(checks.orders(orders)) if moments else ()
    block_size = checks.spectrum(block_size, statistic, target)
    checks.one_of("form", form, checks.FORMS)
    checks.one_of("reduction", reduction, checks.REDUCTIONS)
    checks.one_of("backend", backend, checks.BACKENDS)
    checks.one_of("precision", precision, checks.PRECISIONS)
    power_weight = checks.weight("power_weight", power_weight)
    mu = reference.block_target(target, statistic)
    return LossSpec(orders, form, power_weight, block_size, mu, statistic, reduction)


# typed: orders=(True,) must not be answered from orders=(1,).
_check_options_once = functools.lru_cache(maxsize=64, typed=True)(_check_options)


def check_loss(
    x: Tensor,
    seed: Seed,
    moments: bool,
    orders: Sequence[int] | None,
    power_weight: float,
    form: str,
    block_size: int,
    target: str,
    statistic: str,
    permutation: str | Tensor,
    generator: torch.Generator | None,
    reduction: str,
    backend: str,
    precision: str,
) -> tuple[Draw, LossSpec]:
    """Check the arguments of a loss, and return its permutation and its options."""
    dimension = checks.latents(x)
    if type(orders) is not tuple:
        orders = tuple(checks.orders(orders)) if moments else ()
    key = (
        form, power_weight, block_size, target, statistic, reduction, backend, precision, moments,
        *orders,
    )  # fmt: skip
    try:
        spec = _check_options(*key) if torch.compiler.is_compiling() else _check_options_once(*key)
    except TypeError:  # an option that cannot be hashed: the check says which
        spec = _check_options(*key)
    require(backend, x)
    draw = check_draw(permutation, seed, generator, x, dimension)
    if spec.power_weight:
        checks.long_enough(dimension, spec.block_size)
    else:
        draw = NONE
    return draw, spec
