"""Fit the growth of time with D and with B, and find where one loss overtakes another."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from bench.harness import store
from bench.report.measure import typical

Curve = list[tuple[int, float]]  # (size, microseconds), by size
UPPER = 0.6  # share of the sizes that is fitted; at the smaller ones a call's overhead dominates


def curves(report: dict[str, Any], by: str, clock: str = "") -> dict[str, Curve]:
    """Return each call's curve by "dimension" (one sample) or by "batch" (D = 16384).

    Its times are those of a clock, or of each row's own.
    """
    found: dict[str, Curve] = {}
    for row in store.on_topic(report, "growth"):
        one_sample, one_size = row["batch"] == 1, row["dimension"] == 16384
        if one_sample if by == "dimension" else one_size:
            for call, us in typical(row, clock).items():
                found.setdefault(call, []).append((row[by], us))
    return {call: sorted(curve) for call, curve in found.items()}


def exponent(curve: Curve) -> dict[str, float] | None:
    """Fit a power law to a curve's upper part by least squares on logarithms.

    Return None for fewer than three points, because a line through two has no error.
    """
    used = curve[-max(3, math.ceil(UPPER * len(curve))) :]
    if len(used) < 3:
        return None
    x, y = np.log(np.array(used, dtype=float)).T
    x = x - x.mean()
    slope = float(x @ y / (x @ x))
    residual = y - y.mean() - slope * x
    error = math.sqrt(float(residual @ residual) / (len(used) - 2) / float(x @ x))
    return {"exponent": slope, "error": error, "from": used[0][0], "to": used[-1][0]}


def crossing(ours: Curve, other: Curve) -> dict[str, Any]:
    """Find the sizes where two curves cross, interpolated on logarithms, and the end ratios."""
    mine, theirs = dict(ours), dict(other)
    sizes = sorted(mine.keys() & theirs.keys())
    gaps = [math.log(theirs[size] / mine[size]) for size in sizes]
    found = [
        math.exp(math.log(a) + (math.log(b) - math.log(a)) * p / (p - q))
        for a, b, p, q in zip(sizes, sizes[1:], gaps, gaps[1:], strict=False)
        if (p < 0) != (q < 0)
    ]
    return {
        "at": found,
        "from": sizes[0],
        "to": sizes[-1],
        "ratio_at_first": math.exp(gaps[0]),
        "ratio_at_last": math.exp(gaps[-1]),
    }


def analysis(report: dict[str, Any]) -> dict[str, Any]:
    """Return by clock the exponents of every call by D and by B, and the crossings with ours."""
    rows = store.on_topic(report, "growth")
    clocks = dict.fromkeys(clock for row in rows for clock in row["us"])
    return {clock: _analysis(report, clock) for clock in clocks}


def _analysis(report: dict[str, Any], clock: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for by in ("dimension", "batch"):
        fits = {call: exponent(curve) for call, curve in curves(report, by, clock).items()}
        found[by] = {call: fit for call, fit in fits.items() if fit}
    by_size = curves(report, "dimension", clock)
    ours = by_size.get("value_and_grad", [])
    found["crossings"] = {
        call: crossing(ours, by_size[call])
        for call in ("covariance", "prno", "naive", "fft")
        if ours and call in by_size
    }
    return found
