"""The torch operators: schemas, fake and device implementations, autograd.

The only place where operators are registered. Each has three entrances, in this order:

- eager calls on ordinary tensors run the implementation directly (a trip through the
  dispatcher costs more than a small kernel: `bench/call_overhead.py`);
- `torch.compile`, fake tensors and the like go through `torch.ops.gaussreg_fast`;
- torch.func transforms go through the operator's `autograd.Function`.

One backward serves them all. Double backward and forward-mode AD raise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function, forward_ad

from gaussreg_fast import checks, native, reference
from gaussreg_fast.dispatch import resolve

_library = torch.library.Library("gaussreg_fast", "DEF")


def _register(name: str, schema: str, impl: Callable, fake: Callable) -> Any:
    _library.define(name + schema)
    _library.impl(name, impl, "CompositeExplicitAutograd")
    torch.library.register_fake(f"gaussreg_fast::{name}", fake, lib=_library)
    return getattr(torch.ops.gaussreg_fast, name).default


def _transformed() -> bool:
    """Whether a torch.func transform (grad, vmap, jvp, ...) is at work."""
    return torch._C._are_functorch_transforms_active()


def _direct(x: Tensor) -> bool:
    """Whether x is an ordinary tensor in ordinary eager code."""
    return (
        not torch.compiler.is_compiling()
        and type(x) in (Tensor, torch.nn.Parameter)
        and forward_ad._current_level < 0
        and not _transformed()
    )


# ---------------------------------------------------------------- permutation


def _permutation(seed: Tensor, size: int, samples: int, inverse: bool, backend: str) -> Tensor:
    """(size,) where samples is 0, else (samples, size)."""
    many = samples or None
    if resolve(backend, seed.device) == "native":
        return native.permutation(int(seed.item()), size, samples=many, inverse=inverse)
    return reference.permutation(seed, size, samples=many, inverse=inverse)


_permutation_op = _register(
    "permutation",
    "(Tensor seed, int size, int samples, bool inverse, str backend) -> Tensor",
    _permutation,
    lambda seed, size, samples, inverse, backend: torch.empty(
        (samples, size) if samples else (size,), dtype=torch.int64, device=seed.device
    ),
)


def permutation(seed: Tensor, size: int, samples: int, inverse: bool, backend: str) -> Tensor:
    """Permutation v1: (size,) for samples = 0, else (samples, size), int64."""
    call = _permutation if _direct(seed) else _permutation_op
    return call(seed, size, samples, inverse, backend)


def _index(
    seed: Tensor | None,
    index: Tensor | None,
    per_sample: bool,
    batch: int,
    size: int,
    backend: str,
) -> Tensor:
    """The int64 index of a permutation that is drawn from a seed, or given (a copy of it)."""
    if index is not None:
        checks.bijection(index)
        return index.to(torch.int64, copy=True)
    assert seed is not None
    return _permutation(seed, size, batch if per_sample else 0, False, backend)


def _index_fake(
    seed: Tensor | None, index: Tensor | None, per_sample: bool, batch: int, size: int, backend: str
) -> Tensor:
    if index is not None:
        return torch.empty_like(index, dtype=torch.int64)
    assert seed is not None
    shape = (batch, size) if per_sample else (size,)
    return torch.empty(shape, dtype=torch.int64, device=seed.device)


_index_op = _register(
    "index",
    "(Tensor? seed, Tensor? index, bool per_sample, SymInt batch, SymInt size, str backend) "
    "-> Tensor",
    _index,
    _index_fake,
)


def index(seed: Tensor | None, index: Tensor | None, *options: Any) -> Tensor | None:
    """The permutation as an index (size,) or (batch, size), None for none; see `_index`."""
    given = index if seed is None else seed
    if given is None:
        return None
    return (_index if _direct(given) else _index_op)(seed, index, *options)


def _index_for(x: Tensor, seed: Tensor | None, index: Tensor | None, *options: Any) -> Any:
    """Within an implementation: the index for the batch x, or None."""
    if seed is None and index is None:
        return None
    per_sample, backend = options
    return _index(seed, index, per_sample, x.shape[0], math.prod(x.shape[1:]), backend)


def as_rows(x: Tensor) -> Tensor:
    """(B, *latent) of any float type -> (B, D) in the type it is computed in."""
    rows = x.reshape(x.shape[0], math.prod(x.shape[1:])).contiguous()
    return rows if x.dtype == torch.float64 else rows.float()


def no_autocast(x: Tensor) -> torch.autocast:
    """For the matrix products of the peers, which autocast would do in half precision."""
    return torch.autocast(x.device.type, enabled=False)


def _result_dtype(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


# ---------------------------------------------------------------- autograd helpers


class _NoDoubleBackward(Function):
    """Passes a first-order gradient on; raises where a second order is asked of it."""

    generate_vmap_rule = True

    @staticmethod
    def forward(grad: Tensor, x: Tensor) -> Tensor:
        return grad.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        raise RuntimeError("double backward through the losses of gaussreg_fast is not supported")


def _first_order(grad: Tensor, x: Tensor) -> Tensor:
    """The gradient by x, tied to x where a graph of it is wanted (create_graph=True).

    Without the tie a second derivative would silently come out as zero.
    """
    return _NoDoubleBackward.apply(grad, x) if torch.is_grad_enabled() else grad


# ---------------------------------------------------------------- losses


def _loss(
    x: Tensor,
    seed: Tensor | None,
    index: Tensor | None,
    per_sample: bool,
    orders: Sequence[int],
    form: str,
    power_weight: float,
    block_size: int,
    target: float,
    statistic: str,
    reduction: str,
    with_gradient: bool,
    backend: str,
    precision: str,
) -> tuple[Tensor, Tensor]:
    """The reduced loss, and the gradient of the *unreduced* one (empty if not asked for).

    The gradient is left unreduced so that half-precision ones do not underflow by 1/B.
    """
    backend = resolve(backend, x.device)
    if x.shape[0] == 0:
        shape = (0,) if reduction == "none" else ()
        return x.new_zeros(shape, dtype=_result_dtype(x)), torch.zeros_like(x)
    with torch.no_grad():
        loss, grad = reference.loss_and_gradient(
            as_rows(x),
            _index_for(x, seed, index, per_sample, backend) if power_weight else None,
            orders=orders,
            form=form,
            power_weight=power_weight,
            block_size=block_size,
            target=target,
            statistic=statistic,
            with_gradient=with_gradient,
        )
        if reduction != "none":
            loss = loss.mean() if reduction == "mean" else loss.sum()
        if grad is None:
            return loss, x.new_empty(0)
        return loss, grad.reshape(x.shape).to(x.dtype)


def _loss_fake(x: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    reduction, with_gradient = args[9], args[10]
    loss = x.new_empty((x.shape[0],) if reduction == "none" else (), dtype=_result_dtype(x))
    return loss, x.new_empty(x.shape) if with_gradient else x.new_empty(0)


_loss_op = _register(
    "loss",
    "(Tensor x, Tensor? seed, Tensor? index, bool per_sample, int[] orders, str form, "
    "float power_weight, int block_size, float target, str statistic, str reduction, "
    "bool with_gradient, str backend, str precision) -> (Tensor, Tensor)",
    _loss,
    _loss_fake,
)


def _scale(grad: Tensor, upstream: Tensor, reduction: str) -> Tensor:
    """The stored per-sample gradient times the upstream one, in the upstream precision."""
    batch = grad.shape[0]
    if reduction == "none":
        upstream = upstream.reshape(batch, *[1] * (grad.dim() - 1))
    elif reduction == "mean" and batch > 1:
        upstream = upstream / batch
    return (grad * upstream).to(grad.dtype)


class _LossOp(Function):
    """Autograd of the operator, for compiled code and torch.func."""

    generate_vmap_rule = True

    @staticmethod
    def forward(*args: Any) -> tuple[Tensor, Tensor]:
        with torch._C._AutoDispatchBelowAutograd():
            return _loss_op(*args)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
        _save_gradient(ctx, inputs[0], output[1], inputs[10])

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor | None) -> Any:
        x, grad = ctx.saved_tensors
        if upstream[0] is None:
            return (None,) * 14
        return (_first_order(_scale(grad, upstream[0], ctx.reduction), x), *(None,) * 13)


class _LossEager(Function):
    """The same for eager calls, without the dispatcher and setup_context (20 us less)."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, Tensor]:
        loss, grad = _loss(*args)
        _save_gradient(ctx, args[0], grad, args[10])
        return loss, grad

    backward = _LossOp.backward


