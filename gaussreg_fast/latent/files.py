"""Reading latents from files, and writing results so that none is ever half there."""

from __future__ import annotations

import json
import math
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gaussreg_fast.latent.errors import InputError

_ANSI = re.compile(r"\x1b\[[0-9;]*m")


class LatentFileError(InputError):
    """A latent file that cannot be used; the message names the file and says why."""


def load_latents(path: str | Path, key: str | None = None) -> Tensor:
    """The latents in a .safetensors, .npy, .npz, .pt or .pth file, on the CPU.

    Args:
        path: the file. `.pt` files are loaded with weights only: no code in them is run.
        key: which tensor, where the file holds several.

    Raises:
        LatentFileError: no such file, unknown ending, unreadable or truncated, no tensor in
            it, or several and no `key`.
    """
    path = Path(path)
    if not path.is_file():
        raise LatentFileError(f"{path}: {'is a folder' if path.is_dir() else 'no such file'}")
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        known = ", ".join(_READERS)
        raise LatentFileError(f"{path}: unknown ending {path.suffix!r}, known are {known}")
    try:
        content = reader(path)
    except ModuleNotFoundError as error:
        raise LatentFileError(
            f"{path}: reading it needs {error.name}: pip install 'gaussreg_fast[cli]'"
        ) from error
    except Exception as error:  # each format's reader has errors of its own
        lines = _ANSI.sub("", str(error)).strip().splitlines()
        reason = lines[0] if lines else type(error).__name__
        raise LatentFileError(f"{path}: unreadable or truncated ({reason})") from error
    return _pick(path, content, key)


def _read_safetensors(path: Path) -> Any:
    from safetensors.torch import load_file

    return load_file(path)


def _read_npz(path: Path) -> Any:
    with np.load(path, allow_pickle=False) as archive:
        return dict(archive)


_READERS = {
    ".safetensors": _read_safetensors,
    ".npy": lambda path: np.load(path, allow_pickle=False),
    ".npz": _read_npz,
    ".pt": lambda path: torch.load(path, map_location="cpu", weights_only=True),
    ".pth": lambda path: torch.load(path, map_location="cpu", weights_only=True),
}


def _pick(path: Path, content: Any, key: str | None) -> Tensor:
    if not isinstance(content, Mapping):
        if key is not None:
            raise LatentFileError(f"{path}: holds one array without a name, got key {key!r}")
        content = {"latents": content}
    tensors = {k: v for k, v in content.items() if isinstance(v, (Tensor, np.ndarray))}
    if not tensors:
        raise LatentFileError(f"{path}: holds no tensor at its top level")
    names = ", ".join(map(str, tensors))
    if key is None:
        if len(tensors) != 1:
            raise LatentFileError(f"{path}: choose one of its tensors with a key: {names}")
        (key,) = tensors
    if key not in tensors:
        raise LatentFileError(f"{path}: no tensor {key!r}, it has {names}")
    value = tensors[key]
    if isinstance(value, Tensor):
        if value.is_meta or value.is_nested:
            raise LatentFileError(f"{path}: {key!r} is a meta or nested tensor, without numbers")
        return value
    try:
        native = value.astype(value.dtype.newbyteorder("="), order="C")
        return torch.from_numpy(native)
    except TypeError as error:  # strings, objects, dates, long doubles
        raise LatentFileError(f"{path}: {key!r} is not numeric ({value.dtype})") from error


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary path to write to; it takes the place of `path` when the block ends well."""
    path = Path(path)
    try:
        handle, name = tempfile.mkstemp(
            dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix
        )
    except OSError as error:
        error.filename = str(path)  # not the temporary name, which means nothing to the user
        raise
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text file, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def json_text(value: Any) -> str:
    """Strict JSON: NaN and infinities, which it does not know, become null."""

    def strict(v: Any) -> Any:
        if isinstance(v, dict):
            return {k: strict(item) for k, item in v.items()}
        if isinstance(v, list):
            return [strict(item) for item in v]
        return None if isinstance(v, float) and not math.isfinite(v) else v

    return json.dumps(strict(value), indent=1, allow_nan=False)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
