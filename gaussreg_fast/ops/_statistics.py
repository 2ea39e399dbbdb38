"""Moments and block amplitudes, with a backward for arbitrary upstream gradients."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from gaussreg_fast import checks
from gaussreg_fast.backends import choose
from gaussreg_fast.ops._operator import Operator, first_order
from gaussreg_fast.ops._permutation import prepare
from gaussreg_fast.spec import Draw, StatisticsSpec, draw_from_tensors

_Args = tuple[Tensor, Draw, StatisticsSpec, str]


def _shapes(x: Tensor, spec: StatisticsSpec) -> tuple[Tensor, Tensor]:
    """Return empty tensors of the results' shapes and dtypes."""
    batch, dtype = x.shape[0], checks.result_dtype(x)
    blocks = -(-(math.prod(x.shape[1:]) // 2) // spec.block_size)
    moments = x.new_empty((batch, len(spec.orders)), dtype=dtype)
    return moments, x.new_empty((batch, blocks), dtype=dtype)


def _compute(x: Tensor, draw: Draw, spec: StatisticsSpec, backend: str) -> tuple[Tensor, Tensor]:
    kernels = choose(backend, x)
    if x.shape[0] == 0:
        return _shapes(x, spec)
    with torch.no_grad():
        return kernels.statistics(x, prepare(draw, x, backend), spec)


def _pullback(
    x: Tensor,
    grad_m: Tensor | None,
    grad_a: Tensor | None,
    draw: Draw,
    spec: StatisticsSpec,
    backend: str,
) -> Tensor:
    if x.shape[0] == 0:
        return x.new_zeros(x.shape)
    kernels = choose(backend, x)
    empty_m, empty_a = _shapes(x, spec)
    grad_m = torch.zeros_like(empty_m) if grad_m is None else grad_m
    grad_a = torch.zeros_like(empty_a) if grad_a is None else grad_a
    with torch.no_grad():
        draw = prepare(draw, x, backend)
        return kernels.pullback(x, draw, spec, grad_moments=grad_m, grad_blocks=grad_a)


def _save(ctx: Any, args: _Args, output: tuple[Tensor, Tensor]) -> None:
    x, draw, ctx.spec, ctx.backend = args
    ctx.save_for_backward(x, draw.seed, draw.table)
    ctx.per_sample = draw.per_sample
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad_m: Tensor | None, grad_a: Tensor | None) -> tuple[Tensor]:
    x, seed, index = ctx.saved_tensors
    draw = draw_from_tensors(seed, index, ctx.per_sample)
    return (first_order(_pullback_op(x, grad_m, grad_a, draw, ctx.spec, ctx.backend), x),)


def _flat_options(x: Tensor, draw: Draw, spec: StatisticsSpec, backend: str) -> tuple[Any, ...]:
    return *draw.tensors(x.device), *spec, backend


def _options(
    seed: Tensor | None,
    index: Tensor | None,
    per_sample: bool,
    orders: list[int],
    block_size: int,
    statistic: str,
    backend: str,
) -> tuple[Draw, StatisticsSpec, str]:
    spec = StatisticsSpec(tuple(orders), block_size, statistic)
    return draw_from_tensors(seed, index, per_sample), spec, backend


_OPTIONS = (
    "Tensor? seed, Tensor? index, bool per_sample, int[] orders, int block_size, str statistic, "
    "str backend"
)

_pullback_op = Operator(
    "statistics_backward",
    f"(Tensor x, Tensor? grad_m, Tensor? grad_a, {_OPTIONS}) -> Tensor",
    _pullback,
    lambda x, *rest: x.new_empty(x.shape),
    flatten=lambda x, m, a, *args: (x, m, a, *_flat_options(x, *args)),
    restore=lambda x, m, a, *options: (x, m, a, *_options(*options)),
)

_statistics_op = Operator(
    "statistics",
    f"(Tensor x, {_OPTIONS}) -> (Tensor, Tensor)",
    _compute,
    lambda x, *options: _shapes(x, _options(*options)[1]),
    backward=_backward,
    save=_save,
    flatten=lambda x, *args: (x, *_flat_options(x, *args)),
    restore=lambda x, *options: (x, *_options(*options)),
)


def statistics(x: Tensor, draw: Draw, spec: StatisticsSpec, backend: str) -> tuple[Tensor, Tensor]:
    """Return moments (B, K) and block amplitudes (B, P), differentiable."""
    # The seed is drawn here, once: backward needs the same permutation.
    return _statistics_op(x, draw_from_tensors(*draw.tensors(x.device)), spec, backend)