def _save_gradient(ctx: Any, x: Tensor, grad: Tensor, reduction: str) -> None:
    ctx.save_for_backward(x, grad)
    ctx.reduction = reduction
    ctx.mark_non_differentiable(grad)
    ctx.set_materialize_grads(False)


_library.impl("loss", _LossOp.apply, "Autograd")


def loss(x: Tensor, *options: Any) -> tuple[Tensor, Tensor]:
    """The reduced loss, differentiable, and the gradient of the unreduced one; see `_loss`."""
    if not _direct(x):
        return (_LossOp.apply if _transformed() else _loss_op)(x, *options)
    if x.requires_grad and torch.is_grad_enabled():
        return _LossEager.apply(x, *options)
    return _loss(x, *options)


# ---------------------------------------------------------------- statistics


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
    backend = resolve(backend, x.device)
    if x.shape[0] == 0:
        return _statistics_fake(x, seed, index, per_sample, orders, block_size)
    with torch.no_grad():
        index = _index_for(x, seed, index, per_sample, backend)
        m, a, _ = reference.permuted_statistics(as_rows(x), index, orders, block_size, statistic)
    return m, a


def _statistics_fake(
    x: Tensor, seed: Any, index: Any, per_sample: Any, orders: Any, block_size: int, *rest: Any
) -> tuple[Tensor, Tensor]:
    batch, dtype = x.shape[0], _result_dtype(x)
    blocks = -(-(math.prod(x.shape[1:]) // 2) // block_size)
    return x.new_empty((batch, len(orders)), dtype=dtype), x.new_empty((batch, blocks), dtype=dtype)


_statistics_op = _register(
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
        return torch.zeros_like(x)
    with torch.no_grad():
        rows = as_rows(x)
        index = _index_for(x, seed, index, per_sample, resolve(backend, x.device))
        m, a, y = reference.permuted_statistics(rows, index, orders, block_size, statistic)
        grad = reference.permuted_statistics_pullback(
            rows,
            y,
            index,
            orders,
            block_size,
            statistic,
            torch.zeros_like(m) if grad_m is None else grad_m,
            torch.zeros_like(a) if grad_a is None else grad_a,
        )
    return grad.reshape(x.shape).to(x.dtype)


_statistics_backward_op = _register(
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
        call = _statistics_backward if _direct(x) else _statistics_backward_op
        grad_m, grad_a = upstream
        grad = call(x, grad_m, grad_a, seed, index, *ctx.options)
        return (_first_order(grad, x), *(None,) * 8)


class _StatisticsEager(Function):
    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, Tensor]:
        output = _statistics(*args)
        _StatisticsOp.setup_context(ctx, args, output)
        return output

    backward = _StatisticsOp.backward


_library.impl("statistics", _StatisticsOp.apply, "Autograd")


def statistics(x: Tensor, *options: Any) -> tuple[Tensor, Tensor]:
    """Moments (B, K) and block amplitudes (B, P), differentiable; see `_statistics`."""
    if not _direct(x):
        return (_StatisticsOp.apply if _transformed() else _statistics_op)(x, *options)
    if x.requires_grad and torch.is_grad_enabled():
        return _StatisticsEager.apply(x, *options)
    return _statistics(x, *options)


# ---------------------------------------------------------------- white-noise projection


def _project(x: Tensor, block_size: int, backend: str) -> Tensor:
    resolve(backend, x.device)
    if x.shape[0] == 0:
        return torch.zeros_like(x)
    with torch.no_grad():
        return reference.project_white_noise(as_rows(x), block_size).reshape(x.shape).to(x.dtype)


_project_op = _register(
    "project_white_noise",
    "(Tensor x, int block_size, str backend) -> Tensor",
    _project,
    lambda x, block_size, backend: x.new_empty(x.shape),
)


class _Project(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(*args: Any) -> Tensor:
        with torch._C._AutoDispatchBelowAutograd():
            return _project_op(*args)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        raise RuntimeError(
            "project_white_noise has no gradient; call it under torch.no_grad() or on x.detach()"
        )


_library.impl("project_white_noise", _Project.apply, "Autograd")


def project_white_noise(x: Tensor, block_size: int, backend: str) -> Tensor:
    """The projection; backward through it raises."""
    if not _direct(x):
        return (_Project.apply if _transformed() else _project_op)(x, block_size, backend)
    if x.requires_grad and torch.is_grad_enabled():
        return _Project.apply(x, block_size, backend)
    return _project(x, block_size, backend)


# ---------------------------------------------------------------- the O(n^2) covariance loss


class _Covariance(Function):
    """`reference.covariance_terms` with the gradient by hand: autograd would keep O(D^2)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(xp: Tensor) -> tuple[Tensor, Tensor]:
        with no_autocast(xp):
            return reference.covariance_terms(reference.autocovariance(xp), xp.shape[-1])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(*inputs, output[1])
        ctx.mark_non_differentiable(output[1])

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Tensor:
        xp, grad_c = ctx.saved_tensors
        with torch.no_grad(), no_autocast(xp):
            grad = reference.autocovariance_pullback(xp, grad_c * upstream[0][:, None])
        return _first_order(grad, xp)


def covariance(xp: Tensor) -> Tensor:
    """The circulant covariance loss of permuted rows (B, D) -> (B,)."""
    return _Covariance.apply(xp)[0]
