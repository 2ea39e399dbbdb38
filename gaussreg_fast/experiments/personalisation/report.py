"""Report the personalisation experiment: a table, a picture and JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from gaussreg_fast import _markdown
from gaussreg_fast.experiments import output
from gaussreg_fast.experiments.measures import estimate, mean_estimate, resamples
from gaussreg_fast.experiments.statistics import at_level, missing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from gaussreg_fast.experiments.personalisation.study import Course, Personalisation

LEARNT = 0.75  # arms are compared at this share of the way to the shown images' distance
COLUMNS = (
    "kept near by", "new sign, distance", "digits known", "their spread", "images moved", "drift",
    "steps to matched distance", "digits known there", "seconds",
)  # fmt: skip


def as_json(experiment: Personalisation, courses: Sequence[Course]) -> dict[str, Any]:
    """Return all numbers of the table and the picture, with the settings to run it again.

    `low` and `high` bound 95 % intervals, bootstrapped over the images of every prompt.
    """
    first = courses[0]
    start, best = first.distance[0], experiment.best_distance
    level = start + LEARNT * (best - start)
    return {
        **output.heading("personalisation"),
        "design": asdict(experiment.design),
        "best_distance": best,
        "matched_distance": level,
        "pretrained": {"distance": start, "known": mean_estimate(first.known[0])},
        "arms": [_arm(course, level) for course in courses],
    }


def _arm(course: Course, level: float) -> dict[str, Any]:
    known = torch.stack(course.known)
    drawn = (resamples(known.shape[1]) @ known.T / known.shape[1]).numpy()
    learnt = -np.array(course.distance)  # negated, because `at_level` needs a rising curve

    def there(values: np.ndarray) -> np.ndarray:
        return at_level(np.broadcast_to(learnt, values.shape), values, -level)

    means = known.mean(1)
    return {
        "name": course.arm.name,
        **asdict(course.arm),
        "steps": course.steps,
        "distance": course.distance,
        "known": means.tolist(),
        "known_by_digit": known[-1].view(10, -1).mean(1).tolist(),
        "known_last": mean_estimate(known[-1]),
        "spread": [value / course.spread[0] for value in course.spread],
        "moved": course.moved,
        "drift": course.drift,
        "steps_there": float(there(np.array(course.steps))),
        "known_there": estimate(float(there(means.numpy())), there(drawn)),
        "seconds": course.seconds,
    }


def table_rows(result: Mapping[str, Any]) -> list[list[str]]:
    """Return the cells of the table, in the order of `COLUMNS`; the pretrained model first."""
    start = result["pretrained"]
    first = [f"{start['distance']:.3f}", _share(start["known"]), "1.00", "0", "0"]
    rows = [["pretrained", *first, "", "", ""]]
    for arm in result["arms"]:
        reached = not missing(arm["known_there"])
        rows.append(
            [
                arm["name"],
                f"{arm['distance'][-1]:.3f}",
                _share(arm["known_last"]),
                f"{arm['spread'][-1]:.2f}",
                f"{arm['moved'][-1]:.2f}",
                f"{arm['drift'][-1]:.1f}",
                f"{arm['steps_there']:.0f}" if reached else "not reached",
                _share(arm["known_there"]) if reached else "",
                f"{arm['seconds']:.0f}",
            ]
        )
    return rows


def _share(e: Mapping[str, float]) -> str:
    value, low, high = (100 * e[key] for key in ("value", "low", "high"))
    return f"{value:.0f} % ({low:.0f} to {high:.0f})"


def markdown(result: Mapping[str, Any]) -> str:
    """Return the table in Markdown, with an explanation before it."""
    design = result["design"]
    count = 10 * design["per_prompt"]
    lines = [
        f'{design["images"]} images of the new sign, prompt "{design["prompt"]}", '
        f"{design['measured'][-1]} steps of AdamW. Distance: from the model's images of the sign "
        "to the nearest real one that was not shown, root mean square "
        f"({result['best_distance']:.3f} for the shown ones). Known: the share of two held-out "
        f"classifiers that find the prompt's digit in {count} images of the ten plain prompts; "
        "images that are nearer to the new sign than to any real digit of the prompt count as 0. "
        "Spread: the mean distance of two images of a digit, as a multiple of the pretrained "
        "model's. Moved: the distance of the images to the pretrained model's from the same "
        "noises. Drift: squared distance of the parameters. Matched distance: "
        f"{result['matched_distance']:.3f}, {100 * LEARNT:.0f} % of the way to the shown images', "
        "interpolated between measurements. Brackets hold 95 % intervals over the images.",
        "",
        *_markdown.table(COLUMNS, table_rows(result)),
    ]
    return "\n".join(lines) + "\n"


def picture(
    result: Mapping[str, Any], experiment: Personalisation, courses: Sequence[Course]
) -> Figure:
    """Plot digits known against the sign's distance and over the steps; images at the end."""
    from matplotlib.figure import Figure

    arms = result["arms"]
    height = 0.75 * (len(arms) + 2)
    figure = Figure(figsize=(11, 4 + height), layout="constrained")
    above, below = np.asarray(figure.subfigures(2, 1, height_ratios=[4, height]))
    frontier, time = above.subplots(1, 2)
    for k, arm in enumerate(arms):
        style = {"color": f"C{k}", "marker": "o", "ms": 3, "lw": 1.2, "label": arm["name"]}
        frontier.plot(arm["distance"], 100 * np.array(arm["known"]), **style)
        time.plot(arm["steps"], 100 * np.array(arm["known"]), **style)
    frontier.axvline(result["matched_distance"], color="k", lw=0.6, ls=":")
    frontier.invert_xaxis()
    frontier.set(xlabel="new sign: distance to those not shown", ylabel="digits known, %")
    time.set(xlabel="steps", ylabel="digits known, %")
    frontier.legend(title="kept near by", loc="lower left", fontsize="small")
    rows = {"shown": experiment.shown[:, 0], "pretrained": experiment.pick(experiment.before)}
    rows |= {course.arm.name: course.pictures for course in courses}
    axes = below.subplots(len(rows), 1, squeeze=False)[:, 0]
    for axis, (name, images) in zip(axes, rows.items(), strict=True):
        output.strip(axis, images.numpy(), name)
    above.suptitle("Personalisation on a few images: what is learnt, what is kept")
    below.suptitle("Images at the end: the ten digits, and two of the new sign", fontsize=10)
    return figure


def save(
    result: dict[str, Any], experiment: Personalisation, courses: Sequence[Course], folder: Path
) -> list[Path]:
    """Write personalisation.png, .md and .json, each whole or not at all; return the paths."""
    figure = picture(result, experiment, courses)
    return output.save("personalisation", figure, markdown(result), result, folder)
