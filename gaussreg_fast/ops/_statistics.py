"""Moments and block amplitudes, with a backward for arbitrary upstream gradients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from gaussreg_fast import native, reference
from gaussreg_fast.dispatch import resolve
from gaussreg_fast.ops._draw import drawn
from gaussreg_fast.ops._permutation import index_for, native_permutation, permutation_for
from gaussreg_fast.ops._registry import (
    as_rows,
    direct,
    enter,
    first_order,
    library,
    native_takes,
    only_first,
    register,
    result_dtype,
)


def _statistics(
    x: Tensor,
    seed: Tensor | None,
    index: Tensor | None,
    per_sample: bool,
    orders: Sequence[int],
    block_size: int,
    statistic: str,
    backend: str,
    precision: str,
) -> tuple[Tensor, Tensor]:
    backend = resolve(backend, x.device, x.dtype)
    if x.shape[0] == 0:
        return _statistics_fake(x, seed, index, per_sample, orders, block_size)
    with torch.no_grad():
        if backend == "triton":
            from gaussreg_fast import launch

            return launch.statistics(
                x,
                permutation_for(seed, index, per_sample),
                orders=orders,
                block_size=block_size,
                statistic=statistic,
            )
        if native_takes(x, backend):
            return native.statistics(
                x,
                native_permutation(drawn(seed, index, per_sample)),
                orders=orders,
                block_size=block_size,
                statistic=statistic,
            )
        index = index_for(x, seed, index, per_sample, backend)
        m, a, _ = reference.permuted_statistics(as_rows(x), index, orders, block_size, statistic)
    return m, a


def _statistics_fake(
    x: Tensor, seed: Any, index: Any, per_sample: Any, orders: Any, block_size: int, *rest: Any
) -> tuple[Tensor, Tensor]:
    batch, dtype = x.shape[0], result_dtype(x)
    blocks = -(-(math.prod(x.shape[1:]) // 2) // block_size)
    return x.new_empty((batch, len(orders)), dtype=dtype), x.new_empty((batch, blocks), dtype=dtype)


_statistics_op = register(
    "statistics",
    "(Tensor x, Tensor? seed, Tensor? index, bool per_sample, int[] orders, int block_size, "
    "str statistic, str backend, str precision) -> (Tensor, Tensor)",
    _statistics,
    _statistics_fake,
)


def _statistics_backward(
    x: Tensor,
    grad_m: Tensor | None,
    grad_a: Tensor | None,
    seed: Tensor | None,
    index: Tensor | None,
    per_sample: bool,
    orders: Sequence[int],
    block_size: int,
    statistic: str,
    backend: str,
    precision: str,
) -> Tensor:
    if x.shape[0] == 0:
        return x.new_zeros(x.shape)
    backend = resolve(backend, x.device, x.dtype)
    empty_m, empty_a = _statistics_fake(x, seed, index, per_sample, orders, block_size)
    grad_m = torch.zeros_like(empty_m) if grad_m is None else grad_m
    grad_a = torch.zeros_like(empty_a) if grad_a is None else grad_a
    with torch.no_grad():
        if backend == "triton":
            from gaussreg_fast import launch

            return launch.pullback(
                x,
                permutation_for(seed, index, per_sample),
                grad_m,
                grad_a,
                orders=orders,
                block_size=block_size,
                statistic=statistic,
            )
        if native_takes(x, backend):
            return native.pullback(
                x,
                native_permutation(drawn(seed, index, per_sample)),
                grad_m,
                grad_a,
                orders=orders,
                block_size=block_size,
                statistic=statistic,
            )
        rows = as_rows(x)
        index = index_for(x, seed, index, per_sample, backend)
        _, _, y = reference.permuted_statistics(rows, index, [], block_size, statistic)
        grad = reference.permuted_statistics_pullback(
            rows, y, index, orders, block_size, statistic, grad_m, grad_a
        )
    return grad.reshape(x.shape).to(x.dtype).contiguous()


_statistics_backward_op = register(
    "statistics_backward",
    "(Tensor x, Tensor? grad_m, Tensor? grad_a, Tensor? seed, Tensor? index, bool per_sample, "
    "int[] orders, int block_size, str statistic, str backend, str precision) -> Tensor",
    _statistics_backward,
    lambda x, *rest: x.new_empty(x.shape),
)


class _StatisticsOp(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(*args: Any) -> tuple[Tensor, Tensor]:
        with torch._C._AutoDispatchBelowAutograd():
            return _statistics_op(*args)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
        x, seed, index, *options = inputs
        ctx.save_for_backward(x, seed, index)
        ctx.options = options
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor | None) -> Any:
        x, seed, index = ctx.saved_tensors
        call = _statistics_backward if direct(x) else _statistics_backward_op
        grad_m, grad_a = upstream
        grad = call(x, grad_m, grad_a, seed, index, *ctx.options)
        return only_first(ctx, first_order(grad, x))


class _StatisticsEager(Function):
    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, Tensor]:
        output = _statistics(*args)
        _StatisticsOp.setup_context(ctx, args, output)
        return output

    backward = _StatisticsOp.backward


library.impl("statistics", _StatisticsOp.apply, "Autograd")


def statistics(x: Tensor, *options: Any) -> tuple[Tensor, Tensor]:
    """Moments (B, K) and block amplitudes (B, P), differentiable; see `_statistics`."""
    return enter(x, options, _statistics, _statistics_op, _StatisticsOp, _StatisticsEager.apply)
