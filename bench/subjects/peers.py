"""The calls of a case: ours, and the peers it is measured against."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

import gaussreg_fast
from bench.harness.samples import Calls
from bench.harness.timing import OutOfTime, limit
from bench.subjects.cases import COVARIANCE_LIMIT, PRNO_LIMIT, Case
from bench.subjects.naive import by_hand, naive
from gaussreg_fast import gaussianity_loss, gaussianity_value_and_grad

FULL_SEED = 5
OURS = ("value_and_grad", "loss_backward", "value")
COMPILED = ("compile", "hand")
LABELS = {
    "value_and_grad": "ours: value and gradient",
    "loss_backward": "ours: loss, backward",
    "value": "ours: value only",
    "gaussianity": "ours: loss, backward",
    "naive": "naive PyTorch",
    "compile": "naive, torch.compile",
    "hand": "hand gradient, torch.compile",
    "fft": "FFT pair alone",
    "copy": "copy",
    "covariance": "covariance, O(n²)",
    "prno": "PRNO, 100 shuffles",
    "kl": "KL",
    "kurtosis": "kurtosis",
    "norm": "norm",
    "moment": "moments",
    "spectrum": "power spectrum",
}


@dataclass(frozen=True)
class Guard:
    """A regulariser, and the same in float64 on the CPU; a random one takes `seed`."""

    loss: Callable[..., Tensor]
    reference: Callable[..., Tensor]
    random: bool = False


def _own(loss: Callable[..., Tensor], random: bool = False) -> Guard:
    return Guard(loss, partial(loss, backend="torch"), random)


def _autocovariance(x: Tensor) -> Tensor:
    """Compute `covariance_loss` from the power spectrum (Wiener-Khinchin), in O(n log n)."""
    size = x.shape[1]
    c = torch.fft.irfft(torch.fft.rfft(x).abs().square(), n=size) / size
    return ((c[:, 0] - 1).abs() + c[:, 1:].abs().mean(1)).mean()


GUARDS = {
    "gaussianity": _own(gaussianity_loss, random=True),
    "kl": _own(gaussreg_fast.kl_loss),
    "kurtosis": _own(gaussreg_fast.kurtosis_loss),
    "norm": _own(gaussreg_fast.norm_loss),
    "moment": _own(gaussreg_fast.moment_loss),
    "spectrum": _own(gaussreg_fast.power_spectrum_loss, random=True),
    "prno": Guard(gaussreg_fast.prno_loss, gaussreg_fast.prno_loss, random=True),
    "covariance": Guard(gaussreg_fast.covariance_loss, _autocovariance),
}


def guards(case: Case, device: str) -> dict[str, Guard]:
    """Return the regularisers of a case, without those that take longer than seconds."""
    if case.topic == "loss":
        return {}
    names = list(GUARDS) if case.topic == "guards" else ["prno", "covariance"]
    if case.dimension > PRNO_LIMIT[device] or (case.topic == "growth" and case.batch > 4):
        names.remove("prno")
    if case.dimension > COVARIANCE_LIMIT[device] or case.batch > 1:
        names.remove("covariance")
    return {name: GUARDS[name] for name in names}


def inputs(case: Case, device: str, count: int) -> list[Tensor]:
    shape = case.batch, case.dimension
    return [torch.randn(shape, device=device).to(case.dtype).requires_grad_() for _ in range(count)]


def with_backward(loss: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[], Tensor]:
    """Return a call of the loss and its backward that starts without a gradient."""

    def call() -> Tensor:
        x.grad = None
        value = loss(x)
        if value.dim():
            value = value.sum()
        value.backward()
        return value

    return call


def turns(loss: Callable[[Tensor], Tensor], xs: Sequence[Tensor]) -> Callable[[int], Tensor]:
    calls = [with_backward(loss, x) for x in xs]
    return lambda i: calls[i]()


def ours(case: Case, xs: Sequence[Tensor], backend: str = "auto") -> Calls:
    options: dict[str, Any] = {"permutation": case.permutation, "backend": backend}
    zs = [x.detach() for x in xs]
    calls: Calls = {
        "value_and_grad": lambda i: gaussianity_value_and_grad(zs[i], **options),
        "loss_backward": turns(partial(gaussianity_loss, **options), xs),
        "value": lambda i: gaussianity_loss(zs[i], **options),
    }
    if case.topic == "growth":
        del calls["loss_backward"]
    return {} if case.topic == "guards" else calls


def others(case: Case, xs: Sequence[Tensor], device: str) -> Calls:
    """Return the calls of the peers without torch.compile."""
    calls: Calls = {name: turns(guard.loss, xs) for name, guard in guards(case, device).items()}
    if case.topic == "guards":
        return calls
    zs = [x.detach() for x in xs]
    floats = [z.float() for z in zs]  # torch.fft does not take bfloat16; the cast is not timed
    copies = [torch.empty_like(z) for z in zs]
    return calls | {
        "naive": turns(naive_of(case), xs),
        "fft": lambda i: torch.fft.irfft(torch.fft.rfft(floats[i]), n=case.dimension),
        "copy": lambda i: copies[i].copy_(zs[i]),
    }


def names(case: Case, device: str, compiled: bool) -> list[str]:
    """Return the names of a case's calls, without making inputs."""
    own = {"loss": OURS, "guards": (), "growth": ("value_and_grad", "value")}[case.topic]
    rest = () if case.topic == "guards" else ("naive", "fft", "copy")
    return [*own, *guards(case, device), *rest, *(COMPILED if compiled else ())]


def naive_of(case: Case) -> Callable[[Tensor], Tensor]:
    """Return naive PyTorch with the case's kind of permutation."""
    return partial(naive, per_sample=case.permutation == "per_sample")


def compiled(case: Case, xs: Sequence[Tensor], seconds: float) -> tuple[Calls, dict[str, str]]:
    """Compile naive PyTorch and the gradient by hand with torch.compile.

    Returns:
        The compiled calls, and a reason for each that failed or took longer than `seconds`.
    """
    from torch._inductor import config as inductor  # late, because it imports Triton

    hand = partial(by_hand, per_sample=case.permutation == "per_sample")
    zs = [x.detach() for x in xs]

    def for_naive() -> Callable[[int], Any]:
        return turns(torch.compile(naive_of(case), dynamic=False), xs)

    def for_hand() -> Callable[[int], Any]:
        call = torch.compile(hand, dynamic=False)
        return lambda i: call(zs[i])

    calls: Calls = {}
    reasons = {}
    # torch.compile has its own random numbers, but a comparison needs those of eager code. It
    # always leaves randperm to eager code.
    eager_numbers = case.permutation == "per_sample"
    for name, make in (("compile", for_naive), ("hand", for_hand)):
        if not calls:  # a later reset would discard the first call
            torch.compiler.reset()
        try:
            with limit(seconds), inductor.patch(fallback_random=eager_numbers):
                call = make()
                for slot in range(len(xs)):
                    call(slot)
            calls[name] = call
        except (Exception, OutOfTime) as error:
            kind = "compiling" if isinstance(error, OutOfTime) else type(error).__name__
            reasons[name] = f"{kind}: {error}"[:300]
    return calls, reasons
