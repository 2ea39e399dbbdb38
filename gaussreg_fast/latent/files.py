"""Read latents from files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gaussreg_fast import _numpy
from gaussreg_fast._files import user_path
from gaussreg_fast.errors import InputError, first_line, of_machine


class LatentFileError(InputError):
    """A latent file that cannot be used; the message names the file and says why."""


def load_latents(path: str | Path, key: str | None = None) -> Tensor:
    """Read latents from a .safetensors, .npy, .npz, .pt or .pth file, onto the CPU.

    Args:
        path: the file. `.pt` files are loaded with weights only: no code in them is run.
        key: name of the tensor, if the file holds several.

    Raises:
        MemoryError, RuntimeError: the tensor does not fit into memory.
        LatentFileError: the file does not exist, has an unknown ending, is unreadable or
            truncated, holds no tensor, or holds several and no `key` is given.
    """
    path = user_path(path)
    if not path.is_file():
        problem = "is a folder, not a file" if path.is_dir() else "no such file"
        raise LatentFileError(f"{path}: {problem}")
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        known = ", ".join(ENDINGS)
        raise LatentFileError(f"{path}: the ending must be one of {known}, got {path.suffix!r}")
    try:
        content = reader(path)
    except ModuleNotFoundError as error:
        raise LatentFileError(
            f"{path}: reading it needs {error.name}: pip install 'gaussreg_fast[cli]'"
        ) from error
    except Exception as error:  # each format's reader raises its own types
        if of_machine(error):
            raise
        raise LatentFileError(f"{path}: unreadable or truncated ({first_line(error)})") from error
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
ENDINGS = tuple(_READERS)


def _pick(path: Path, content: Any, key: str | None) -> Tensor:
    if not isinstance(content, Mapping):
        if key is not None:
            raise LatentFileError(
                f"{path}: holds one array without a name; leave the key out, got {key!r}"
            )
        content = {"latents": content}
    tensors = {k: v for k, v in content.items() if isinstance(v, (Tensor, np.ndarray))}
    if not tensors:
        raise LatentFileError(f"{path}: holds no tensor at its top level")
    names = ", ".join(map(str, tensors))
    if key is None:
        if len(tensors) != 1:
            raise LatentFileError(
                f"{path}: holds several tensors; choose one with a key out of {names}"
            )
        (key,) = tensors
    if key not in tensors:
        raise LatentFileError(f"{path}: the key must be one of {names}, got {key!r}")
    value = tensors[key]
    if isinstance(value, Tensor):
        if value.is_meta or value.is_nested:
            raise LatentFileError(f"{path}: {key!r} is a meta or nested tensor, without numbers")
        return value
    try:
        return _numpy.tensor(value)
    except TypeError as error:
        raise LatentFileError(f"{path}: {key!r} cannot be read: {error}") from error
