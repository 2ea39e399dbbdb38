"""Make a case's call of a public function, and its inputs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Protocol
from unittest import mock

import torch
from torch import Tensor

import gaussreg_fast as gf
from bench.simulator.cases import Case, laid_out, samples
from gaussreg_fast import reference
from gaussreg_fast.backends.triton import parameters

SEED = 123456789
Errors = dict[str, float]
Results = dict[str, Tensor]


class Home(Protocol):
    """A place for a call's tensors: watched memory (bench/simulator/memory.py), or a device."""

    indirect: bool  # whether kernels read addresses from memory

    def place(self, x: Tensor) -> Tensor:
        """Copy an input there, so that writes beside it are found."""

    def move(self, x: Tensor) -> Tensor:
        """Move an input there."""


@contextlib.contextmanager
def _in_pieces(case: Case) -> Iterator[None]:
    """Process batches one sample at a time if the case has `pieces`."""
    with contextlib.ExitStack() as stack:
        if case.pieces:
            for name in ("table_rows", "large_chunk", "chunk"):
                stack.enter_context(mock.patch.object(parameters, name, return_value=1))
        yield


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ---------------------------------------------------------------- calls


def call(case: Case, home: Home) -> Results:
    """Run a case with `backend="triton"`, with simulated launches or on a GPU."""
    with _in_pieces(case):
        kind = case.task.partition("_" if case.task.startswith("path") else " ")[0]
        other = {"drift": _drift, "path": _path_kl, "permutation": _permutation}
        return other[kind](case, home) if kind in other else _sample_call(case, home)


def _input(case: Case, home: Home) -> Tensor:
    x = samples(case)
    return home.place(x) if case.layout == "plain" else laid_out(home.move(x), case.layout)


def permutation_of(case: Case) -> tuple[Any, Tensor | None]:
    """Return the permutation argument of a call, and the index (B or 1, D) that it stands for."""
    d, batch = case.dimension, case.batch
    if case.permutation == "none":
        return "none", None
    if case.permutation in ("shared", "per_sample"):
        count = batch if case.permutation == "per_sample" else 1
        return case.permutation, reference.permutation(torch.tensor([SEED]), d, samples=count)
    count = batch if case.permutation == "indices" else 1
    index = torch.stack([torch.randperm(d, generator=_generator(5 + k)) for k in range(count)])
    return (index if case.permutation == "indices" else index[0]), index


