"""The cases of the GPU benchmark: what should come out, whether it is right, what is timed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import gpu_timing as timing
import torch
from common import with_backward
from gpu_timing import Calls
from naive import naive
from torch import Tensor

from gaussreg_fast import gaussianity_loss, gaussianity_value_and_grad, reference


@dataclass(frozen=True)
class Case:
    """A batch, and what its ratios ("naive/ours") or microseconds ("graph us") should be."""

    batch: int
    dimension: int
    targets: dict[str, tuple[str, float]] = field(default_factory=dict)
    dtype: torch.dtype = torch.float32
    permutation: str = "shared"

    @property
    def name(self) -> str:
        more = [] if self.dtype == torch.float32 else [str(self.dtype).removeprefix("torch.")]
        more += [] if self.permutation == "shared" else [self.permutation]
        return " ".join([f"({self.batch}, {self.dimension})", *more])


def goals(fft: float, naive: float, compiled: float) -> dict[str, tuple[str, float]]:
    return {"ours/fft": ("<=", fft), "naive/ours": (">=", naive), "compile/ours": (">=", compiled)}


def waits(eager: float, graph: float) -> dict[str, tuple[str, float]]:
    return {
        "eager us": ("<=", eager),
        "graph us": ("<=", graph),
        "naive/ours": (">=", 8),
        "compile/ours": (">=", 3),
    }


CASES = (
    Case(4096, 16384, goals(1.0, 12, 4)),  # stretch: 0.75 of the FFT pair
    Case(4096, 4096, goals(0.8, 12, 4)),
    Case(2048, 32768, goals(1.2, 10, 4)),
    Case(1024, 65536, goals(2.0, 6, 3)),
    Case(256, 262144, goals(3.0, 5, 2.5)),
    Case(1, 16384, waits(60, 15)),
    Case(1, 65536),
    Case(1, 262144, waits(80, 30)),
    Case(4096, 16384, dtype=torch.bfloat16),
    Case(4096, 16384, permutation="per_sample"),
    Case(4096, 1024),
    Case(256, 16384),
    Case(64, 36864),
)


# ---------------------------------------------------------------- correctness


class Wrong(Exception):
    """A result that is not the reference's."""


def require(errors: dict[str, float], name: str, got: Tensor, want: Tensor, allowed: float) -> None:
    """Row by row ||got - want|| / ||want||; NaN is no number below what is allowed."""
    got = got.detach().double().reshape(len(got), -1)
    want = want.detach().to(got).reshape(len(want), -1)
    error = float(((got - want).norm(dim=1) / want.norm(dim=1)).max())
    errors[name] = max(errors.get(name, 0.0), error)
    if not error <= allowed:
        raise Wrong(f"{name}: relative error {error:.3g}, allowed {allowed:.3g}")


def gradient_tolerance(case: Case) -> float:
    """In half precision the gradient is rounded to x's type."""
    return 3e-3 if case.dtype.itemsize == 2 else 1e-4


def fresh(case: Case, device: str) -> tuple[Tensor, int, list[int]]:
    """A batch, a seed, and the rows to look at."""
    x = (torch.randn(case.batch, case.dimension, device=device) * 1.1 + 0.05).to(case.dtype)
    rows = sorted({0, case.batch // 3, case.batch // 2, case.batch - 1})
    return x, int(torch.randint(2**62, ())), rows


def permutations(case: Case, device: str, seed: int, rows: list[int]) -> Tensor:
    key = torch.tensor([seed], device=device)
    if case.permutation == "shared":
        return reference.permutation(key, case.dimension).cpu()
    return reference.permutation(key, case.dimension, samples=max(rows) + 1)[rows].cpu()


def against_reference(
    case: Case, x: Tensor, index: Tensor, losses: Tensor, grads: Tensor, errors: dict[str, float]
) -> int:
    """Compares some rows with float64 on the CPU; in how many of them there is a gradient at all.

    A block at its target, or a mean at 0, has a kink there: float32 may fall on the other side.
    """
    y = x.detach().double().cpu()
    loss, grad = reference.loss_and_gradient(y, index)
    moments, blocks, _ = reference.permuted_statistics(y, index, [1, 2], 16, "amplitude")
    gap = (blocks - reference.RAYLEIGH_MEAN).abs().amin(1)
    smooth = (gap > 1e-6) & (moments[:, 0].abs() > 1e-6)
    require(errors, "value", losses, loss, 1e-5)
    if smooth.any():
        got = grads[smooth.to(grads.device)]
        require(errors, "gradient", got, grad[smooth], gradient_tolerance(case))
    plain = naive(x.detach(), index.to(x.device))
    require(errors, "naive", plain[None], loss.mean()[None], 1e-4)
    return int(smooth.sum())


def check(case: Case, device: str, backend: str = "triton", rounds: int = 2) -> dict[str, float]:
    """Worst relative errors on fresh inputs; raises Wrong above what is allowed."""
    errors: dict[str, float] = {}
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
        del poison  # outputs land there, so that what was not written shows
        losses, grads = gaussianity_value_and_grad(x, **options, reduction="none")
        compared += against_reference(case, x[rows], index, losses[rows], grads[rows], errors)
        # The other ways to the same numbers, over the whole batch.
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
        raise Wrong("no row without a kink was drawn: no gradient compared")
    return errors


# ---------------------------------------------------------------- calls


def inputs(case: Case, device: str, count: int) -> list[Tensor]:
    shape = case.batch, case.dimension
    return [torch.randn(shape, device=device).to(case.dtype).requires_grad_() for _ in range(count)]


def turns(loss: Callable[[Tensor], Tensor], xs: Sequence[Tensor]) -> Callable[[int], None]:
    calls = [with_backward(loss, x) for x in xs]
    return lambda i: calls[i]()


def ours(case: Case, xs: Sequence[Tensor], backend: str = "triton") -> Calls:
    options: dict[str, Any] = {"permutation": case.permutation, "backend": backend}
    zs = [x.detach() for x in xs]
    return {
        "value_and_grad": lambda i: gaussianity_value_and_grad(zs[i], **options),
        "loss_backward": turns(partial(gaussianity_loss, **options), xs),
        "value": lambda i: gaussianity_loss(zs[i], **options),
    }


def by_hand(case: Case) -> Callable[[Tensor], Tensor]:
    per_sample = case.permutation == "per_sample"

    def loss(x: Tensor) -> Tensor:
        return naive(x, per_sample=per_sample)

    return loss


def others(case: Case, xs: Sequence[Tensor]) -> Calls:
    zs = [x.detach() for x in xs]
    floats = [z.float() for z in zs]  # torch.fft knows no bfloat16; the cast is not timed
    copies = [torch.empty_like(z) for z in zs]
    return {
        "fft": lambda i: torch.fft.irfft(torch.fft.rfft(floats[i])),
        "naive": turns(by_hand(case), xs),
        "copy": lambda i: copies[i].copy_(zs[i]),
    }


def compiled(case: Case, xs: Sequence[Tensor], seconds: float) -> Callable[[int], None]:
    """Naive PyTorch under torch.compile, compiled already."""
    torch.compiler.reset()
    call = turns(torch.compile(by_hand(case), dynamic=False), xs)
    try:
        with timing.limit(seconds):
            for slot in range(len(xs)):
                call(slot)
    except timing.OutOfTime as late:
        torch.compiler.reset()
        raise TimeoutError(f"compiling: {late}") from None
    return call
