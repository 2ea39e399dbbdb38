"""Write tensors, pictures and tables whole or not at all, and tell whether files are whole."""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gaussreg_fast._files import atomic_path
from gaussreg_fast.errors import InputError


def write_image(path: Path, image: Tensor) -> None:
    """Write a (3, H, W) image in [0, 1] as PNG, whole or not at all; NaN becomes black."""
    from PIL import Image

    pixels = image.detach().float().cpu().nan_to_num(0.0).clamp(0, 1).mul(255).round()
    with atomic_path(path) as temporary:
        Image.fromarray(pixels.byte().permute(1, 2, 0).numpy()).save(temporary, format="png")


_END_OF_PNG = b"IEND\xaeB`\x82"


def is_whole_image(path: Path) -> bool:
    """Return whether there is a PNG file to its last bytes."""
    if not path.is_file() or path.stat().st_size < len(_END_OF_PNG):
        return False
    with open(path, "rb") as handle:
        handle.seek(-len(_END_OF_PNG), os.SEEK_END)
        return handle.read() == _END_OF_PNG


def are_whole_tensors(path: Path) -> bool:
    """Return whether there is a file whose tensors are those that `save_tensors` wrote."""
    try:
        load_tensors(path)
        return True
    except InputError:
        return False


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read tensors by name from a file of `save_tensors`.

    Raises:
        InputError: the file cannot be read, or its tensors are not those that were written.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as handle:
            wanted = (handle.metadata() or {}).get(_DIGEST)
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: unreadable ({error})") from error
    if wanted is None:
        raise InputError(f"{path}: is not of this version, it holds no {_DIGEST!r}")
    if wanted != _digest(tensors):
        raise InputError(f"{path}: is damaged, its tensors are not those that were written")
    return tensors


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors by name with a digest of them, whole or not at all.

    Raises:
        OSError: the file cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_path(path) as temporary:
        try:
            save_file(plain, temporary, metadata={_DIGEST: _digest(plain)})
        except SafetensorError as error:  # raised instead of OSError when the disk is full
            raise OSError(None, str(error), str(path)) from error


_DIGEST = "sha256"  # name of the digest in a file's metadata


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """Return a digest of contiguous tensors: their names, dtypes, shapes and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(repr((name, str(tensor.dtype), tuple(tensor.shape))).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def write_csv(path: Path, heading: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Write a table, whole or not at all."""
    with atomic_path(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as f:
        writer = csv.writer(f, lineterminator="\n")
        writer.writerow(heading)
        writer.writerows(rows)
