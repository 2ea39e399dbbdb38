"""Optimise all prompts and seeds in batches, into a folder that can be resumed, on all devices."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gaussreg_fast import _ambient
from gaussreg_fast._files import user_path
from gaussreg_fast.errors import InputError
from gaussreg_fast.latent import files, report
from gaussreg_fast.latent.config import resolve
from gaussreg_fast.latent.folder import BatchFolder, RunFolder
from gaussreg_fast.latent.loop import Batch
from gaussreg_fast.latent.models import load_model
from gaussreg_fast.latent.problem import Problem, Record, Sample
from gaussreg_fast.latent.rewards import RewardSpec, RewardSum, load_rewards
from gaussreg_fast.latent.settings import RunConfig
from gaussreg_fast.latent.storage import write_image

Callback = Callable[[Record], object]


@dataclass(frozen=True)
class RunResult:
    """The result of a run.

    Attributes:
        folder: the run folder (see `gaussreg_fast.latent.folder` for its files).
        samples: per sample its prompt, seed, status, best iteration, and the values of its
            start, best and final iterates under `start/...`, `best/...`, `final/...`.
        latents: "start", "best", "final": (samples, *latent) float32.
    """

    folder: Path
    samples: list[dict[str, Any]]
    latents: dict[str, Tensor]

    def image(self, sample: int, kind: str = "best") -> Path:
        """Return the path of the picture of a sample's "start", "best" or "final" iterate."""
        return self.folder / "images" / f"{sample:03d}-{kind}.png"


@_ambient.usual()
def optimize(
    config: RunConfig | Mapping[str, Any] | None = None,
    *,
    out: str | Path,
    callbacks: Sequence[Callback] = (),
    **settings: Any,
) -> RunResult | None:
    """Optimise starting noises against rewards with a guard, and write a run folder.

    An existing run with the same settings is resumed; on the same machine the result equals that
    of an uninterrupted run. `torchrun` or `accelerate launch` distribute the batches over their
    processes. The result does not depend on torch's defaults or modes around the call, such as
    `inference_mode`; only the precision of products (TF32) and deterministic mode are the caller's.

    Args:
        config: settings as a `RunConfig`, or as a mapping over which `settings` win.
        out: run folder.
        callbacks: called with a `Record` after each iteration of this process.
        settings: fields of `RunConfig`, unless `config` is one.

    Returns:
        The result, or None in processes other than the first.

    Raises:
        InputError: the settings are invalid, the model or a reward is unknown, or the folder
            holds another run.
        OSError: the folder cannot be written.
    """
    if not isinstance(config, RunConfig):
        config = resolve(config or {}, settings)
    elif settings:
        raise InputError(
            f"config is a RunConfig, so that no settings may be given beside it, got "
            f"{', '.join(settings)}"
        )
    ranks = _Ranks()
    folder = RunFolder(user_path(out), config)
    given = _given_latents(config)
    every = batches(config)
    _warn_if_idle(ranks, len(every))
    with _opened(folder, ranks):
        mine = [
            (index, samples)
            for index, samples in enumerate(every)
            if index % ranks.count == ranks.index and not folder.finished(index, samples)
        ]
        if mine:
            problem = build(config, ranks.device)
            if ranks.index == 0:
                folder.describe(problem.model.settings)
            _check_latents(config, given, problem)
        for index, samples in mine:
            run_batch(folder, config, problem, index, samples, given, callbacks)
        ranks.wait()
        if ranks.index:
            return None
        return RunResult(folder.path, *report.write(folder, config, every))


def _warn_if_idle(ranks: _Ranks, batches_in_all: int) -> None:
    if batches_in_all < ranks.count:
        warnings.warn(
            f"{ranks.count} processes share {batches_in_all} batches, so that some processes are "
            "idle; a smaller batch_size makes more batches",
            stacklevel=4,
        )


