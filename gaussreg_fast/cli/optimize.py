"""`gaussreg-fast optimize`: resolve options to settings, show progress, print the result."""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress

from gaussreg_fast._exit_codes import Exit
from gaussreg_fast._files import user_path
from gaussreg_fast._progress import plain_console, progress_bar
from gaussreg_fast.cli.options import nested, settings
from gaussreg_fast.errors import InputError, MachineError, first_line, out_of_memory
from gaussreg_fast.latent import config as configs

if TYPE_CHECKING:
    from gaussreg_fast.latent.problem import Record
    from gaussreg_fast.latent.run import RunResult
    from gaussreg_fast.latent.settings import RunConfig

_OUT = "Run folder. An existing run with the same settings is resumed."
_CONFIG = "YAML file with settings. Options override it."
_PROMPTS_FILE = "Text file with one prompt per line, besides those of --prompt."
_SEEDS = "Number of seeds, counted from 0, instead of --seed."


def optimize(
    out: Annotated[Path, typer.Option(help=_OUT)],
    config: Annotated[Path | None, typer.Option(help=_CONFIG)] = None,
    prompts_file: Annotated[Path | None, typer.Option(help=_PROMPTS_FILE)] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help=_SEEDS)] = None,
    **given: Any,
) -> None:
    """Optimise starting noises against rewards, with a guard, and write a run folder.

    Settings that are not given are those that the guard's authors published. The same command
    resumes a run that was interrupted.
    """
    if given["seed"] and seeds is not None:
        raise InputError(f"--seed and --seeds exclude each other, got {given['seed']} and {seeds}")
    if seeds is not None:
        given["seed"] = list(range(seeds))
    if prompts_file is not None:
        given["prompt"] = [*(given["prompt"] or []), *_lines(prompts_file)]
    file = None if config is None else user_path(config)
    _run(nested(given), file, user_path(out))


def _with_options(command: Any) -> Any:
    """Replace `**given` by the options themselves, because typer reads the signature."""
    signature = inspect.signature(command, eval_str=True)
    own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    derived = [setting.parameter() for setting in settings()]
    command.__signature__ = signature.replace(parameters=[*own, *derived])
    return command


_with_options(optimize)


def _lines(file: Path) -> list[str]:
    lines = configs.read_text(user_path(file)).split("\n")  # splitlines() cuts at more characters
    return [line.strip() for line in lines if line.strip()]


def _run(given: dict[str, Any], file: Path | None, out: Path) -> None:
    from gaussreg_fast.latent import run  # late, because it imports all of a model's packages

    stored = out / "config.yaml"
    base: Mapping[str, Any] = {}
    if file is not None:
        base = configs.load_yaml(file)
    elif stored.is_file():  # without settings, resume that run
        base = configs.load_stored(stored)
    for option, setting in (("--prompt", "prompts"), ("--reward", "rewards")):
        if setting not in base and setting not in given:
            raise InputError(f"{option} is required if no file of --config names {setting}")
    config = configs.resolve(base, given)
    count = len(run.batches(config))
    with _advice(), progress_bar(plain_console(stderr=True)) as progress:
        result = run.optimize(config, out=out, callbacks=[_reporter(progress, config, count)])
    if result is None:
        return
    _print_result(plain_console(), result)
    if all(row["status"] == "failed" for row in result.samples):
        raise typer.Exit(Exit.NO)


@contextmanager
def _advice() -> Iterator[None]:
    """Say what helps if memory runs out."""
    try:
        yield
    except Exception as error:
        if not out_of_memory(error):
            raise
        raise MachineError(
            f"out of memory ({first_line(error)}); a smaller --batch-size, "
            "--gradient-checkpointing, --vae-slicing, --offload model or a smaller --dtype need "
            "less; a run that has begun is resumed only with its --batch-size and --dtype"
        ) from error


def _reporter(progress: Progress, config: RunConfig, batches: int) -> Callable[[Record], None]:
    """Add a bar over all iterations of this process; return the callback that updates it."""
    # The batches go to the processes in turns.
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    per_batch = config.iterations + 1
    task = progress.add_task(
        "", total=-(-batches // processes) * per_batch, state="", visible=False
    )

    def report(record: Record) -> None:
        batch = record.samples[0].index // config.batch_size
        done = batch // processes * per_batch + record.iteration + 1
        means = {
            name: float(record.values[name].nanmean())
            for name in ("reward", "held_out", "guard", "p_value")
        }
        state = "  ".join(f"{k} {v:.4g}" for k, v in means.items() if not math.isnan(v))
        progress.update(
            task,
            completed=done,
            visible=True,
            description=f"batch {batch + 1} of {batches}",
            state=state,
        )

    return report


def _print_result(console: Console, result: RunResult) -> None:
    for row in result.samples:
        console.print(
            f"{row['sample']:3d} {row['prompt']!r}, seed {row['seed']}: {row['status']}, reward "
            f"{row['start/reward']:.4g} -> {row['best/reward']:.4g} at iteration "
            f"{row['best_iteration']}, p {row['best/p_value']:.2g}",
            soft_wrap=True,
        )
    console.print(f"wrote {result.folder / 'report.md'}", soft_wrap=True)
