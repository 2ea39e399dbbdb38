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
import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gaussreg_fast import _environment
from gaussreg_fast._files import atomic_path, write_json, write_text
from gaussreg_fast.errors import InputError
from gaussreg_fast.latent import config as configs
from gaussreg_fast.latent.problem import STATUS, Record
from gaussreg_fast.latent.settings import RunConfig


class RunFolder:
    """A run folder, new or with a run to resume.

    Raises:
        InputError: the path is a file, or a folder with other files or a run of other settings.
    """

    def __init__(self, path: Path, config: RunConfig) -> None:
        self.path, self._config = path, config
        stored = path / "config.yaml"
        if path.exists() and not path.is_dir():
            raise InputError(f"{path}: is not a folder")
        if stored.exists():
            _check_same(stored, configs.stored(stored), config)
        elif path.exists() and any(p.name != ".lock" for p in path.iterdir()):
            raise InputError(f"{path}: holds other files; choose a new folder")

    def create(self) -> None:
        """Create the folder if it does not exist.

        Raises:
            OSError: the folder cannot be written.
        """
        self._made = not self.path.exists()
        self._new = not (self.path / "config.yaml").exists()
        self.path.mkdir(parents=True, exist_ok=True)
        if self._new:  # written first, because a later call knows a run folder by this file
            write_text(self.path / "config.yaml", configs.to_yaml(self._config))
        (self.path / "images").mkdir(exist_ok=True)
        (self.path / "batches").mkdir(exist_ok=True)

    def describe(self, model: Mapping[str, Any]) -> None:
        """Write versions, machine and the model's resolved settings."""
        write_json(self.path / "environment.json", environment(model))

    def discard_if_untouched(self) -> None:
        """Remove what `create` has just made, if it holds no iteration yet."""
        if not self._new or any(self.path.glob("batches/*/*")):
            return
        if self._made:
            shutil.rmtree(self.path)
            return
        for path in self.path.iterdir():  # an empty folder of the user's own stays
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def batch(self, index: int) -> BatchFolder:
        """Return the folder of a batch."""
        return BatchFolder(self.path / "batches" / f"{index:04d}")

    def image(self, sample: int, kind: str) -> Path:
        """Return the path of a sample's picture; `kind` is start, best or final."""
        return self.path / "images" / f"{sample:03d}-{kind}.png"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the folder against a second run, and remove half-written files.

        Raises:
            InputError: another run uses the folder.
        """
        with open(self.path / ".lock", "w") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(f"{self.path}: another run is at work in this folder") from None
            for half_written in self.path.rglob(".*-*"):  # by a run that was killed
                half_written.unlink()
            yield


class BatchFolder:
    """The files of one batch."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metrics = path / "metrics.csv"
        self.state = path / "state.safetensors"
        self.result = path / "result.safetensors"

    def load(self) -> dict[str, Tensor] | None:
        """Read the last checkpoint and cut the metrics back to it; None if there is none.

        Raises:
            InputError: the checkpoint cannot be read.
        """
        if not self.state.exists():
            self.path.mkdir(exist_ok=True)
            self.metrics.unlink(missing_ok=True)
            return None
        tensors = load_tensors(self.state)
        os.truncate(self.metrics, int(tensors.pop("metrics.bytes")))
        return tensors

    def append(self, record: Record) -> None:
        """Append the rows of an iterate to the metrics."""
        new = not self.metrics.exists()
        with open(self.metrics, "a", newline="", encoding="utf-8") as handle:
            writer = csv.writer(handle, lineterminator="\n")
            if new:
                writer.writerow(["sample", "seed", "iteration", "status", *record.values])
            columns = [column.tolist() for column in record.values.values()]
            for row, sample in enumerate(record.samples):
                values = ["" if column[row] != column[row] else column[row] for column in columns]
                status = STATUS[record.status[row]]
                writer.writerow([sample.index, sample.seed, record.iteration, status, *values])

    def save(self, tensors: Mapping[str, Tensor]) -> None:
        """Write a checkpoint, which belongs to exactly the metrics written so far."""
        size = torch.tensor(self.metrics.stat().st_size, dtype=torch.int64, device="cpu")
        save_tensors(self.state, {**tensors, "metrics.bytes": size})


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


def write_image(path: Path, image: Tensor) -> None:
    """Write a (3, H, W) image in [0, 1] as PNG, whole or not at all; NaN becomes black."""
    from PIL import Image

    pixels = image.detach().float().cpu().nan_to_num(0.0).clamp(0, 1).mul(255).round()
    with atomic_path(path) as temporary:
        Image.fromarray(pixels.byte().permute(1, 2, 0).numpy()).save(temporary, format="png")


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read tensors by name from a safetensors file.

    Raises:
        InputError: the file cannot be read.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: unreadable ({error})") from error


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors by name, whole or not at all.

    Raises:
        OSError: the file cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with atomic_path(path) as temporary:
        try:
            save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, temporary)
        except SafetensorError as error:  # raised instead of OSError when the disk is full
            raise OSError(None, str(error), str(path)) from error


def read_metrics(paths: Sequence[Path]) -> tuple[list[str], list[list[str]]]:
    """Read the heading and the rows of several metrics files, in their order."""
    heading: list[str] = []
    rows: list[list[str]] = []
    for path in paths:
        with open(path, newline="", encoding="utf-8") as handle:
            reader = csv.reader(handle)
            heading = next(reader)
            rows += list(reader)
    return heading, rows


def write_csv(path: Path, heading: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Write a table, whole or not at all."""
    with atomic_path(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as f:
        writer = csv.writer(f, lineterminator="\n")
        writer.writerow(heading)
        writer.writerows(rows)
