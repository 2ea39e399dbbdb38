"""The files of a run, written so that a run killed at any moment can be resumed.

config.yaml          the resolved settings
environment.json     versions and machine
batches/0000/        a batch of samples, optimised by one process
    state.safetensors    the last checkpoint: latents, optimiser, best iterates
    metrics.csv          a row per sample and iteration
    result.safetensors   start, best and final latents; written when the batch is finished
images/000-best.png  start, best and final image of every sample
metrics.csv samples.csv latents.safetensors curves.png report.md   all samples; written at the end
"""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gaussreg_fast import _environment
from gaussreg_fast._files import is_partial, locked, naming, write_json, write_text
from gaussreg_fast.errors import InputError
from gaussreg_fast.latent import config as configs
from gaussreg_fast.latent.problem import STATUS, Record, Sample
from gaussreg_fast.latent.settings import RunConfig
from gaussreg_fast.latent.storage import (
    are_whole_tensors,
    is_whole_image,
    load_tensors,
    save_tensors,
)

KINDS = ("start", "best", "final")


class RunFolder:
    """A run folder, new or with a run to resume.

    Raises:
        InputError: the path is not UTF-8, a file, or a folder with other files or a run of other
            settings.
    """

    def __init__(self, path: Path, config: RunConfig) -> None:
        _check_utf8(path)
        self.path, self._config = path, config
        stored = path / "config.yaml"
        if path.exists() and not path.is_dir():
            raise InputError(f"{path}: is not a folder")
        if stored.exists():
            _check_same(stored, configs.stored(stored), config)
        elif path.exists() and any(p.name != ".lock" and not is_partial(p) for p in path.iterdir()):
            raise InputError(f"{path}: holds other files; choose a new folder")

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Create the folder if it does not exist, and lock it against a second run.

        An error before the end of the first iteration removes what was created.

        Raises:
            InputError: another run uses the folder.
            OSError: the folder cannot be written.
        """
        missing = [path for path in (self.path, *self.path.parents) if not path.exists()]
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with self._locked(made=bool(missing)):
                new = not (self.path / "config.yaml").exists()
                try:
                    self._prepare(new)
                    yield
                except BaseException:
                    if new and not any(self.path.glob("batches/*/*")):
                        self._empty()
                    raise
        finally:
            for path in missing:  # from the inside out
                with suppress(OSError):
                    path.rmdir()  # does nothing to a folder with files

    @contextmanager
    def _locked(self, made: bool) -> Iterator[None]:
        lock = self.path / ".lock"
        with ExitStack() as stack:
            try:
                stack.enter_context(locked(lock))
            except BlockingIOError:
                raise InputError(f"{self.path}: another run is at work in this folder") from None
            except OSError:
                if made:
                    lock.unlink(missing_ok=True)
                raise
            yield

    def _prepare(self, new: bool) -> None:
        """Write the settings of a new run, and remove the half-written files of a killed one."""
        for path in [path for path in self.path.rglob("*") if is_partial(path)]:
            path.unlink()
        if new:  # written first, because a later call knows a run folder by this file
            write_text(self.path / "config.yaml", configs.to_yaml(self._config))
        (self.path / "images").mkdir(exist_ok=True)
        (self.path / "batches").mkdir(exist_ok=True)

    def _empty(self) -> None:
        for path in self.path.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def describe(self, model: Mapping[str, Any]) -> None:
        """Write versions, machine and the model's resolved settings."""
        write_json(self.path / "environment.json", environment(model))

    def batch(self, index: int) -> BatchFolder:
        """Return the folder of a batch."""
        return BatchFolder(self.path / "batches" / f"{index:04d}")

    def image(self, sample: int, kind: str) -> Path:
        """Return the path of a sample's picture; `kind` is start, best or final."""
        return self.path / "images" / f"{sample:03d}-{kind}.png"

    def finished(self, index: int, samples: Sequence[Sample]) -> bool:
        """Return whether a batch has its result and its images, all of them whole."""
        images = [self.image(sample.index, kind) for sample in samples for kind in KINDS]
        return are_whole_tensors(self.batch(index).result) and all(map(is_whole_image, images))


