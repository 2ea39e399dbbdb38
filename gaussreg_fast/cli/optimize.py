"""`gaussreg-fast optimize`: options to settings, a progress bar, the result in a few lines."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress

from gaussreg_fast.cli.progress import progress_bar
from gaussreg_fast.errors import InputError

if TYPE_CHECKING:
    from gaussreg_fast.latent.loop import Record
    from gaussreg_fast.latent.run import RunResult
    from gaussreg_fast.latent.settings import RunConfig

REWARD = "NAME[@SOURCE][=WEIGHT]; may be repeated"


def optimize(
    out: Annotated[Path, typer.Option(help="The run's folder; one begun is gone on with.")],
    config: Annotated[
        Path | None, typer.Option(help="Settings in YAML; options go over it.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="digits, a folder or a hub id.")] = None,
    prompt: Annotated[list[str] | None, typer.Option(help="May be repeated.")] = None,
    prompts_file: Annotated[Path | None, typer.Option(help="A prompt per line.")] = None,
    seed: Annotated[list[int] | None, typer.Option(help="Of the noise; may be repeated.")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="So many seeds, from 0 on.")] = None,
    reward: Annotated[list[str] | None, typer.Option(help=f"Maximised: {REWARD}.")] = None,
    held_out: Annotated[list[str] | None, typer.Option(help=f"Only watched: {REWARD}.")] = None,
    guard: Annotated[
        str | None, typer.Option(help="none, norm, kl, kurtosis, prno, mpgr or projection.")
    ] = None,
    weight: Annotated[float | None, typer.Option(help="Of the guard's loss.")] = None,
    rescale: Annotated[
        bool | None,
        typer.Option("--rescale/--no-rescale", help="Guard's gradient to the reward's norm."),
    ] = None,
    project: Annotated[str | None, typer.Option(help="gradient or both.")] = None,
    optimizer: Annotated[str | None, typer.Option(help="sgd, adam or adamw.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate.")] = None,
    clip: Annotated[float | None, typer.Option(help="Norm of a sample's gradient.")] = None,
    iterations: Annotated[int | None, typer.Option(help="Steps.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Samples at a time.")] = None,
    select: Annotated[
        str | None, typer.Option(help="The best by: auto, held_out, gaussianity or last.")
    ] = None,
    patience: Annotated[int | None, typer.Option(help="Stop a sample that long past it.")] = None,
    evaluate_every: Annotated[int | None, typer.Option(help="Iterations.")] = None,
    checkpoint_every: Annotated[int | None, typer.Option(help="Iterations.")] = None,
    latents: Annotated[Path | None, typer.Option(help="Noises to start from, a file.")] = None,
    latents_key: Annotated[str | None, typer.Option(help="Which tensor in it.")] = None,
    steps: Annotated[int | None, typer.Option(help="Of the sampler.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Guidance scale.")] = None,
    height: Annotated[int | None, typer.Option(help="Pixels.")] = None,
    width: Annotated[int | None, typer.Option(help="Pixels.")] = None,
    dtype: Annotated[str | None, typer.Option(help="Of the model.")] = None,
    reward_dtype: Annotated[str | None, typer.Option(help="Of the rewards' weights.")] = None,
    device: Annotated[str | None, typer.Option(help="Such as cuda:1.")] = None,
    offload: Annotated[str | None, typer.Option(help="none, text or model.")] = None,
    gradient_checkpointing: Annotated[
        bool | None, typer.Option("--gradient-checkpointing/--no-gradient-checkpointing")
    ] = None,
    vae_slicing: Annotated[bool | None, typer.Option("--vae-slicing/--no-vae-slicing")] = None,
) -> None:
    """Optimise starting noises against rewards, with a guard; leaves a run folder.

    Settings are those of the guard's authors unless given. Killed, the same command goes on.
    """
    if seed and seeds is not None:
        raise InputError("give --seed or --seeds, not both")
    given: dict[str, Any] = {
        "prompts": _prompts(prompt, prompts_file),
        "seeds": seed or (None if seeds is None else list(range(seeds))),
        "latents": None if latents is None else str(latents),
        "latents_key": latents_key,
        "reward_dtype": reward_dtype,
        "rewards": reward,
        "held_out": held_out,
        "model": {
            "source": model, "steps": steps, "guidance": guidance, "height": height,
            "width": width, "dtype": dtype, "device": device, "offload": offload,
            "gradient_checkpointing": gradient_checkpointing, "vae_slicing": vae_slicing,
        },
        "guard": {"name": guard, "weight": weight, "rescale": rescale, "project": project},
        "optimizer": {"name": optimizer, "lr": lr, "clip": clip},
        "iterations": iterations,
        "batch_size": batch_size,
        "select": select,
        "patience": patience,
        "evaluate_every": evaluate_every,
        "checkpoint_every": checkpoint_every,
    }  # fmt: skip
    _run(_given(given), config, out)


def _given(value: Any) -> Any:
    """What was given, without the options left out."""
    if isinstance(value, dict):
        kept = {key: _given(item) for key, item in value.items()}
        return {key: item for key, item in kept.items() if item is not None and item != {}}
    return value


def _prompts(prompts: list[str] | None, file: Path | None) -> list[str] | None:
    if file is None:
        return prompts
    from gaussreg_fast.latent.config import read_text

    lines = [line.strip() for line in read_text(file).splitlines()]
    return [*(prompts or []), *(line for line in lines if line)]


def _run(given: dict[str, Any], file: Path | None, out: Path) -> None:
    try:
        from gaussreg_fast.latent import config as configs
        from gaussreg_fast.latent import run
    except ModuleNotFoundError as error:
        raise InputError(
            f"optimize needs {error.name}: pip install 'gaussreg_fast[latent]'"
        ) from error
    if file is None and (out / "config.yaml").is_file():  # goes on with a run
        file = out / "config.yaml"
    base = configs.load_yaml(file) if file else {}
    config = configs.resolve(base, given)
    count = len(run.batches(config))
    console = Console(stderr=True)
    with progress_bar(console) as progress:
        result = run.optimize(config, out=out, callbacks=[_follow(progress, config, count)])
    if result is None:
        return
    _tell(Console(), result)
    if all(row["status"] == "failed" for row in result.samples):
        raise typer.Exit(1)


def _follow(progress: Progress, config: RunConfig, batches: int) -> Callable[[Record], None]:
    """A bar over all iterations of this process, with the means of the batch at work."""
    # The batches are dealt out in turns.
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    per_batch = config.iterations + 1
    task = progress.add_task(
        "", total=-(-batches // processes) * per_batch, state="", visible=False
    )

    def follow(record: Record) -> None:
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

    return follow


def _tell(console: Console, result: RunResult) -> None:
    for row in result.samples:
        console.print(
            f"{row['sample']:3d} {row['prompt']!r}, seed {row['seed']}: {row['status']}, reward "
            f"{row['start/reward']:.4g} -> {row['best/reward']:.4g} at iteration "
            f"{row['best_iteration']}, p {row['best/p_value']:.2g}",
            highlight=False,
            soft_wrap=True,
        )
    console.print(f"wrote {result.folder / 'report.md'}", highlight=False, soft_wrap=True)
