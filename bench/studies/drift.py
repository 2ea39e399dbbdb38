"""Parameter drift against what users write: a loop, torch._foreach_*, torch.compile.

    python -m bench.drift [--out bench/results/drift.json]
    python -m bench.drift --memory [--out bench/results/drift_memory.json]

Lists of float32 parameters: those of Stable Diffusion 1.5's UNet with a half and with an eighth of
its channels (all 686 tensors; the first is far larger than any cache, as the whole is), and many
small tensors. Competitors take turns in one run, the best sample of each counts, and what they
compute is compared before it is timed. The compiled loop is measured on lists of 48 tensors alone:
it unrolls, and of all 686 tensors takes minutes to compile.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

import gaussreg_fast as gf
from bench.harness.errors import Wrong
from bench.harness.timing import OutOfTime, limit
from bench.studies import common, drift_memory

Shapes = list[tuple[int, ...]]
WEIGHT = 0.5
COMPILED = ("first 48 of UNet / 8", "largest 48 of UNet / 2")
COMPILE_SECONDS = 300.0


def unet_shapes(divisor: int = 1) -> Shapes:
    """Shapes of Stable Diffusion 1.5's UNet, channels and widths divided."""
    channels = [c // divisor for c in (320, 640, 1280, 1280)]
    time, context = 4 * channels[0], 768 // divisor
    shapes: Shapes = [*_conv(4, channels[0]), *_linear(channels[0], time), *_linear(time, time)]
    skips, width = [channels[0]], channels[0]
    for level, c in enumerate(channels):
        for _ in range(2):
            shapes += _resnet(width, c, time) + (_attention(c, context) if level < 3 else [])
            width = c
            skips.append(c)
        if level < 3:
            shapes += _conv(c, c)
            skips.append(c)
    shapes += _resnet(width, width, time) + _attention(width, context) + _resnet(width, width, time)
    for level, c in reversed(list(enumerate(channels))):
        for _ in range(3):
            shapes += _resnet(width + skips.pop(), c, time)
            shapes += _attention(c, context) if level < 3 else []
            width = c
        shapes += _conv(c, c) if level else []
    return shapes + [(width,)] * 2 + _conv(width, 4)


def _linear(n: int, m: int, bias: bool = True) -> Shapes:
    return [(m, n), (m,)] if bias else [(m, n)]


def _conv(n: int, m: int, size: int = 3) -> Shapes:
    return [(m, n, size, size), (m,)]


def _resnet(n: int, m: int, time: int) -> Shapes:
    shortcut = [] if n == m else _conv(n, m, 1)
    return [(n,)] * 2 + _conv(n, m) + _linear(time, m) + [(m,)] * 2 + _conv(m, m) + shortcut


def _attention(c: int, context: int) -> Shapes:
    shapes = [(c,)] * 2 + _conv(c, c, 1) + [(c,)] * 6
    for width in (c, context):
        shapes += [(c, c), (c, width), (c, width), *_linear(c, c)]
    return shapes + _linear(c, 8 * c) + _linear(4 * c, c) + _conv(c, c, 1)


LISTS: dict[str, Callable[[], Shapes]] = {
    "UNet / 2": lambda: unet_shapes(2),
    "UNet / 8": lambda: unet_shapes(8),
    "first 48 of UNet / 8": lambda: unet_shapes(8)[:48],
    "largest 48 of UNet / 2": lambda: sorted(unet_shapes(2), key=math.prod)[-48:],
    "2000 small": lambda: [(64 + 61 * i % 960,) for i in range(2000)],
}


def pair(shapes: Shapes) -> tuple[list[Tensor], list[Tensor]]:
    """Parameters and their base."""
    generator = torch.Generator().manual_seed(0)
    base = [torch.randn(shape, generator=generator) for shape in shapes]
    params = [b + 0.1 * torch.randn(b.shape, generator=generator) for b in base]
    return [p.requires_grad_() for p in params], base


# ---------------------------------------------------------------- what users write


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


SHARE = 1e-6  # of the way to the base, so that much of it is left for the next call


def loop_decay(params: list[Tensor], base: list[Tensor], share: float = SHARE) -> None:
    for p, b in zip(params, base, strict=True):
        p.lerp_(b, share)


def foreach_decay(params: list[Tensor], base: list[Tensor], share: float = SHARE) -> None:
    torch._foreach_lerp_(params, base, share)


def our_decay(params: list[Tensor], base: list[Tensor], share: float = SHARE) -> None:
    gf.parameter_drift_decay_(params, base, rate=-math.log1p(-share) / 2)


# What is compiled, by task.
COMPILABLE: dict[str, Callable[[list[Tensor], list[Tensor]], Any]] = {
    "loss, backward": loop,
    "value and gradient": loop_by_hand,
}


def tasks(
    params: list[Tensor], base: list[Tensor], compiled: dict[str, Callable[..., Any]]
) -> dict[str, dict[str, Callable[[], Any]]]:
    """Task -> competitor -> call."""

    def backward(value: Callable[[list[Tensor], list[Tensor]], Tensor]) -> Callable[[], Any]:
        def call() -> Tensor:
            for p in params:
                p.grad = None
            result = value(params, base)
            result.backward()
            return result

        return call

    def silent(value: Callable[[list[Tensor], list[Tensor]], Any]) -> Callable[[], Any]:
        @torch.no_grad()
        def call() -> Any:
            return value(params, base)

        return call

    def with_grads(value: Callable[[list[Tensor], list[Tensor]], Any]) -> Callable[[], Any]:
        def call() -> Any:
            for p in params:
                if p.grad is None:
                    p.grad = torch.zeros_like(p)
            return silent(value)()

        return call

    ours = {
        "loss, backward": lambda p, b: gf.parameter_drift(p, b, weight=WEIGHT),
        "value and gradient": lambda p, b: gf.parameter_drift_value_and_grad(p, b, weight=WEIGHT),
        "added to .grad": lambda p, b: gf.accumulate_parameter_drift(p, b, weight=WEIGHT),
        "value": lambda p, b: gf.parameter_drift(p, b, weight=WEIGHT),
        "decay": our_decay,
    }
    theirs: dict[str, dict[str, Any]] = {
        "loss, backward": {"loop": loop, "foreach": foreach},
        "value and gradient": {"loop": loop_by_hand, "foreach": foreach_by_hand},
        "added to .grad": {"loop": loop_accumulate, "foreach": foreach_accumulate},
        "value": {"loop": loop, "foreach": foreach},
        "decay": {"loop": loop_decay, "foreach": foreach_decay},
    }
    for task, call in compiled.items():
        theirs[task]["compile"] = call
    wrap = {"loss, backward": backward, "added to .grad": with_grads}
    return {
        task: {
            name: wrap.get(task, silent)(call)
            for name, call in {"ours": ours[task], **theirs[task]}.items()
        }
        for task in ours
    }


def verify(calls: dict[str, dict[str, Callable[[], Any]]], params: list[Tensor]) -> None:
    """That all competitors compute the same value and gradients."""
    for task, named in calls.items():
        if task == "decay":  # see `verify_decay`
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
    """That all go as far, on a few of the parameters and further than when timed."""
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
            raise Wrong(f"{name} gives another tensor {i} than ours")


def compiled(params: list[Tensor], base: list[Tensor]) -> dict[str, Callable[..., Any]]:
    """The loops compiled, by task; without those that take too long."""
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
    verify_decay({"ours": our_decay, "loop": loop_decay, "foreach": foreach_decay}, params, base)
    return {
        "list": name,
        "threads": threads,
        "tensors": len(params),
        "numbers": sum(p.numel() for p in params),
        "microseconds": {task: common.best_times(c, seconds) for task, c in calls.items()},
    }


def lines(case: dict[str, Any]) -> Iterator[str]:
    yield f"{case['list']} ({case['numbers']} numbers), {case['threads']} thread(s)"
    for task, times in case["microseconds"].items():
        ratios = ", ".join(f"{n} {t / times['ours']:.2f}" for n, t in times.items() if n != "ours")
        yield f"  {task:20} {times['ours']:9.0f} us; times ours: {ratios}"


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--seconds", type=float, default=6.0, help="a task")
    parser.add_argument("--compile", action="store_true", help="the compiled loop as well: minutes")
    parser.add_argument("--only", default="", help="lists whose name contains this")
    parser.add_argument("--memory", action="store_true", help="memory of 1e9 parameters: 8 GB free")
    options = parser.parse_args()
    if options.memory:
        try:
            case = drift_memory.measure()
        except Wrong as refused:
            sys.exit(str(refused))
        print("\n".join(drift_memory.lines(case)), flush=True)
        common.save(options.out, benchmark="memory of parameter drift on the CPU", **case)
        return
    cases = []
    for threads in (1, 2):
        for name in LISTS:
            if options.only in name:
                with_compile = options.compile and name in COMPILED and threads == 1
                cases.append(measure(name, threads, options.seconds, with_compile))
                print("\n".join(lines(cases[-1])), flush=True)
    common.save(options.out, benchmark="parameter drift on the CPU, float32", cases=cases)


if __name__ == "__main__":
    main()