def upstream(case: Case) -> tuple[Tensor, Tensor]:
    """Draw gradients with respect to the moments and the block amplitudes."""
    blocks = -(-(case.dimension // 2) // case.block_size)
    generator = _generator(1)
    return (
        torch.randn(case.batch, len(case.orders), generator=generator),
        torch.randn(case.batch, blocks, generator=generator),
    )


def weights(case: Case) -> Tensor:
    """Return upstream gradients of unreduced losses, none of them 1."""
    return torch.linspace(0.5, 2.0, case.batch)


def _sample_call(case: Case, home: Home) -> Results:
    x = _input(case, home)
    options: dict[str, Any] = {"backend": "triton"}
    if case.task == "projection":
        return {"projection": gf.project_white_noise(x, block_size=case.block_size, **options)}
    if case.task in ("kl", "kurtosis", "norm"):
        function = {"kl": gf.kl_loss, "kurtosis": gf.kurtosis_loss, "norm": gf.norm_loss}[case.task]
        return _differentiated(lambda z: function(z, reduction="none", **options), x, case, home)
    kind = permutation_of(case)[0]
    options["permutation"] = home.move(kind) if isinstance(kind, Tensor) else kind
    options["seed"] = SEED
    spectral = {"block_size": case.block_size, "statistic": case.statistic, **options}
    if case.task in ("statistics", "pullback"):
        z = x.detach().requires_grad_(case.task == "pullback")
        moments, blocks = gf.permuted_statistics(z, orders=case.orders, **spectral)
        if case.task == "statistics":
            return {"moments": moments, "blocks": blocks}
        torch.autograd.backward((moments, blocks), [home.move(g) for g in upstream(case)])
        assert z.grad is not None
        return {"gradient": z.grad}
    if case.task == "moments":
        moments_only = {"orders": case.orders, "reduction": "none", "backend": "triton"}
        return _differentiated(lambda z: gf.moment_loss(z, **moments_only), x, case, home)
    spectral["reduction"] = "none"
    if case.task == "spectrum":
        return _differentiated(lambda z: gf.power_spectrum_loss(z, **spectral), x, case, home)
    spectral |= {"orders": case.orders, "form": case.form, "power_weight": case.power_weight}
    if case.task == "value":
        return {"value": gf.gaussianity_loss(x, **spectral)}
    if case.task == "backward":
        return _differentiated(lambda z: gf.gaussianity_loss(z, **spectral), x, case, home)
    value, gradient = gf.gaussianity_value_and_grad(x, **spectral)
    return {"value": value, "gradient": gradient}


def _differentiated(function: Any, x: Tensor, case: Case, home: Home) -> Results:
    """Return values (B,), and the gradient for upstream gradients other than 1."""
    z = x.detach().requires_grad_()
    value = function(z)
    value.backward(home.move(weights(case)))
    assert z.grad is not None
    return {"value": value.detach(), "gradient": z.grad}


def lists(case: Case) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Draw parameters, base, and earlier gradients, with tensors of odd sizes."""
    generator, mixed = _generator(3), case.dtype == "mixed"
    dtype = torch.float32 if mixed else getattr(torch, case.dtype)
    shapes = [case.dimension, 1, case.dimension // 2, 2048, 5]

    def draw(k: int, n: int) -> Tensor:
        kind = torch.bfloat16 if mixed and k % 2 else dtype
        return torch.randn(n, generator=generator).to(kind)

    params = [torch.randn(n, generator=generator).to(dtype) for n in shapes]
    base = [draw(k, n) for k, n in enumerate(shapes)]
    grads = [torch.randn(n, generator=generator).to(dtype) for n in shapes]
    return params, base, grads


def lora_factors(case: Case) -> tuple[Tensor, Tensor]:
    """Draw the factors A (r, n) and B (m, r)."""
    generator = _generator(3)
    a = torch.randn(4, case.dimension, generator=generator)
    return a, torch.randn(7, 4, generator=generator)


def _drift(case: Case, home: Home) -> Results:
    params, base, grads = lists(case)
    task = case.task.split()[1]
    home.indirect = True  # the kernel reads a table of addresses
    if task == "lora":
        a, b = (home.place(x).requires_grad_() for x in lora_factors(case))
        value = gf.lora_drift([(a, b)], weight=2.0, backend="triton")
        value.backward()
        assert a.grad is not None
        assert b.grad is not None
        return {"value": value.detach(), "tensor 0": a.grad, "tensor 1": b.grad}
    offset = int(case.task.endswith("unaligned"))

    def put(x: Tensor) -> Tensor:
        return home.place(torch.cat([x[:1].expand(offset), x]))[offset:]

    params, base, grads = ([put(x) for x in each] for each in (params, base, grads))
    options: dict[str, Any] = {"backend": "triton"}
    options |= {"weight": 2.0, "reduction": "sum"}
    if task == "value":
        return {"value": gf.parameter_drift(params, base, **options)}
    if task == "accumulate":
        for p, g in zip(params, grads, strict=True):
            p.requires_grad_().grad = g
        value = gf.accumulate_parameter_drift(params, base, **options)
        return {"value": value, **{f"tensor {k}": g for k, g in enumerate(grads)}}
    value, found = gf.parameter_drift_value_and_grad(params, base, **options)
    return {"value": value, **{f"tensor {k}": g for k, g in enumerate(found)}}


def path_kl_inputs(case: Case) -> tuple[Tensor, Tensor, Tensor]:
    generator, steps, batch = _generator(3), 7, 3
    dmu = torch.randn(steps, batch, case.dimension, generator=generator)
    columns = (steps, batch) if case.permutation == "per_sample" else (steps,)
    sigma = torch.rand(columns, generator=generator) + 0.3
    return dmu.to(getattr(torch, case.dtype)), sigma, torch.randn(batch, generator=generator)


def _path_kl(case: Case, home: Home) -> Results:
    dmu, sigma, upstream = path_kl_inputs(case)
    dmu, sigma = home.place(dmu), home.place(sigma)
    if case.task == "path_both":
        value, gradient = gf.path_kl_value_and_grad(dmu, sigma, backend="triton")
        return {"value": value, "gradient": gradient}
    if case.task == "path_value":
        return {"value": gf.path_kl(dmu, sigma, backend="triton")}
    dmu.requires_grad_()
    gf.path_kl(dmu, sigma, backend="triton").backward(home.move(upstream))
    assert dmu.grad is not None
    return {"gradient": dmu.grad}


def _permutation(case: Case, home: Home) -> Results:
    from gaussreg_fast.ops import permutation

    seed = home.place(torch.tensor([SEED]))
    return {
        f"{'inverse' if inverse else 'forward'} {count}": permutation(
            seed, case.dimension, count, inverse, "triton"
        )
        for count in (0, 2)
        for inverse in (False, True)
    }
