"""The personalisation example as a table, what it says, a picture and JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gaussreg_fast.latent.checkerboard_report import machine, save_as
from gaussreg_fast.latent.frontier_analysis import at_level

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from gaussreg_fast.latent.finetune.personalisation import Course, Personalisation

LEARNT = 0.8  # of the way to the shown images: where arms are compared
COLUMNS = (
    "kept near by", "new sign, distance", "digits known", "images moved", "drift",
    "steps to matched distance", "digits known there",
)  # fmt: skip


def as_json(experiment: Personalisation, courses: Sequence[Course]) -> dict[str, Any]:
    """All figures of the table and the picture, with what is needed to run it again."""
    best, first = experiment.best_distance, courses[0].distance[0]
    level = first + LEARNT * (best - first)
    rows = []
    for course in courses:
        known = np.mean(course.agreement, axis=1)
        reward = -np.array(course.distance)  # rises as the sign is learnt
        there = [at_level(reward, np.array(v), -level) for v in (course.steps, known)]
        rows.append(
            {
                "name": course.arm.name,
                **asdict(course.arm),
                "steps": course.steps,
                "distance": course.distance,
                "spread": course.spread,
                "agreement": course.agreement,
                "known": known.tolist(),
                "moved": course.moved,
                "drift": course.drift,
                "steps_there": float(there[0]),
                "known_there": float(there[1]),
            }
        )
    return {
        "experiment": "personalisation",
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "design": asdict(experiment.design),
        "best_distance": best,
        "matched_distance": level,
        "machine": machine(),
        "arms": rows,
    }


def table_rows(result: Mapping[str, Any]) -> list[list[str]]:
    """The cells of the table, in the order of `COLUMNS`; the pretrained model first."""
    start = result["arms"][0]
    known = f"{100 * start['known'][0]:.0f} %"
    rows = [["pretrained", f"{start['distance'][0]:.3f}", known, "0", "0", "", ""]]
    for arm in result["arms"]:
        there = arm["steps_there"]
        reached = there is not None and not np.isnan(there)
        rows.append(
            [
                arm["name"],
                f"{arm['distance'][-1]:.3f}",
                f"{100 * arm['known'][-1]:.0f} %",
                f"{arm['moved'][-1]:.2f}",
                f"{arm['drift'][-1]:.1f}",
                f"{there:.0f}" if reached else "not reached",
                f"{100 * arm['known_there']:.0f} %" if reached else "",
            ]
        )
    return rows


def markdown(result: Mapping[str, Any]) -> str:
    """The table, and in words what it holds."""
    design = result["design"]
    rows = [list(COLUMNS), ["---"] * len(COLUMNS), *table_rows(result)]
    count = 10 * design["per_prompt"]
    lines = [
        f'{design["images"]} images of the new sign, prompt "{design["prompt"]}", '
        f"{design['measured'][-1]} steps of AdamW. Distance: of its images to the nearest that was "
        f"not shown, root mean square ({result['best_distance']:.3f} of those shown). Known: the "
        f"share of two held-out classifiers that find the prompt's digit in {count} images of the "
        "ten plain prompts; moved: their distance to the pretrained model's images of the same "
        "noises. Drift: squared distance of the parameters. Matched distance: "
        f"{result['matched_distance']:.3f}, {100 * LEARNT:.0f} % of the way, first reached by "
        "interpolation between measurements.",
        "",
        *("| " + " | ".join(row) + " |" for row in rows),
    ]
    return "\n".join(lines) + "\n"


def picture(result: Mapping[str, Any], courses: Sequence[Course]) -> Figure:
    """What is known against what is learnt, on the way and at the end; images at the end."""
    from matplotlib.figure import Figure

    arms = result["arms"]
    figure = Figure(figsize=(11, 4 + 0.75 * len(arms)), layout="constrained")
    above, below = np.asarray(figure.subfigures(2, 1, height_ratios=[4, 0.75 * len(arms)]))
    frontier, time = above.subplots(1, 2)
    for k, arm in enumerate(arms):
        style = {"color": f"C{k}", "marker": "o", "ms": 3, "lw": 1.2, "label": arm["name"]}
        frontier.plot(arm["distance"], 100 * np.array(arm["known"]), **style)
        time.plot(arm["steps"], 100 * np.array(arm["known"]), **style)
    frontier.axvline(result["matched_distance"], color="k", lw=0.6, ls=":")
    frontier.invert_xaxis()
    frontier.set(xlabel="new sign: distance to those not shown", ylabel="digits known, %")
    time.set(xlabel="steps", ylabel="digits known, %")
    frontier.legend(
        loc="lower left", title="kept near by", fontsize="small", title_fontsize="small"
    )
    for axis, course in zip(
        below.subplots(len(arms), 1, squeeze=False)[:, 0], courses, strict=True
    ):
        axis.imshow(np.concatenate(list(course.pictures.numpy()), axis=1), cmap="gray")
        axis.set(xticks=[], yticks=[])
        axis.set_ylabel(course.arm.name, rotation=0, ha="right", va="center", fontsize="small")
    above.suptitle("Personalisation on a few images: what is learnt, what is kept")
    below.suptitle("At the end: the ten digits' prompts, and twice the new sign's", fontsize=10)
    return figure


def save(result: dict[str, Any], courses: Sequence[Course], folder: Path) -> list[Path]:
    """Writes personalisation.png, .md and .json, each whole or not at all."""
    figure = picture(result, courses)
    return save_as("personalisation", figure, markdown(result), result, folder)