class BatchFolder:
    """The files of one batch.

    Checkpoints and the result hold the rows of the metrics, too. So `metrics.csv`, which grows with
    every iteration, can be written anew whatever happened to it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metrics = path / "metrics.csv"
        self.state = path / "state.safetensors"
        self.result = path / "result.safetensors"
        self._rows = ""

    def load(self) -> dict[str, Tensor] | None:
        """Read the last checkpoint and cut the metrics back to it; None if there is none.

        Raises:
            InputError: the checkpoint cannot be read, or is damaged.
        """
        self.path.mkdir(exist_ok=True)
        if self.state.exists():
            return self._load(self.state)
        self.metrics.unlink(missing_ok=True)
        return None

    def append(self, record: Record) -> None:
        """Append the rows of an iterate to the metrics."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        if not self._rows:
            writer.writerow(["sample", "seed", "iteration", "status", *record.values])
        columns = [column.tolist() for column in record.values.values()]
        for row, sample in enumerate(record.samples):
            values = ["" if column[row] != column[row] else column[row] for column in columns]
            status = STATUS[record.status[row]]
            writer.writerow([sample.index, sample.seed, record.iteration, status, *values])
        self._rows += text.getvalue()
        with naming(self.metrics), open(self.metrics, "a", newline="", encoding="utf-8") as handle:
            handle.write(text.getvalue())

    def save(self, tensors: Mapping[str, Tensor]) -> None:
        """Write a checkpoint."""
        self._save(self.state, tensors)

    def finish(self, tensors: Mapping[str, Tensor]) -> None:
        """Write the result."""
        self._save(self.result, tensors)

    def read(self) -> tuple[dict[str, Tensor], list[list[str]]]:
        """Read the result, and the heading and rows of the metrics.

        Raises:
            InputError: the result cannot be read, or is damaged.
        """
        tensors = self._load(self.result)
        return tensors, list(csv.reader(io.StringIO(self._rows)))

    def _save(self, path: Path, tensors: Mapping[str, Tensor]) -> None:
        rows = torch.frombuffer(bytearray(self._rows.encode()), dtype=torch.uint8)
        save_tensors(path, {**tensors, _ROWS: rows})

    def _load(self, path: Path) -> dict[str, Tensor]:
        """Read tensors and metrics from a file, and write `metrics.csv` anew if it differs."""
        advice = "remove the file to compute its batch anew"
        try:
            tensors = load_tensors(path)
        except InputError as error:
            raise InputError(f"{error}; {advice}") from error
        if _ROWS not in tensors:
            raise InputError(f"{path}: is not of this version, it holds no {_ROWS!r}; {advice}")
        rows = tensors.pop(_ROWS).numpy().tobytes()
        self._rows = rows.decode()
        if not self.metrics.exists() or self.metrics.read_bytes() != rows:
            write_text(self.metrics, self._rows)
        return tensors


_ROWS = "metrics"  # name of the tensor with the bytes of the metrics


def _check_utf8(path: Path) -> None:
    """Refuse a path that safetensors, which takes UTF-8 alone, could not write to."""
    try:
        str(path).encode()
    except UnicodeEncodeError:  # what is not UTF-8 in a name stands for itself as a surrogate
        raise InputError(f"out must be a path in UTF-8, got {str(path)!r}") from None


# Settings of the model that may differ when a run is resumed, because they do not change results.
_HOW = ("device", "gradient_checkpointing", "vae_slicing", "offload")


def _check_same(path: Path, stored: RunConfig, config: RunConfig) -> None:
    settings = config.model_dump(mode="json")
    for key, old in stored.model_dump(mode="json").items():
        new = settings[key]
        if key == "model":
            old, new = ({k: v for k, v in m.items() if k not in _HOW} for m in (old, new))
        if old == new or key == "checkpoint_every":
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            inner = next(k for k in {**old, **new} if old.get(k) != new.get(k))
            key, old, new = f"{key}.{inner}", old.get(inner), new.get(inner)
        raise InputError(
            f"{path.parent}: holds a run of other settings ({key}: {old!r} there, {new!r} now); "
            "choose a new folder, or give its settings to resume it"
        )


_PACKAGES = ("torch", "diffusers", "transformers", "accelerate", "triton", "numpy")


def environment(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return versions, machine and the model's resolved settings, for `environment.json`."""
    return {
        "versions": _environment.versions(*_PACKAGES),
        "model": dict(model),
        "machine": _environment.machine(),
    }
