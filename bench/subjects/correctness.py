"""Compare every result with float64 on the CPU, before anything is timed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from bench.harness.errors import Wrong
from bench.subjects.cases import Case
from bench.subjects.naive import TARGET, WEIGHT, by_hand, naive
from bench.subjects.peers import FULL_SEED, Guard
from gaussreg_fast import (
    gaussianity_loss,
    gaussianity_value_and_grad,
    permuted_statistics,
    project_white_noise,
    reference,
)

Errors = dict[str, float]  # result -> worst relative error
# Smallest loss that is compared. Below a thirtieth of its terms, their cancelling costs digits.
SMALLEST = (1 + WEIGHT * TARGET) / 30


def require(errors: Errors, name: str, got: Tensor, want: Tensor, allowed: float) -> None:
    """Note the rows' largest ||got - want|| / ||want||; raise Wrong if over `allowed` or NaN."""
    got = got.detach().double().reshape(len(got), -1)
    want = want.detach().to(got).reshape(len(want), -1)
    error = float(((got - want).norm(dim=1) / want.norm(dim=1)).max())
    errors[name] = max(errors.get(name, 0.0), error)
    if not error <= allowed:
        raise Wrong(f"{name}: relative error {error:.3g}, allowed {allowed:.3g}")


def gradient_tolerance(case: Case) -> float:
    """Return the gradient's allowed error; half precision rounds the gradient to x's type."""
    return 3e-3 if case.dtype.itemsize == 2 else 1e-4


