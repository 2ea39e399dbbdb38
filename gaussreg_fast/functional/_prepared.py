"""The Gaussianity loss with buffers for its results, for loops over tensors of one shape."""

from __future__ import annotations

import inspect
import threading
from typing import Any

import torch
from torch import Tensor

from gaussreg_fast import _ambient, checks, ops
from gaussreg_fast.functional._common import Seed, reduce
from gaussreg_fast.functional._loss_options import check_loss
from gaussreg_fast.functional._losses import gaussianity_value_and_grad
from gaussreg_fast.spec import Draw, Gradient

_SIGNATURE = inspect.signature(gaussianity_value_and_grad)


class PreparedLoss:
    """The Gaussianity loss and its gradient, for many tensors of one shape, dtype and device.

    Each call returns the same two tensors, which the next call overwrites: use or copy them before.
    The options are checked once. On the CPU, if the compiled kernels take x's size and type, no
    memory is allocated for the results; elsewhere they are computed as usual, and copied. The
    numbers are those of `gaussianity_value_and_grad`, bit for bit. Under torch.compile the call
    breaks the graph.

        prepared = GaussianityLoss(power_weight=10).prepare(x)
        for _ in range(1000):
            loss, grad = prepared(x)
            x -= 0.1 * grad

    A prepared loss belongs to the thread that made it. A copy, also one made by pickle, has buffers
    of its own, and belongs to the thread that made the copy.

    Args:
        x: `(B, *latent)`; only its shape, dtype and device are kept.
        options: options of `gaussianity_value_and_grad`; `seed=` or `generator=` hold for each
            call that gives neither. A permutation given as a tensor is copied.

    Raises:
        TypeError, ValueError, RuntimeError: see `gaussianity_value_and_grad`.
    """

    def __init__(self, x: Tensor, **options: Any):
        bound = _SIGNATURE.bind(x, **options)
        bound.apply_defaults()
        arguments = dict(bound.arguments)
        self._backend = arguments["backend"]
        draw, self._spec = check_loss(**arguments, moments=True)
        if draw.table is not None:
            checks.bijection(draw.table)
            draw = draw._replace(table=draw.table.clone(), valid=True)
            options = {**options, "permutation": draw.table}
        if "orders" in options:
            options = {**options, "orders": self._spec.orders}
        self._draw, self._options = draw, options  # which a copy is made of
        self._seed, self._generator = arguments["seed"], arguments["generator"]
        self._like = x.shape, x.dtype, x.device
        self._thread = threading.get_ident()
        self._allocate()

    def _allocate(self) -> None:
        shape, dtype, device = self._like
        batch, reduction = shape[0], self._spec.reduction
        kind = torch.float64 if dtype == torch.float64 else torch.float32
        with _ambient.recordable():  # buffers of inference mode could not be written to outside
            losses = torch.empty(batch, dtype=kind, device=device)
            one = losses if reduction == "none" else torch.empty((), dtype=kind, device=device)
            grad = torch.empty(shape, dtype=dtype, device=device)
        self._results = one, grad
        self._losses = losses if batch > 1 and reduction != "none" else None
        scale = 1 / batch if batch and reduction == "mean" else 1.0
        written = one if self._losses is None else losses
        self._fill = ops.prepare(self._draw, self._spec, (written, grad), scale, self._backend)

    def __call__(
        self, x: Tensor, *, seed: Seed = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the loss of x and its gradient by x, in tensors that the next call overwrites.

        Args:
            x: a tensor of the prepared shape, dtype and device, in any layout. It may require grad,
                and is detached: no graph is recorded.
            seed, generator: as in `gaussianity_value_and_grad`, for this call.

        Returns:
            The reduced loss, and the gradient of the reduced loss, in x's shape and dtype. A tensor
            that autograd has saved must not be one of them: backward would raise.

        Raises:
            TypeError: x is not a dense floating-point tensor.
            ValueError: x has another shape, dtype or device; seed or generator are out of range.
            RuntimeError: another thread calls, or a transform of torch.func, inside of which the
                results cannot be written to. (For a fake tensor torch raises its own error.)
        """
        if threading.get_ident() != self._thread:
            raise RuntimeError("a PreparedLoss belongs to one thread: make one in each thread")
        if seed is None and generator is None:
            seed, generator = self._seed, self._generator
        else:
            checks.seed(seed, generator, self._like[2])
        if not self._fill((x, seed, generator)):
            self._compute(x, seed, generator)
        elif self._losses is not None:
            self._results[0].copy_(reduce(self._losses, self._spec.reduction))
        return self._results

    def _compute(self, x: Tensor, seed: Seed, generator: torch.Generator | None) -> None:
        """Fill the results for any x that is allowed."""
        checks.floating("x", x)
        shape, dtype, device = self._like
        if (x.shape, x.dtype, x.device) != self._like:
            raise ValueError(
                f"x must be {dtype} of shape {tuple(shape)} on {device}, as prepared, got "
                f"{x.dtype} of shape {tuple(x.shape)} on {x.device}"
            )
        draw = self._draw
        if draw.seeded:
            draw = Draw(draw.source, seed, generator)
        loss, grad = ops.loss(x.detach(), draw, self._spec, Gradient.REDUCED, self._backend)
        assert grad is not None
        self._results[0].copy_(loss)
        self._results[1].copy_(grad)

    def __reduce__(self) -> tuple:
        return _remake, (*self._like, self._options)


def _remake(
    shape: torch.Size, dtype: torch.dtype, device: torch.device, options: dict[str, Any]
) -> PreparedLoss:
    """Return a prepared loss as it was before pickling, with new buffers."""
    return PreparedLoss(torch.empty(shape, dtype=dtype, device=device), **options)
