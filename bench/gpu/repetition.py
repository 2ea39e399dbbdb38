"""Check that results repeat to the bit: over runs, graph replays, streams and threads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

import gaussreg_fast as gf
from bench.gpu.stage import Part, Row
from bench.harness.errors import Wrong
from bench.harness.timing import GpuClock
from bench.subjects.correctness import same_bits
from gaussreg_fast.backends.triton.parameters import FEW

DIMENSIONS = (16384, 65536, 1024, 36864)
BATCH = 40  # more than one piece of a batch of large samples
RUNS, SMALL_RUNS = 100, 3


def parts(small: bool) -> list[Part]:
    runs, batch = (SMALL_RUNS, 3) if small else (RUNS, BATCH)
    sizes = (64,) if small else DIMENSIONS
    found: dict[str, Callable[[], Row]] = {}
    kernels: dict[str, Callable[[], Any]] = {}

    def add(name: str, call: Callable[[], Row], launch: Callable[[], Any]) -> None:
        found[name], kernels[name] = call, launch

    for d in sizes:
        for kind in ("shared", "per_sample"):
            call = partial(_value_and_grad, d, kind)
            add(f"runs D={d} {kind}", partial(_runs, call, batch, runs), partial(call, FEW))
        add(f"graph D={d}", partial(_replays, d), partial(_with_drawn_permutation, d))
    for d in sizes[:2]:
        call = partial(_projected, d)
        add(f"runs D={d} projection", partial(_runs, call, batch, runs), partial(call, FEW))
    for d in sizes[:2]:
        call = partial(_value_and_grad, d, "shared")
        add(f"streams D={d}", partial(_streams, d, batch), partial(call, FEW))
        add(f"threads D={d}", partial(_threads, d, batch, min(runs, 20)), partial(call, FEW))
    return [Part(n, lambda _, c=call: c(), 1.0, {n: kernels[n]}) for n, call in found.items()]


def _value_and_grad(dimension: int, kind: str, batch: int) -> tuple[Tensor, ...]:
    x = torch.randn(batch, dimension, generator=torch.Generator().manual_seed(batch)).cuda()
    seed = torch.tensor([7], device="cuda")
    return gf.gaussianity_value_and_grad(x, seed=seed, permutation=kind, reduction="none")


def _projected(dimension: int, batch: int) -> tuple[Tensor, ...]:
    x = torch.randn(batch, dimension, generator=torch.Generator().manual_seed(batch)).cuda()
    return (gf.project_white_noise(x),)


def _with_drawn_permutation(dimension: int) -> tuple[Tensor, ...]:
    return gf.gaussianity_value_and_grad(torch.randn(FEW, dimension, device="cuda"))


def _runs(call: Callable[[int], tuple[Tensor, ...]], batch: int, runs: int) -> Row:
    first = call(batch)
    for number in range(1, runs):
        same_bits(f"run {number}", call(batch), first)
    return {"runs": runs, "batch": batch}


def _replays(dimension: int) -> Row:
    """Check that each replay draws a permutation of its own, and that its loss is that of noise."""
    x = torch.randn(FEW, dimension, device="cuda")
    graph = GpuClock.captured(lambda _: gf.gaussianity_value_and_grad(x))
    value, grad = graph.result
    values, grads = [], []
    for _ in range(8):
        graph(0)
        values.append(float(value))
        grads.append(grad.clone())
    if len(set(values)) < 6 or torch.equal(grads[0], grads[1]):
        raise Wrong(f"replays repeat their permutation: {values}")
    eager = sum(float(gf.gaussianity_value_and_grad(x)[0]) for _ in range(8)) / 8
    replayed = sum(values) / 8
    if not abs(eager - replayed) < 0.4 * eager:
        raise Wrong(f"replays have the mean loss {replayed:.4g}, eager calls {eager:.4g}")
    return {"values": values, "eager": eager}


def _streams(dimension: int, batch: int) -> Row:
    xs = [torch.randn(batch, dimension, device="cuda") for _ in range(2)]
    alone = [gf.gaussianity_value_and_grad(x, seed=k) for k, x in enumerate(xs)]
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in xs]
    for _ in range(5):
        results = []
        for k, (x, stream) in enumerate(zip(xs, streams, strict=True)):
            with torch.cuda.stream(stream):
                results.append(gf.gaussianity_value_and_grad(x, seed=k))
        torch.cuda.synchronize()
        for got, want in zip(results, alone, strict=True):
            same_bits("two streams", got, want)
    return {"streams": 2}


def _threads(dimension: int, batch: int, runs: int) -> Row:
    x = torch.randn(batch, dimension, device="cuda")
    want = gf.gaussianity_value_and_grad(x, seed=1)
    torch.cuda.synchronize()
    failed: list[BaseException] = []

    def work() -> None:
        try:
            with torch.cuda.stream(torch.cuda.Stream()):
                for _ in range(runs):
                    got = gf.gaussianity_value_and_grad(x, seed=1)
                    torch.cuda.current_stream().synchronize()
                    same_bits("two threads", got, want)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    return {"threads": 2}