class _Ranks:
    """This process's place among those of the launcher; without a launcher it is the only one."""

    def __init__(self) -> None:
        from accelerate import PartialState

        # A process that has finished waits for the slowest one, which may take days.
        self._state = PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(days=30))
        self.index, self.count = self._state.process_index, self._state.num_processes
        self.device = str(self._state.device) if self.count > 1 else "auto"

    def wait(self) -> None:
        """Wait until all processes get here."""
        self._state.wait_for_everyone()


@contextmanager
def _opened(folder: RunFolder, ranks: _Ranks) -> Iterator[None]:
    """Open the run folder in the first process; the others wait until it is there."""
    with nullcontext() if ranks.index else folder.opened():
        ranks.wait()
        yield


def batches(config: RunConfig) -> Sequence[tuple[Sample, ...]]:
    """Return the samples of a run in batches: prompts outermost, then seeds."""
    pairs = [(prompt, seed) for prompt in config.prompts for seed in config.seeds]
    samples = [Sample(index, *pair) for index, pair in enumerate(pairs)]
    size = config.batch_size
    return [tuple(samples[k : k + size]) for k in range(0, len(samples), size)]


def build(config: RunConfig, device: str = "auto") -> Problem:
    """Load the model and rewards of a config.

    Raises:
        InputError: a model or reward cannot be loaded.
    """
    settings = config.model.model_dump()
    if settings["device"] == "auto":
        settings["device"] = device
    model = load_model(settings.pop("source"), **settings)

    dtype: torch.dtype = getattr(torch, config.reward_dtype)

    def loaded(specs: Sequence[RewardSpec]) -> RewardSum | None:
        return load_rewards(specs, device=model.device, dtype=dtype) if specs else None

    return Problem(
        model=model,
        rewards=loaded(config.rewards),
        held_out=loaded(config.held_out),
        guard=config.guard,
        optimizer=config.optimizer.build,
        iterations=config.iterations,
        clip=config.optimizer.clip,
        select=config.selection,
        p_value=config.p_value,
        patience=config.patience,
        evaluate_every=config.evaluate_every,
        seed=config.seed,
    )


def run_batch(
    folder: RunFolder,
    config: RunConfig,
    problem: Problem,
    index: int,
    samples: Sequence[Sample],
    latents: Tensor | None = None,
    callbacks: Sequence[Callback] = (),
) -> None:
    """Run or resume one batch, and write its images and its result.

    `latents` are the starting noises of all samples of the run; None draws them.
    """
    place = folder.batch(index)
    own = None if latents is None else latents[[sample.index for sample in samples]]
    batch = Batch(problem, samples, own)
    saved = place.load()
    if saved is not None:
        try:
            batch.load_state(saved)
        except InputError as error:
            raise InputError(f"{place.state}: {error}") from error
    while not batch.done:
        record = batch.step()
        place.append(record)
        if batch.iteration % config.checkpoint_every == 0:
            place.save(batch.state())
        for callback in callbacks:
            callback(record)
    place.save(batch.state())
    _finish(folder, place, batch)


def _finish(folder: RunFolder, place: BatchFolder, batch: Batch) -> None:
    latents = {
        "start": batch.start,
        "best": batch.selection.latents,
        "final": batch.latents.detach(),
    }
    for kind, x in latents.items():
        for sample, image in zip(batch.samples, batch.images(x), strict=True):
            write_image(folder.image(sample.index, kind), image)
    place.finish({**latents, "best.iteration": batch.selection.iteration, "status": batch.status})


def _given_latents(config: RunConfig) -> Tensor | None:
    """Read the starting noises from the config's file; None if it names no file."""
    if config.latents is None:
        return None
    latents = files.load_latents(config.latents, config.latents_key)
    if not latents.is_floating_point():
        raise InputError(
            f"{config.latents}: must hold latents of a real floating type, got {latents.dtype}"
        )
    return latents


def _check_latents(config: RunConfig, latents: Tensor | None, problem: Problem) -> None:
    wanted = (len(config.prompts) * len(config.seeds), *problem.model.latent_shape)
    if latents is not None and tuple(latents.shape) != wanted:
        raise InputError(
            f"{config.latents}: must hold a noise for every sample, shape {wanted}, got "
            f"{tuple(latents.shape)}"
        )
