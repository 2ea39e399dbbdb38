"""Measure the cost of a call beside its arithmetic: ways to register a differentiable operator.

One trivial loss (a sum, its gradient kept for backward) is registered in each way that torch
offers and called at B = 1, D = 64, so that nearly all of the time is bookkeeping. The package
uses the last way for eager calls and the third for compiled code (gaussreg_fast/ops/).

    python -m bench study call_overhead [--out bench/results/call_overhead.json]

The calls take turns on one thread, cold and hot; the best sample of each counts.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

import gaussreg_fast
from bench.harness.best import Times, best_times
from bench.harness.text import columns, time_text
from bench.subjects.peers import with_backward

SECONDS = 3.0
SCHEMA = "(Tensor x) -> (Tensor, Tensor)"


def forward(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.sum(-1), x.clone()


def fake(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape[:1]), torch.empty_like(x)


def setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(output[1])
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def backward(ctx: Any, upstream: Tensor, _: Any) -> Tensor:
    return ctx.saved_tensors[0] * upstream[:, None]


def function(call: Callable, below_autograd: bool = False) -> type[Function]:
    """Return an autograd.Function around a call."""

    class Loss(Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
            if below_autograd:
                with torch._C._AutoDispatchBelowAutograd():
                    output = call(x)
            else:
                output = call(x)
            setup_context(ctx, (x,), output)
            return output

        backward = staticmethod(once_differentiable(backward))

    return Loss


def ways() -> dict[str, Callable[[Tensor], Tensor]]:
    library = torch.library.Library("gaussreg_overhead", "DEF")
    for name in ("registered", "kernel", "wrapped"):
        library.define(name + SCHEMA)
        library.impl(name, forward, "CompositeExplicitAutograd")
        torch.library.register_fake(f"gaussreg_overhead::{name}", fake, lib=library)
    ops = torch.ops.gaussreg_overhead

    @torch.library.custom_op("gaussreg_overhead::custom", mutates_args=())
    def custom(x: Tensor) -> tuple[Tensor, Tensor]:
        return forward(x)

    custom.register_fake(fake)
    custom.register_autograd(backward, setup_context=setup_context)
    torch.library.register_autograd(
        "gaussreg_overhead::registered", backward, setup_context=setup_context, lib=library
    )
    kernel, wrapped = ops.kernel.default, ops.wrapped.default
    library.impl("kernel", function(kernel, below_autograd=True).apply, "Autograd")
    around, direct = function(wrapped).apply, function(forward).apply
    keep = library  # registrations end with the library object
    return {
        "custom_op + register_autograd": lambda x: custom(x)[0],
        "define/impl + register_autograd": lambda x: ops.registered.default(x)[0],
        "define/impl, Function as autograd kernel": lambda x: (keep, kernel(x)[0])[1],
        "Function around define/impl": lambda x: around(x)[0],
        "Function, no dispatcher": lambda x: direct(x)[0],
    }


def measure(seconds: float) -> Times:
    torch.set_num_threads(1)
    x = torch.randn(1, 64, requires_grad=True)
    z = x.detach()
    calls: dict[str, Callable[[], Any]] = {
        name: with_backward(loss, x) for name, loss in ways().items()
    }
    calls["plain torch: (x * x).sum(-1)"] = with_backward(lambda x: (x * x).sum(-1), x)
    calls["gaussianity_loss, backward"] = with_backward(gaussreg_fast.gaussianity_loss, x)
    calls["gaussianity_value_and_grad"] = lambda: gaussreg_fast.gaussianity_value_and_grad(z)
    calls["moment_loss, backward"] = with_backward(gaussreg_fast.moment_loss, x)
    return best_times(calls, seconds)


def run(options: argparse.Namespace) -> dict[str, Any]:
    times = measure(options.seconds)
    rows = [[name, *(time_text(us[name]) for us in times.values())] for name in times["cold"]]
    print(columns([["", *times], *rows]))
    about = "call overhead, B = 1, D = 64, forward and backward"
    return {"benchmark": about, "microseconds": times}
