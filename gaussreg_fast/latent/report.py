"""Report a run: a table of all iterations, a table of all samples, curves and a page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gaussreg_fast import _markdown
from gaussreg_fast._files import atomic_path, write_text
from gaussreg_fast.latent import storage, strict_yaml
from gaussreg_fast.latent.folder import KINDS, RunFolder
from gaussreg_fast.latent.problem import STATUS, Sample
from gaussreg_fast.latent.settings import RunConfig

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PICTURES = 12
_NO_MEASURE = ("sample", "seed", "iteration", "status")


def write(
    folder: RunFolder, config: RunConfig, batches: Sequence[Sequence[Sample]]
) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
    """Write metrics.csv, samples.csv, latents.safetensors, curves.png and report.md.

    Returns:
        A mapping per sample, and the latents by kind, (samples, *latent) float32.
    """
    places = [folder.batch(index) for index in range(len(batches))]
    parts, tables = zip(*(place.read() for place in places), strict=True)
    heading = tables[0][0]
    rows = [row for lines in tables for row in lines[1:]]
    storage.write_csv(folder.path / "metrics.csv", heading, rows)
    whole = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    latents = {kind: whole[kind] for kind in KINDS}
    storage.save_tensors(folder.path / "latents.safetensors", latents)
    samples = [sample for batch in batches for sample in batch]
    table = _samples(heading, rows, samples, whole)
    storage.write_csv(
        folder.path / "samples.csv", list(table[0]), [list(row.values()) for row in table]
    )
    with atomic_path(folder.path / "curves.png") as temporary:
        _curves(heading, rows).savefig(temporary, dpi=110, format="png")
    write_text(folder.path / "report.md", page(folder, config, table))
    return table, latents


def _samples(
    heading: Sequence[str],
    rows: Sequence[Sequence[str]],
    samples: Sequence[Sample],
    whole: dict[str, Tensor],
) -> list[dict[str, Any]]:
    """Return a row per sample: prompt, seed, status, and the measures of three iterates."""
    by_sample: dict[int, dict[int, Sequence[str]]] = {}
    for row in rows:
        by_sample.setdefault(int(row[0]), {})[int(row[2])] = row
    table = []
    for sample in samples:
        iterates = by_sample[sample.index]
        chosen = {
            "start": 0, "best": int(whole["best.iteration"][sample.index]), "final": max(iterates),
        }  # fmt: skip
        line: dict[str, Any] = {
            "sample": sample.index,
            "prompt": sample.prompt,
            "seed": sample.seed,
            "status": STATUS[int(whole["status"][sample.index])],
            "iterations": chosen["final"],
            "best_iteration": chosen["best"],
        }
        if line["status"] == "running":
            line["status"] = "finished"
        for kind, iteration in chosen.items():
            for name, value in zip(heading, iterates[iteration], strict=True):
                if name not in _NO_MEASURE:
                    line[f"{kind}/{name}"] = float(value) if value else math.nan
        table.append(line)
    return table


def _curves(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> Figure:
    """Plot every measure over the iterations: a thin line per sample, the median thick."""
    from matplotlib.figure import Figure

    names = [
        name
        for k, name in enumerate(heading)
        if name not in _NO_MEASURE and any(row[k] for row in rows)
    ]
    columns = 3
    height = math.ceil(len(names) / columns)
    figure = Figure(figsize=(4 * columns, 2.4 * height), layout="constrained")
    axes = figure.subplots(height, columns, squeeze=False).ravel()
    for axis, name in zip(axes, names, strict=False):
        column = list(heading).index(name)
        curves: dict[str, list[tuple[int, float]]] = {}
        for row in rows:
            if row[column]:
                curves.setdefault(row[0], []).append((int(row[2]), float(row[column])))
        at: dict[int, list[float]] = {}
        for curve in curves.values():
            axis.plot(*zip(*curve, strict=True), color="tab:blue", lw=0.5, alpha=0.4)
            for iteration, value in curve:
                at.setdefault(iteration, []).append(value)
        middle = [float(_tensor(at[t]).nanmedian()) for t in sorted(at)]
        axis.plot(sorted(at), middle, color="tab:blue", lw=2)
        axis.set_title(name, fontsize="medium")
        if name == "p_value":
            axis.set(yscale="log", ylim=(1e-6, 1.5))
    for axis in axes[len(names) :]:
        axis.set_axis_off()
    for axis in axes[-columns:]:
        axis.set_xlabel("iteration")
    return figure


def page(folder: RunFolder, config: RunConfig, table: Sequence[dict[str, Any]]) -> str:
    """Return the report in Markdown: the problem, a summary, pictures and settings."""
    target = " + ".join(f"{r.weight:g} {_markdown.escape(r.name)}" for r in config.rewards)
    held = ", ".join(_markdown.escape(r.name) for r in config.held_out) or "none"
    failed = [row for row in table if row["status"] == "failed"]
    lines = [
        "# Latent optimisation",
        "",
        f"{len(table)} samples of {_markdown.code(config.model.source)}, reward {target}, "
        f"held out: {held}, guard {config.guard.name}, {config.iterations} iterations of "
        f"{config.optimizer.name} "
        f"with learning rate {config.optimizer.lr:g}. The best iterate is "
        f"{_CHOICE[config.selection]}.",
        "",
    ]
    for row in failed:
        lines += [
            f"**Sample {row['sample']} failed** in iteration {row['iterations']}: its reward, its "
            "guard or a gradient was not finite. Its best iterate is an earlier one.",
            "",
        ]
    lines += [*_summary(table, config), "", "![curves](curves.png)", "", *_pictures(folder, table)]
    settings = (folder.path / "config.yaml").read_text(encoding="utf-8")
    block = _markdown.block(settings.removesuffix(strict_yaml.END), "yaml")
    return "\n".join([*lines, "", "## Settings", "", *block, ""])


_CHOICE = {
    "held_out": "the one with the largest held-out rewards",
    "gaussianity": "the latest whose noise still passes as Gaussian",
    "last": "the last",
}


def _summary(table: Sequence[dict[str, Any]], config: RunConfig) -> list[str]:
    """Return a table of means and standard errors over the samples, a row per measure."""
    rewards = config.reward_columns if len(config.rewards) > 1 else []
    held = config.held_out_columns
    lines = []
    for name in ["reward", *rewards, *held, "guard", "p_value", "cosine", "distance"]:
        means = [_mean([row[f"{kind}/{name}"] for row in table]) for kind in KINDS]
        lines.append([_markdown.escape(name), *means])
    return _markdown.table(["mean over samples", *KINDS], lines)


def _tensor(values: Sequence[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64, device="cpu")


def _mean(values: Sequence[float]) -> str:
    finite = _tensor([v for v in values if math.isfinite(v)])
    if not len(finite):
        return ""
    error = f" ± {finite.std() / len(finite) ** 0.5:.2g}" if len(finite) > 1 else ""
    return f"{finite.mean():.4g}{error}"


def _pictures(folder: RunFolder, table: Sequence[dict[str, Any]]) -> list[str]:
    shown = []
    for row in table[:PICTURES]:
        number, iterations = row["sample"], (0, row["best_iteration"], row["iterations"])
        cells = [
            f'<img src="{folder.image(number, kind).relative_to(folder.path)}" width="160" '
            f'style="image-rendering: pixelated"><br>iteration {iteration}, reward '
            f"{row[f'{kind}/reward']:.4g}"
            for kind, iteration in zip(KINDS, iterations, strict=True)
        ]
        prompt = _markdown.escape(row["prompt"])
        shown.append([str(number), f"{prompt}, {row['seed']}", *cells])
    lines = _markdown.table(["sample", "prompt, seed", *KINDS], shown)
    if len(table) > PICTURES:
        lines.append(f"\n{len(table) - PICTURES} more samples in images/ and samples.csv.")
    return lines
