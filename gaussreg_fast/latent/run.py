"""A whole run: prompts and seeds in batches, a folder that can be resumed, several devices."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gaussreg_fast.errors import InputError
from gaussreg_fast.latent import files, report
from gaussreg_fast.latent.config import resolve
from gaussreg_fast.latent.folder import (
    BatchFolder,
    RunFolder,
    save_tensors,
    write_image,
)  # fmt: skip
from gaussreg_fast.latent.loop import Batch
from gaussreg_fast.latent.models import load_model
from gaussreg_fast.latent.problem import Problem, Record, Sample
from gaussreg_fast.latent.rewards import RewardSpec, RewardSum, load_rewards
from gaussreg_fast.latent.settings import RunConfig

Callback = Callable[[Record], object]


@dataclass(frozen=True)
class RunResult:
    """What a run came to.

    Attributes:
        folder: where everything lies (see `gaussreg_fast.latent.folder`).
        samples: per sample its prompt, seed, status, best iteration, and the values of its
            start, best and final iterates under `start/...`, `best/...`, `final/...`.
        latents: "start", "best", "final": (samples, *latent) float32.
    """

    folder: Path
    samples: list[dict[str, Any]]
    latents: dict[str, Tensor]

    def image(self, sample: int, kind: str = "best") -> Path:
        """The picture of a sample's start, best or final iterate."""
        return self.folder / "images" / f"{sample:03d}-{kind}.png"


def optimize(
    config: RunConfig | Mapping[str, Any] | None = None,
    *,
    out: str | Path,
    callbacks: Sequence[Callback] = (),
    **settings: Any,
) -> RunResult | None:
    """Optimises starting noises against rewards, guarded, and leaves a run folder.

    A folder that holds a run of the same settings is resumed, to the same result as if it
    had never been interrupted (on the same machine). Under `torchrun` or `accelerate launch`
    the batches are shared out between the processes.

    Args:
        config: settings, see `RunConfig`; or give them as keyword arguments, or both.
        out: the run's folder.
        callbacks: called with a `Record` after each iteration of this process.
        settings: fields of `RunConfig`.

    Returns:
        The result, or None in processes other than the first.

    Raises:
        InputError: bad settings, unknown model or reward, a folder of another run.
        OSError: the folder cannot be written.
    """
    if not isinstance(config, RunConfig):
        config = resolve(config or {}, settings)
    elif settings:
        raise InputError("give a RunConfig or settings, not both")
    ranks = _Ranks()
    folder = RunFolder(Path(out), config)
    given = _given_latents(config)
    every = batches(config)
    if len(every) < ranks.count:
        warnings.warn(
            f"{ranks.count} processes for {len(every)} batches: some have nothing to do; a smaller "
            "batch_size makes more batches",
            stacklevel=2,
        )
    with _opened(folder, ranks):
        mine = [
            (index, samples)
            for index, samples in enumerate(every)
            if index % ranks.count == ranks.index and not folder.batch(index).result.exists()
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


class _Ranks:
    """This process among those of the launch; one alone where there is no launcher."""

    def __init__(self) -> None:
        from accelerate import PartialState

        # Who has done its share waits for the others, which may take days.
        self._state = PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(days=30))
        self.index, self.count = self._state.process_index, self._state.num_processes
        self.device = str(self._state.device) if self.count > 1 else "auto"

    def wait(self) -> None:
        """Until all processes are here."""
        self._state.wait_for_everyone()


@contextmanager
def _opened(folder: RunFolder, ranks: _Ranks) -> Iterator[None]:
    """The run's folder, made by the first process and locked while it works.

    What goes wrong before the first iteration is done leaves no folder behind.
    """
    if ranks.index:
        ranks.wait()
        yield
        return
    folder.create()
    with folder.lock():
        ranks.wait()
        try:
            yield
        except BaseException:
            folder.discard_if_untouched()
            raise


def batches(config: RunConfig) -> Sequence[tuple[Sample, ...]]:
    """The samples of a run in batches: prompts outermost, then seeds."""
    pairs = [(prompt, seed) for prompt in config.prompts for seed in config.seeds]
    samples = [Sample(index, *pair) for index, pair in enumerate(pairs)]
    size = config.batch_size
    return [tuple(samples[k : k + size]) for k in range(0, len(samples), size)]


def build(config: RunConfig, device: str = "auto") -> Problem:
    """Loads what a config names.

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
    """Run or resume one batch, to its images and its result.

    `latents`: the noises of all samples of the run, if it is not to draw them.
    """
    place = folder.batch(index)
    own = None if latents is None else latents[[sample.index for sample in samples]]
    batch = Batch(problem, samples, own)
    saved = place.load()
    if saved is not None:
        batch.load_state(saved)
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
    save_tensors(
        place.result,
        {**latents, "best.iteration": batch.selection.iteration, "status": batch.status},
    )


def _given_latents(config: RunConfig) -> Tensor | None:
    """The noises that a run is to start from, if it names any."""
    if config.latents is None:
        return None
    latents = files.load_latents(config.latents, config.latents_key)
    if not latents.is_floating_point():
        raise InputError(f"{config.latents}: must be of a real floating type, got {latents.dtype}")
    return latents


def _check_latents(config: RunConfig, latents: Tensor | None, problem: Problem) -> None:
    wanted = (len(config.prompts) * len(config.seeds), *problem.model.latent_shape)
    if latents is not None and tuple(latents.shape) != wanted:
        raise InputError(
            f"{config.latents}: must hold a noise for every sample, shape {wanted}, got "
            f"{tuple(latents.shape)}"
        )
