"""Compare parameter drift with users' code: a loop, torch._foreach_*, torch.compile.

    python -m bench study drift [--compile] [--out bench/results/drift.json]

The lists of float32 parameters are those of Stable Diffusion 1.5's UNet with a half and with an
eighth of its channels (all 686 tensors; the half is far larger than any cache, like the whole), and
many small tensors. Competitors take turns in one run, cold and hot, the best sample of each counts,
and results are compared before they are timed. The compiled loop is measured on lists of 48 tensors
alone, because it unrolls and takes minutes to compile for all 686.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

import gaussreg_fast as gf
from bench.harness.best import best_times, multiples
from bench.harness.errors import Wrong
from bench.harness.timing import OutOfTime, limit
from bench.studies.parameter_lists import LISTS, pair

WEIGHT = 0.5
COMPILED = ("first 48 of UNet / 8", "largest 48 of UNet / 2")
COMPILE_SECONDS = 300.0
SECONDS = 3.0  # for each task and clock


# ---------------------------------------------------------------- users' code


def loop(params: list[Tensor], base: list[Tensor]) -> Tensor:
    total = params[0].new_zeros(())
    for p, b in zip(params, base, strict=True):
        total = total + ((p - b) ** 2).sum()
    return WEIGHT * total


def foreach(params: list[Tensor], base: list[Tensor]) -> Tensor:
    differences = torch._foreach_sub(params, base)
    return WEIGHT * torch.stack(torch._foreach_norm(differences)).square().sum()


def foreach_by_hand(params: list[Tensor], base: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    differences = torch._foreach_sub(params, base)
    value = WEIGHT * torch.stack(torch._foreach_norm(differences)).square().sum()
    torch._foreach_mul_(differences, 2 * WEIGHT)
    return value, list(differences)


def loop_by_hand(params: list[Tensor], base: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    total, grads = params[0].new_zeros(()), []
    for p, b in zip(params, base, strict=True):
        d = p - b
        total = total + d.square().sum()
        grads.append(d.mul_(2 * WEIGHT))
    return WEIGHT * total, grads


def loop_accumulate(params: list[Tensor], base: list[Tensor]) -> Tensor:
    total = params[0].new_zeros(())
    for p, b in zip(params, base, strict=True):
        d = p - b
        total = total + d.square().sum()
        p.grad.add_(d, alpha=2 * WEIGHT)  # type: ignore[union-attr]
    return WEIGHT * total


def foreach_accumulate(params: list[Tensor], base: list[Tensor]) -> Tensor:
    differences = torch._foreach_sub(params, base)
    value = WEIGHT * torch.stack(torch._foreach_norm(differences)).square().sum()
    torch._foreach_add_([p.grad for p in params], differences, alpha=2 * WEIGHT)  # type: ignore[arg-type]
    return value


SHARE = 1e-6  # share of the way to the base; small, so that much of it is left for the next call


def loop_decay(params: list[Tensor], base: list[Tensor], share: float = SHARE) -> None:
    for p, b in zip(params, base, strict=True):
        p.lerp_(b, share)


def foreach_decay(params: list[Tensor], base: list[Tensor], share: float = SHARE) -> None:
    torch._foreach_lerp_(params, base, share)


def our_decay(params: list[Tensor], base: list[Tensor], share: float = SHARE) -> None:
    gf.parameter_drift_decay_(params, base, rate=-math.log1p(-share) / 2)


# The functions to compile, by task.
COMPILABLE: dict[str, Callable[[list[Tensor], list[Tensor]], Any]] = {
    "loss, backward": loop,
    "value and gradient": loop_by_hand,
}
TASKS: dict[str, dict[str, Callable[[list[Tensor], list[Tensor]], Any]]] = {
    "loss, backward": {
        "ours": partial(gf.parameter_drift, weight=WEIGHT),
        "loop": loop,
        "foreach": foreach,
    },
    "value and gradient": {
        "ours": partial(gf.parameter_drift_value_and_grad, weight=WEIGHT),
        "loop": loop_by_hand,
        "foreach": foreach_by_hand,
    },
    "added to .grad": {
        "ours": partial(gf.accumulate_parameter_drift, weight=WEIGHT),
        "loop": loop_accumulate,
        "foreach": foreach_accumulate,
    },
    "value": {
        "ours": partial(gf.parameter_drift, weight=WEIGHT),
        "loop": loop,
        "foreach": foreach,
    },
    "decay": {"ours": our_decay, "loop": loop_decay, "foreach": foreach_decay},
}


def tasks(
    params: list[Tensor], base: list[Tensor], compiled: dict[str, Callable[..., Any]]
) -> dict[str, dict[str, Callable[[], Any]]]:
    """Return the calls by task and competitor."""

    def backward(value: Callable[[list[Tensor], list[Tensor]], Tensor]) -> Tensor:
        for p in params:
            p.grad = None
        result = value(params, base)
        result.backward()
        return result

    @torch.no_grad()
    def without_grad(value: Callable[[list[Tensor], list[Tensor]], Any]) -> Any:
        return value(params, base)

    def with_grads(value: Callable[[list[Tensor], list[Tensor]], Any]) -> Any:
        for p in params:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        return without_grad(value)

    run = {"loss, backward": backward, "added to .grad": with_grads}
    found: dict[str, dict[str, Callable[[], Any]]] = {}
    for task, named in TASKS.items():
        more = {"compile": compiled[task]} if task in compiled else {}
        make = run.get(task, without_grad)
        found[task] = {name: partial(make, call) for name, call in (named | more).items()}
    return found


def verify(calls: dict[str, dict[str, Callable[[], Any]]], params: list[Tensor]) -> None:
    """Raise Wrong unless all competitors compute the same value and gradients."""
    for task, named in calls.items():
        if task == "decay":  # checked by `verify_decay`
            continue
        seen: list[Tensor] | None = None
        for name, call in named.items():
            for p in params:
                p.grad = None
            result = call()
            value, grads = (
                result if isinstance(result, tuple) else (result, [p.grad for p in params])
            )
            parts = [value.detach(), *(g for g in grads if g is not None)]
            seen = seen or parts
            _same(f"{task}: {name}", parts, seen)


def verify_decay(
    decays: dict[str, Callable[..., Any]], params: list[Tensor], base: list[Tensor]
) -> None:
    """Raise Wrong unless all decay alike, on a few parameters and by a larger share than timed."""
    seen: list[Tensor] | None = None
    for name, decay in decays.items():
        copies = [p.detach().clone() for p in params[:48]]
        decay(copies, base[:48], share=0.25)
        seen = seen or copies
        _same(f"decay: {name}", copies, seen)


def _same(name: str, got: list[Tensor], want: list[Tensor]) -> None:
    if len(got) != len(want):
        raise Wrong(f"{name} gives {len(got)} tensors, ours {len(want)}")
    for i, (one, other) in enumerate(zip(got, want, strict=True)):
        if not torch.allclose(one, other, rtol=1e-3, atol=1e-5):
            raise Wrong(f"{name}: tensor {i} differs from ours")


def compiled(params: list[Tensor], base: list[Tensor]) -> dict[str, Callable[..., Any]]:
    """Return the compiled loops by task, without those that take too long to compile."""
    found: dict[str, Callable[..., Any]] = {}
    for task, function in COMPILABLE.items():
        call = torch.compile(function)
        try:
            with limit(COMPILE_SECONDS), torch.set_grad_enabled(task == "loss, backward"):
                result = call([p.detach().clone().requires_grad_() for p in params], base)
                if task == "loss, backward":
                    result.backward()
        except OutOfTime:
            continue
        found[task] = call
    return found


def measure(name: str, threads: int, seconds: float, with_compile: bool) -> dict[str, Any]:
    torch.set_num_threads(threads)
    params, base = pair(LISTS[name]())
    calls = tasks(params, base, compiled(params, base) if with_compile else {})
    verify(calls, params)
    verify_decay(TASKS["decay"], params, base)
    return {
        "list": name,
        "threads": threads,
        "tensors": len(params),
        "numbers": sum(p.numel() for p in params),
        "microseconds": {task: best_times(c, seconds) for task, c in calls.items()},
    }


def lines(case: dict[str, Any]) -> Iterator[str]:
    yield f"{case['list']} ({case['numbers']} numbers), {case['threads']} thread(s)"
    for task, times in case["microseconds"].items():
        for line in multiples(times, of="ours"):
            yield f"  {task}, {line}"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--compile", action="store_true", help="Also measure the compiled loop. It takes minutes."
    )
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="Measure only lists whose name contains TEXT."
    )


def run(options: argparse.Namespace) -> dict[str, Any]:
    cases = []
    for threads in (1, 2):
        for name in LISTS:
            if options.only in name:
                with_compile = options.compile and name in COMPILED and threads == 1
                cases.append(measure(name, threads, options.seconds, with_compile))
                print("\n".join(lines(cases[-1])), flush=True)
    return {"benchmark": "parameter drift on the CPU, float32", "cases": cases}
