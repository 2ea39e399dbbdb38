"""Report the frontier experiment: a table, its verdicts, a picture and JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gaussreg_fast import _markdown
from gaussreg_fast.experiments import output, statistics
from gaussreg_fast.experiments.frontier import analysis
from gaussreg_fast.experiments.frontier.study import BASELINE, MEASURES, PICTURES, Arm, Design
from gaussreg_fast.latent.guards import GUARDS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

AllCurves = Mapping[str, analysis.Curves]
LEVELS = 25
COLUMNS = (
    "guard", "weight", "reward", "held-out", "agree", "cosine", "iterations to matched reward",
    "held-out there", "p-value there", "cosine there", "against none there", "",
)  # fmt: skip
NAMES = {
    "held_out": "held-out log-probability of the prompt",
    "agree": "held-out classifiers that agree with the prompt",
    "nearest": "minus distance to the nearest real digit",
    "p_value": "mean p-value of the noise",
    "cosine": "cosine to the starting noise",
}


def as_json(
    design: Design,
    arms: list[Arm],
    curves: AllCurves,
    tuning: Mapping[str, Mapping[float, float]] | None = None,
) -> dict[str, Any]:
    """Return all numbers of the table and the picture, with the settings to run it again.

    `tuning` holds the scores by which the weights were chosen, if this run chose them.
    """
    baseline = curves[BASELINE]
    level = analysis.hacked_reward(baseline)
    top = max(analysis.pooled(c, "reward").mean(0).max() for c in curves.values())
    low = analysis.pooled(baseline, "reward").mean(0)[0]
    levels = np.linspace(low, top, LEVELS)
    rows = []
    for arm in arms:
        own = curves[arm.name]
        rows.append(
            {
                "name": arm.name,
                "guard": asdict(arm.guard),
                "start": {
                    name: float(analysis.pooled(own, name)[:, 0].mean()) for name in MEASURES
                },
                **analysis.compare(own, baseline, level, MEASURES),
                "bands": {name: analysis.band(own, name, levels) for name in NAMES},
            }
        )
    return {
        **output.heading("reward against held-out score"),
        "design": asdict(design),
        "matched_reward": level,
        "votes_lost": analysis.votes_lost(baseline),
        "tuning": {
            name: {f"{weight:g}": score for weight, score in scores.items()}
            for name, scores in (tuning or {}).items()
        },
        "arms": rows,
    }


def _interval(e: Mapping[str, Any], form: str = ".2f") -> str:
    if statistics.missing(e):
        return "not reached"
    return f"{e['value']:{form}} ({e['low']:{form}} to {e['high']:{form}})"


def table_rows(result: Mapping[str, Any]) -> list[list[str]]:
    """Return the cells of the table, in the order of `COLUMNS`."""
    rows = []
    for arm in result["arms"]:
        last, there = arm["iterations"], arm["reward"]
        is_baseline = arm["name"] == BASELINE
        has_weight = GUARDS[arm["guard"]["name"]].loss is not None
        rows.append(
            [
                arm["name"],
                f"{arm['guard']['weight']:g}" if has_weight else "",
                f"{last['reward']['value']:.3f}",
                _interval(last["held_out"]),
                f"{100 * last['agree']['value']:.0f} %",
                f"{last['cosine']['value']:.2f}",
                _interval(arm["reached"], ".0f"),
                _interval(there["held_out"]),
                _interval(there["p_value"], ".2g"),
                _interval(there["cosine"]),
                "" if is_baseline else _interval(arm["difference_reward"]["held_out"], "+.2f"),
                "" if is_baseline else _verdict(result, arm, "reward"),
            ]
        )
    return rows


def _verdict(result: Mapping[str, Any], arm: Mapping[str, Any], matched: str) -> str:
    """Judge an arm's held-out score against the baseline's at matched "iterations" or "reward"."""
    baseline = result["arms"][0]
    lost = baseline[matched]["held_out"]["value"] - baseline["start"]["held_out"]
    return analysis.verdict(arm[f"difference_{matched}"]["held_out"], lost)


def markdown(result: Mapping[str, Any]) -> str:
    """Return the table in Markdown, with an explanation before it and verdicts after it."""
    design = result["design"]
    count = design["latents"] * len(design["seeds"])
    lines = [
        f"Reward {design['reward']}, {count} latents ({len(design['seeds'])} seeds), "
        f"{design['iterations']} iterations with steps of the same length for every guard. Columns "
        '3 to 6 show the last iteration; "there" is the point at which the mean reward reaches '
        f"{result['matched_reward']:.3f}, "
        + (
            "where a fifth of the held-out votes is lost without a guard. "
            if result["votes_lost"]
            else "half of its gain without a guard. "
        )
        + "Brackets hold 95 % intervals, bootstrapped over the latents and paired for differences. "
        f"A difference under {100 * analysis.MARGIN:.0f} % of the loss without a guard is a tie.",
        "",
        *_markdown.table(COLUMNS, table_rows(result)),
        "",
        *statements(result),
    ]
    if result["tuning"]:
        lines += ["", "Held-out score at matched reward by weight, on the seed that the weights "
                  "were chosen on:", "", *_tuning(result["tuning"])]  # fmt: skip
    return "\n".join(lines) + "\n"


def _tuning(scores: Mapping[str, Mapping[str, float | None]]) -> list[str]:
    weights = list(next(iter(scores.values())))
    rows = []
    for name, by_weight in scores.items():
        values = (by_weight[w] for w in weights)
        rows.append(
            [name, *("not reached" if v is None or np.isnan(v) else f"{v:.3f}" for v in values)]
        )
    return _markdown.table(("guard", *weights), rows)


def statements(result: Mapping[str, Any]) -> list[str]:
    """List the better, tied and worse guards at matched iterations and at matched reward."""
    lines = []
    for key in ("iterations", "reward"):
        groups: dict[str, list[str]] = {}
        for arm in result["arms"]:
            if arm["name"] != BASELINE:
                groups.setdefault(_verdict(result, arm, key), []).append(arm["name"])
        parts = [
            f"{word}: {', '.join(groups[name])}"
            for name, word in (
                ("better", "held-out score above that without a guard"),
                ("tie", "tied with no guard"),
                ("worse", "below"),
                ("not reached", "not reached"),
            )
            if name in groups
        ]
        lines.append(f"- At matched {key}: {'; '.join(parts)}.")
    return lines


def picture(result: Mapping[str, Any], curves: AllCurves) -> Figure:
    """Plot frontiers with their bands; below them each guard's images at the matched reward."""
    from matplotlib.figure import Figure

    arms = result["arms"]
    figure = Figure(figsize=(13, 4.2 + 0.62 * (len(arms) + 1)), layout="constrained")
    heights = [4.2, 0.62 * (len(arms) + 1)]
    above, below = np.asarray(figure.subfigures(2, 1, height_ratios=heights))
    axes = above.subplots(1, 3)
    for axis, measure in zip(axes, ("held_out", "agree", "p_value"), strict=True):
        for k, arm in enumerate(arms):
            band = arm["bands"][measure]
            axis.plot(band["reward"], band["value"], color=f"C{k}", label=arm["name"], lw=1.3)
            axis.fill_between(band["reward"], band["low"], band["high"], color=f"C{k}", alpha=0.15)
        axis.axvline(result["matched_reward"], color="k", lw=0.6, ls=":")
        axis.set(xlabel=f"reward ({result['design']['reward']})", title=NAMES[measure])
        axis.title.set_fontsize("medium")
    axes[1].legend(fontsize="x-small")
    lines = below.subplots(len(arms) + 1, 1)
    start = curves[BASELINE][0][PICTURES][:, 0]
    output.strip(lines[0], start, "start")
    for axis, arm in zip(lines[1:], arms, strict=True):
        own, when = curves[arm["name"]][0][PICTURES], arm["reached"]["value"]
        last = own.shape[1] - 1
        at = last if np.isnan(when) else round(when)
        output.strip(axis, own[:, at], f"{arm['name']}, {at}")
    above.suptitle("Reward against measures that were not optimised; dotted: the matched reward")
    below.suptitle("Images of the same noises at the matched reward, with iterations", fontsize=10)
    return figure


def save(result: dict[str, Any], curves: AllCurves, folder: Path) -> list[Path]:
    """Write frontier.png, frontier.md and frontier.json, each whole or not at all."""
    return output.save("frontier", picture(result, curves), markdown(result), result, folder)
