"""The fine-tuning examples of `gaussreg-fast demo`: each a table, a picture and JSON."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console

from gaussreg_fast.cli.progress import progress_bar, result_table
from gaussreg_fast.experiments.personalisation import report as personalisation_report
from gaussreg_fast.experiments.personalisation import study as personalisation
from gaussreg_fast.experiments.reward_tuning import report as reward_tuning_report
from gaussreg_fast.experiments.reward_tuning import study as reward_tuning


def personalise(console: Console, out: Path) -> list[Path]:
    """Runs the personalisation example; the files written."""
    arms = personalisation.ARMS
    with progress_bar(console) as progress:
        task = progress.add_task("loading", total=None, state="")
        experiment = personalisation.Personalisation(personalisation.Design())
        progress.update(task, total=len(arms) * experiment.design.measured[-1])
        courses = []
        for arm in arms:
            progress.update(task, description=arm.name)
            courses.append(experiment.run(arm, lambda: progress.advance(task)))
    report = personalisation_report
    result = report.as_json(experiment, courses)
    console.print(
        result_table(
            f"A new sign from {experiment.design.images} images, with and without drift",
            "distance: of the new sign's images to those not shown; known: of the ten digits",
            ("kept near by", "distance", "known", "spread", "matched at", "known there", "seconds"),
            [[_value(row[k]) for k in (0, 1, 2, 3, 6, 7, 8)] for row in report.table_rows(result)],
        )
    )
    return report.save(result, experiment, courses, out)


def tune_rewards(console: Console, out: Path) -> list[Path]:
    """Runs the reward example; the files written."""
    design = reward_tuning.Design()
    arms = reward_tuning.arms(design)
    with progress_bar(console) as progress:
        task = progress.add_task("sampling", total=None, state="")
        experiment = reward_tuning.RewardTuning(design)
        progress.update(task, total=len(arms) * design.steps)
        results = []
        for arm in arms:
            progress.update(task, description=arm.name)
            began = time.perf_counter()
            tilt = experiment.tilt(arm)
            sampled = experiment.draw(experiment.train(tilt, lambda: progress.advance(task)))
            seconds = time.perf_counter() - began
            results.append(reward_tuning_report.Result(arm, tilt, sampled, seconds))
    report = reward_tuning_report
    result = report.as_json(experiment, results)
    keep = (0, 1, 3, 5, 6, 8)
    console.print(
        result_table(
            f"Fine-tuned for {design.reward}, every divergence for the same gain",
            "effective: samples that count; gain: of the reward, in standard deviations; spread: "
            "of a prompt's images, 1 before",
            ("divergence, gain", "alpha", "effective", "gain", "spread", "right"),
            [[_value(row[k]) for k in keep] for row in report.table_rows(result)],
        )
    )
    return report.save(result, results, out)


def _value(cell: str) -> str:
    """A cell without its interval."""
    return cell.partition(" (")[0]
