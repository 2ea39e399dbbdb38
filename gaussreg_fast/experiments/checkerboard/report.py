"""Report the checkerboard experiment: a table, a picture and JSON."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from gaussreg_fast import _markdown
from gaussreg_fast.experiments import output
from gaussreg_fast.experiments.checkerboard.study import SHAPE, Outcome

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = (
    "guard", "iterations", "seconds", "m1", "m2", "m4", "L_power", "lag-1", "pattern left",
    "cosine to start", "p-value", "optimiser",
)  # fmt: skip
SHORT = ("guard", "iter", "sec", "m1", "m2", "m4", "L_power", "lag-1", "left", "cos", "p")


def as_json(outcomes: list[Outcome], samples: int, seed: int) -> dict[str, Any]:
    """Return all results but the latents, with the settings to run the experiment again."""
    rows = []
    for outcome in outcomes:
        row = asdict(outcome)
        del row["latents"]
        rows.append(row)
    return {
        **output.heading("checkerboard recovery"),
        "samples": samples,
        "shape": list(SHAPE),
        "seed": seed,
        "outcomes": rows,
    }


def _p_value(p: float) -> str:
    return f"{p:.2g}" if p > 1e-99 else "<1e-99"


def table_rows(result: dict[str, Any]) -> list[list[str]]:
    """Return the cells of the table, in the order of `COLUMNS`, without the heading."""
    return [
        [
            row["name"],
            str(row["iterations"]),
            f"{row['seconds']:.2f}",
            f"{row['moments'][0]:+.3f}",
            f"{row['moments'][1]:.3f}",
            f"{row['moments'][3]:.2f}",
            f"{row['power']:.4f}",
            f"{row['lag1']:+.3f}",
            f"{100 * row['pattern']:.0f} %",
            f"{row['cosine']:+.3f}",
            _p_value(row["p_value"]),
            row["settings"],
        ]
        for row in result["outcomes"]
    ]


def markdown(result: dict[str, Any]) -> str:
    """Return the table in Markdown."""
    return "\n".join(_markdown.table(COLUMNS, table_rows(result))) + "\n"


def picture(outcomes: list[Outcome]) -> Figure:
    """Plot latents, their spectra and loss curves, a column per guard; lag-1 over time below."""
    from matplotlib.figure import Figure

    n = len(outcomes)
    figure = Figure(figsize=(1.9 * n, 7.4), layout="constrained")
    grid = figure.add_gridspec(4, n, height_ratios=[1.55, 1.7, 1, 1.5])
    for k, outcome in enumerate(outcomes):
        plane = outcome.latents[0, 0]
        latent = figure.add_subplot(grid[0, k])
        latent.imshow(plane.numpy(), cmap="gray", vmin=-3, vmax=3)
        latent.set(title=outcome.name, xticks=[], yticks=[])
        spectrum = figure.add_subplot(grid[1, k])
        power = torch.fft.fftshift(torch.fft.fft2(plane, norm="ortho")).abs().square()
        spectrum.imshow(power.clamp_min(1e-3).log10().numpy(), cmap="magma", vmin=-2, vmax=3)
        spectrum.set(xticks=[], yticks=[], xlabel=f"p {_p_value(outcome.p_value)}")
        curve = figure.add_subplot(grid[2, k])
        if outcome.losses:
            curve.plot(outcome.losses, lw=1)
            curve.set(title="loss", xticks=[0, len(outcome.losses)])
            curve.title.set_fontsize("small")
            curve.tick_params(labelsize="x-small")
            curve.yaxis.get_offset_text().set_fontsize("xx-small")
        else:
            curve.set_axis_off()
        if k == 0:
            latent.set_ylabel("latent, channel 0")
            spectrum.set_ylabel("log power spectrum")
    lag1 = figure.add_subplot(grid[3, :])
    for k, outcome in enumerate(outcomes[1:], start=1):
        values = outcome.lag1_curve
        marker = "o" if len(values) == 2 else None
        lag1.plot(values, color=f"C{k}", marker=marker, ms=3, label=outcome.name)
    lag1.axhline(0, color="k", lw=0.6)
    lag1.set(xlabel="iteration", ylabel="lag-1 autocorrelation")
    lag1.legend(ncols=n - 1, fontsize="small", loc="upper right")
    figure.suptitle("Checkerboard recovery: one Gaussianity loss and nothing else")
    return figure


def save(outcomes: list[Outcome], result: dict[str, Any], folder: Path) -> list[Path]:
    """Write demo.png, demo.md and demo.json, each whole or not at all; return the paths."""
    return output.save("demo", picture(outcomes), markdown(result), result, folder)
