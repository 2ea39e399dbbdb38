"""`gaussreg-fast demo`: run experiments, and write a table, a picture and JSON of each."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from gaussreg_fast._files import user_path
from gaussreg_fast._progress import plain_console, progress_bar
from gaussreg_fast.cli.tables import result_table
from gaussreg_fast.errors import InputError
from gaussreg_fast.experiments.checkerboard import report, study


class Experiment(str, Enum):
    """The names of the experiments."""

    checkerboard = "checkerboard"
    frontier = "frontier"
    personalisation = "personalisation"
    reward_tuning = "reward-tuning"


DEFAULTS = (Experiment.checkerboard, Experiment.frontier)

_Out = Annotated[
    Path, typer.Option(help="Folder for the pictures, tables and JSON. It is created if needed.")
]
_Experiments = Annotated[
    list[Experiment],
    typer.Option(help="Experiment to run. May be given several times. By default the first two."),
]
_Samples = Annotated[int, typer.Option(min=1, help="Number of checkerboard latents to optimise.")]
_Iterations = Annotated[
    int, typer.Option(min=1, help="Iterations of every guard on the checkerboards.")
]
_Shuffles = Annotated[
    int, typer.Option(min=0, help="Shuffles of the guard PRNO on the checkerboards.")
]
_Seed = Annotated[
    int, typer.Option(min=0, max=2**31, help="Seed of the noise on the checkerboards.")
]
_Latents = Annotated[
    int | None,
    typer.Option(
        min=10, help="Number of digits to optimise. By default 20, and with --full 200 per seed."
    ),
]
_Full = Annotated[
    bool,
    typer.Option(
        help="Run the frontier in full: 200 latents, 3 seeds, weights tuned anew. The same "
        "command resumes it."
    ),
]


def demo(
    out: _Out = Path("demo-out"),
    experiment: _Experiments = list(DEFAULTS),  # noqa: B006
    samples: _Samples = 4,
    iterations: _Iterations = 100,
    shuffles: _Shuffles = 100,
    seed: _Seed = 0,
    latents: _Latents = None,
    full: _Full = False,
) -> None:
    """Rerun the experiments, and write a table, a picture and JSON of each.

    checkerboard: which guard sees a pattern in the noise. frontier: which guard keeps a reward from
    being hacked. personalisation: learn a new sign from four images, with and without parameter
    drift. reward-tuning: reward against diversity under three divergences. The last two take about
    two minutes each.
    """
    # Checked first, because the experiments before would compute for a minute.
    if Experiment.frontier in experiment and full and latents is not None:
        raise InputError(f"--latents must be left out with --full, got {latents}")
    out = user_path(out)
    out.mkdir(parents=True, exist_ok=True)
    if not os.access(out, os.W_OK):
        raise InputError(f"--out must be a writable folder, got {out}")
    console = plain_console()
    if Experiment.checkerboard in experiment:
        _checkerboard(console, out, samples, iterations, shuffles, seed)
    if Experiment.frontier in experiment:
        _frontier(console, out, latents or 20, full)
    if {Experiment.personalisation, Experiment.reward_tuning} & set(experiment):
        _finetune(console, out, experiment)


def _print_paths(console: Console, paths: list[Path]) -> None:
    for path in paths:
        console.print(f"wrote {path}", soft_wrap=True)


def _checkerboard(
    console: Console, out: Path, samples: int, iterations: int, shuffles: int, seed: int
) -> None:
    guards = study.methods(shuffles)
    total = sum(iterations if guard.optimizer else 1 for guard in guards)
    with progress_bar(console) as progress:
        task = progress.add_task("start", total=total, state="")

        def advance(name: str) -> None:
            progress.update(task, advance=1, description=name)

        outcomes = study.experiment(samples, iterations, seed, shuffles, advance)
    result = report.as_json(outcomes, samples, seed)
    console.print(
        result_table(
            f"Checkerboard recovery, {samples} latents of 4 x 64 x 64, means",
            "left: share of the pattern left; cos: cosine to the start; p: p-value as white "
            "Gaussian noise",
            report.SHORT,
            report.table_rows(result),
        )
    )
    _print_paths(console, report.save(outcomes, result, out))


def _frontier(console: Console, out: Path, latents: int, full: bool) -> None:
    with _explain_missing_packages():
        from gaussreg_fast.experiments.frontier import report as frontier_report
        from gaussreg_fast.experiments.frontier import study as frontier
    design = frontier.FULL if full else frontier.Design(latents=latents)
    cells = out / "frontier-cells" if full else None
    if cells:
        cells.mkdir(exist_ok=True)
    with progress_bar(console) as progress:
        task = progress.add_task("loading", total=None, state="")

        def advance(name: str) -> None:
            progress.update(task, advance=1, description=name)

        experiment = frontier.Experiment(cells, advance)
        weights, tuning = dict(frontier.TUNED), None
        if full:
            progress.update(
                task, total=frontier.iterations_of(frontier.TUNING, frontier.TUNING_ARMS)
            )
            tuning = experiment.tune()
            weights = frontier.best_weights(tuning)
        arms = frontier.arms(design, weights)
        total = frontier.iterations_of(design, len(arms))
        progress.update(task, total=total, completed=0)
        curves = {arm.name: experiment.curves(design, arm) for arm in arms}
    result = frontier_report.as_json(design, arms, curves, tuning)
    console.print(_frontier_table(result))
    for line in frontier_report.statements(result):
        console.print(line)
    _print_paths(console, frontier_report.save(result, curves, out))


def _finetune(console: Console, out: Path, experiments: list[Experiment]) -> None:
    with _explain_missing_packages():
        from gaussreg_fast.cli import finetune
    if Experiment.personalisation in experiments:
        _print_paths(console, finetune.personalise(console, out))
    if Experiment.reward_tuning in experiments:
        _print_paths(console, finetune.tune_rewards(console, out))


@contextmanager
def _explain_missing_packages() -> Iterator[None]:
    """Say which packages to install if an import fails."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise InputError(
            f"the experiments on digits need {error.name}: pip install 'gaussreg_fast[latent]', or "
            "pass --experiment checkerboard"
        ) from error


def _frontier_table(result: dict[str, Any]) -> Table:
    """Return the table's main columns, which fit into 80 characters; the file has all."""
    from gaussreg_fast.experiments.frontier import report as frontier_report

    keep = (0, 2, 4, 5, 6, 10, 11)
    heads = ("guard", "reward", "agree", "cosine", "matched at", "against none there", "")
    rows = [[row[k] for k in keep] for row in frontier_report.table_rows(result)]
    design = result["design"]
    return result_table(
        f"Digits optimised for {design['reward']}, {design['latents']} per seed",
        "agree: held-out classifiers that agree with the prompt, at the end; matched: iterations "
        f"to a reward of {result['matched_reward']:.3f}; against none: held-out score there",
        heads,
        rows,
    )
