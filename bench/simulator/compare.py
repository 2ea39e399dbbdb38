"""Compute a case's results with the float64 reference, and the errors of its own."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from bench.simulator import calls
from bench.simulator.calls import SEED, Errors, Results
from bench.simulator.cases import Case, laid_out, samples
from gaussreg_fast import reference

# Results that are compared to the bit.
EXACT = ("forward", "inverse")


def errors(case: Case, got: Results) -> Errors:
    """Return the largest difference of each result over its largest expected number, by row."""
    want = wanted(case)
    if got.keys() != want.keys():
        raise ValueError(f"{case}: results must be {sorted(want)}, got {sorted(got)}")
    found: Errors = {}
    for name, value in got.items():
        if name.startswith(EXACT):
            found[name] = float((value != want[name]).sum())
        elif case.fill:
            found |= _by_sample(case, name, value, want[name])
        else:
            found[name] = _relative(value, want[name])
    return found


def limit(case: Case, name: str) -> float:
    """Return the allowed error: float32 arithmetic, and one rounding to the result's type."""
    if name.startswith(EXACT):
        return 0.0
    if name.startswith(("value", "moments", "blocks")):
        return 5e-6
    rounding = {"bfloat16": 2.0**-8, "float16": 2.0**-11}.get(case.dtype, 0.0)
    return 3e-5 + 1.01 * rounding


def _relative(got: Tensor, want: Tensor) -> float:
    rows = want.shape[0] if want.dim() > 1 else 1
    g, w = (t.detach().double().reshape(rows, -1) for t in (got, want))
    if g.shape != w.shape or not g.isfinite().all():
        return math.inf
    scale = w.abs().amax(-1).clamp_min(1e-30)
    return float(((g - w).abs().amax(-1) / scale).max())


def _by_sample(case: Case, name: str, got: Tensor, want: Tensor) -> Errors:
    """Compare the middle sample apart, because its numbers must not affect the others."""
    others, middle = [0, 2], slice(1, 2)
    found = {name: _relative(got[others], want[others])}
    if case.fill in ("nan", "inf"):
        found[f"{name} is not NaN"] = 0.0 if got[1].isnan().all() else math.inf
    elif case.fill in ("zeros", "constant") or (case.task == "projection" and case.fill == "tiny"):
        # Bins that are 0, or the rounding of 0, have no direction to compare.
        found[f"{name} of {case.fill}"] = 0.0 if got[1].isfinite().all() else math.inf
    else:
        found[f"{name} of {case.fill}"] = _relative(got[middle], want[middle])
    return found


# ---------------------------------------------------------------- the reference


def wanted(case: Case) -> Results:
    """Compute a case's results in float64."""
    kind = case.task.partition("_" if case.task.startswith("path") else " ")[0]
    other = {"drift": _drift, "path": _path_kl, "permutation": _permutation}
    return other[kind](case) if kind in other else _of_samples(case)


def _of_samples(case: Case) -> Results:
    rows = laid_out(samples(case), case.layout).double()
    if case.task == "projection":
        return {"projection": reference.project_white_noise(rows, case.block_size)}
    if case.task in ("kl", "kurtosis", "norm"):
        return _by_moments(case, rows)
    _, index = calls.permutation_of(case)
    if index is not None:
        index = index.expand(rows.shape)
    if case.task in ("statistics", "pullback"):
        z = rows.requires_grad_()
        options = (case.orders, case.block_size, case.statistic)
        moments, blocks, _ = reference.permuted_statistics(z, index, *options)
        if case.task == "statistics":
            return {"moments": moments, "blocks": blocks}
        torch.autograd.backward((moments, blocks), [g.double() for g in calls.upstream(case)])
        assert z.grad is not None
        return {"gradient": z.grad}
    return _of_loss(case, rows, index)


def _of_loss(case: Case, rows: Tensor, index: Tensor | None) -> Results:
    """Compute the loss of moments and power spectrum, and its gradient."""
    options: dict[str, Any] = {
        "orders": () if case.task == "spectrum" else case.orders,
        "form": case.form,
        "power_weight": {"spectrum": 1.0, "moments": 0.0}.get(case.task, case.power_weight),
        "block_size": case.block_size,
        "target": reference.block_target("exact", case.statistic),
        "statistic": case.statistic,
    }
    value, gradient = reference.loss_and_gradient(rows, index, **options)
    assert gradient is not None
    if case.task == "value":
        return {"value": value}
    if case.fill == "tiny":  # float32 backends take amplitudes below 1e-18 for 0
        bare = reference.loss_and_gradient(rows, index, **{**options, "power_weight": 0.0})[1]
        assert bare is not None
        gradient[1] = bare[1]
    if case.task in ("backward", "moments", "spectrum"):
        gradient = gradient * calls.weights(case).double()[:, None]
    return {"value": value, "gradient": gradient}


def _by_moments(case: Case, rows: Tensor) -> Results:
    z = rows.requires_grad_()
    m = {n: (z**n).mean(-1) for n in (1, 2, 4)}
    size = rows.shape[-1]
    if case.task == "kl":
        v = m[2] - m[1] ** 2
        value = (v + m[1] ** 2 - 1 - v.log()) / 2
    elif case.task == "kurtosis":
        value = (m[4] / m[2] ** 2 - 3) ** 2
    else:
        value = size * m[2] / 2 - (size - 1) * (size * m[2]).log() / 2
    value.backward(calls.weights(case).double())
    assert z.grad is not None
    return {"value": value.detach(), "gradient": z.grad}


def _drift(case: Case) -> Results:
    if case.task == "drift lora":
        a, b = (x.double() for x in calls.lora_factors(case))
        value = 2 * ((a * a).sum() + (b * b).sum())
        return {"value": value, "tensor 0": 4 * a, "tensor 1": 4 * b}
    params, base, before = calls.lists(case)
    task = case.task.split()[1]
    gaps = [p.double() - b.double() for p, b in zip(params, base, strict=True)]
    value = 2 * sum((gap * gap).sum() for gap in gaps)
    tensors = {
        "gradient": [4 * gap for gap in gaps],
        "accumulate": [b.double() + 4 * gap for b, gap in zip(before, gaps, strict=True)],
        "value": [],
    }[task]
    found: Results = {"value": torch.as_tensor(value)}
    return found | {f"tensor {k}": t for k, t in enumerate(tensors)}


def _path_kl(case: Case) -> Results:
    dmu, sigma, upstream = calls.path_kl_inputs(case)
    s = (sigma if sigma.dim() == 2 else sigma[:, None]).double()[..., None]
    z = dmu.double()
    value = ((z / s) ** 2).sum((0, 2)) / 2
    weight = torch.ones(3) if case.task == "path_both" else upstream
    gradient = weight.double()[None, :, None] * z / s**2
    parts = {"value": value, "gradient": gradient}
    names = {"path_both": parts, "path_value": ["value"], "path_backward": ["gradient"]}
    return {name: parts[name] for name in names[case.task]}


def _permutation(case: Case) -> Results:
    seed = torch.tensor([SEED])
    return {
        f"{'inverse' if inverse else 'forward'} {count}": reference.permutation(
            seed, case.dimension, samples=count or None, inverse=inverse
        )
        for count in (0, 2)
        for inverse in (False, True)
    }
