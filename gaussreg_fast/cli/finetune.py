"""Run the fine-tuning experiments of `gaussreg-fast demo`."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console

from gaussreg_fast._progress import progress_bar
from gaussreg_fast.cli.tables import result_table
from gaussreg_fast.experiments.personalisation import report as personalisation_report
from gaussreg_fast.experiments.personalisation import study as personalisation
from gaussreg_fast.experiments.reward_tuning import report as reward_tuning_report
from gaussreg_fast.experiments.reward_tuning import study as reward_tuning


def personalise(console: Console, out: Path) -> list[Path]:
    """Run the personalisation experiment, print its table, and return the files written."""
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
    keep = (0, 1, 2, 3, 6, 7, 8)
    console.print(
        result_table(
            f"A new sign from {experiment.design.images} images, with and without drift",
            "distance: from the new sign's images to real ones not shown; known: share of the ten "
            "digits",
            ("kept near by", "distance", "known", "spread", "matched at", "known there", "seconds"),
            [[_without_interval(row[k]) for k in keep] for row in report.table_rows(result)],
        )
    )
    return report.save(result, experiment, courses, out)


def tune_rewards(console: Console, out: Path) -> list[Path]:
    """Run the reward-tuning experiment, print its table, and return the files written."""
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
            "effective: effective samples; gain: in reward, in standard deviations; spread: of a "
            "prompt's images, 1 before",
            ("divergence, gain", "alpha", "effective", "gain", "spread", "right"),
            [[_without_interval(row[k]) for k in keep] for row in report.table_rows(result)],
        )
    )
    return report.save(result, results, out)


def _without_interval(cell: str) -> str:
    return cell.partition(" (")[0]