def fresh(case: Case, device: str) -> tuple[Tensor, int, list[int]]:
    """Draw a batch and a seed, and choose the rows to compare."""
    x = (torch.randn(case.batch, case.dimension, device=device) * 1.1 + 0.05).to(case.dtype)
    rows = sorted({0, case.batch // 3, case.batch // 2, case.batch - 1})
    return x, int(torch.randint(2**62, ())), rows


def permutations(case: Case, device: str, seed: int, rows: list[int]) -> Tensor:
    key = torch.tensor([seed], device=device)
    if case.permutation == "shared":
        return reference.permutation(key, case.dimension).cpu()
    return reference.permutation(key, case.dimension, samples=max(rows) + 1)[rows].cpu()


def against_reference(
    case: Case, x: Tensor, index: Tensor, losses: Tensor, grads: Tensor, errors: Errors
) -> int:
    """Compare some rows with float64 on the CPU; return how many were compared in full.

    Two kinds of rows are not. The gradient has a kink where a block is at its target or a mean at
    0, and float32 may fall on the other side of it. A loss far below its terms, which a small
    latent can have, keeps their rounding.
    """
    y = x.detach().double().cpu()
    loss, grad = reference.loss_and_gradient(y, index)
    moments, blocks, _ = reference.permuted_statistics(y, index, [1, 2], 16, "amplitude")
    gap = (blocks - reference.RAYLEIGH_MEAN).abs().amin(1)
    smooth = (gap > 1e-6) & (moments[:, 0].abs() > 1e-6)
    conditioned = loss > SMALLEST
    if conditioned.any():
        require(errors, "value", losses[conditioned.to(losses.device)], loss[conditioned], 1e-5)
    if smooth.any():
        got = grads[smooth.to(grads.device)]
        require(errors, "gradient", got, grad[smooth], gradient_tolerance(case))
    _peers(case, x, index.to(x.device), loss, grad if smooth.all() else None, errors)
    return int((smooth & conditioned).sum())


def _peers(
    case: Case, x: Tensor, index: Tensor, loss: Tensor, grad: Tensor | None, errors: Errors
) -> None:
    """Compare the loss as written in PyTorch, and its gradient if every row is smooth."""
    want = loss.mean()[None]
    leaf = x.detach().requires_grad_()
    naive_loss = naive(leaf, index)
    naive_loss.backward()
    hand, hand_grad = by_hand(x.detach(), index)
    require(errors, "naive", naive_loss[None], want, 1e-4)
    require(errors, "hand", hand[None], want, 1e-4)
    if grad is not None:
        allowed = 10 * gradient_tolerance(case)
        require(errors, "naive gradient", leaf.grad[None], grad[None] / len(x), allowed)
        require(errors, "hand gradient", hand_grad[None], grad[None] / len(x), allowed)


def check(case: Case, device: str, backend: str = "auto", rounds: int = 2) -> Errors:
    """Return the worst relative errors on fresh inputs; raise Wrong if one is too large."""
    errors: Errors = {}
    exact = 1e-2 if case.dtype.itemsize == 2 else 1e-6
    compared = 0
    for number in range(4 * rounds):
        if number >= rounds and compared:
            break
        x, seed, rows = fresh(case, device)
        index = permutations(case, device, seed, rows)
        options: dict[str, Any] = {"permutation": case.permutation, "backend": backend}
        options["seed"] = seed
        poison = torch.full_like(x, torch.nan)
        del poison  # outputs land in this memory, so that an unwritten number is NaN
        losses, grads = gaussianity_value_and_grad(x, **options, reduction="none")
        compared += against_reference(case, x[rows], index, losses[rows], grads[rows], errors)
        # Other calls that give the same numbers, over the whole batch.
        mean, mean_grad = gaussianity_value_and_grad(x, **options)
        require(errors, "mean", mean[None], losses.double().mean()[None], 1e-6)
        whole = grads.double() / case.batch
        require(errors, "mean gradient", mean_grad, whole, exact)
        result = gaussianity_loss(x.requires_grad_(), **options)
        result.backward()
        require(errors, "loss", result[None], mean[None], 1e-6)
        require(errors, "backward", x.grad, whole, exact)
        value = gaussianity_loss(x.detach(), **options)
        require(errors, "value only", value[None], mean[None], 1e-6)
    if not compared:
        raise Wrong("no gradient was compared: every drawn row has a kink")
    return errors


def check_guard(errors: Errors, name: str, guard: Guard, case: Case, device: str) -> None:
    """Compare a regulariser and its gradient with float64, on a batch of at most four."""
    torch.manual_seed(FULL_SEED)
    x = (torch.randn(min(4, case.batch), case.dimension) * 1.1 + 0.05).to(case.dtype)
    leaf, exact = x.to(device).requires_grad_(), x.double().requires_grad_()
    options = {"seed": FULL_SEED} if guard.random else {}
    loss = guard.loss(leaf, **options)
    want = guard.reference(exact, **options)
    (got_grad,) = torch.autograd.grad(loss, leaf)
    (want_grad,) = torch.autograd.grad(want, exact)
    require(errors, name, loss[None], want[None], 1e-4)
    # The covariance has thousands of lags, of which some lie near zero, where the gradient jumps.
    allowed = 1e-2 if name == "covariance" else 10 * gradient_tolerance(case)
    require(
        errors, f"{name} gradient", got_grad.flatten()[None], want_grad.flatten()[None], allowed
    )


def check_statistics(errors: Errors, case: Case, device: str) -> None:
    """Compare `permuted_statistics` and the projection with float64, on at most four samples."""
    torch.manual_seed(FULL_SEED)
    x = torch.randn(min(4, case.batch), case.dimension)
    options: dict[str, Any] = {"orders": (1, 2), "seed": FULL_SEED}
    got = permuted_statistics(x.to(device), **options)
    want = permuted_statistics(x.double(), backend="torch", **options)
    for name, mine, exact in zip(("moments", "blocks"), got, want, strict=True):
        require(errors, name, mine, exact, 1e-4)
    exact = project_white_noise(x.double(), backend="torch")
    require(errors, "projection", project_white_noise(x.to(device)), exact, 1e-4)


def same_bits(name: str, got: Iterable[Tensor], want: Iterable[Tensor]) -> None:
    """Raise Wrong unless two calls' results agree to the bit."""
    for a, b in zip(got, want, strict=True):
        if not torch.equal(a, b):
            count, most = int((a != b).sum()), float((a - b).abs().max())
            raise Wrong(
                f"{name}: {count} of {a.numel()} numbers have other bits, largest difference "
                f"{most:.3g}"
            )


def same_as_eager(
    errors: Errors, name: str, eager: Callable[[], Any], compiled: Callable[[], Any]
) -> None:
    """Compare a compiled loss and gradient with the eager ones, on the same drawn permutation."""
    torch.manual_seed(FULL_SEED)
    want = eager()
    torch.manual_seed(FULL_SEED)
    got = compiled()
    require(errors, name, got[0][None], want[0][None], 1e-4)
    require(errors, f"{name} gradient", got[1].flatten()[None], want[1].flatten()[None], 1e-2)
