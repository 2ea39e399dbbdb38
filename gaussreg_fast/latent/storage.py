"""Write tensors, pictures and tables whole or not at all, and tell whether files are whole."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

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
    """Return whether there is a safetensors file of the length that its header says."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt"):
            return True
    except (SafetensorError, OSError):
        return False


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


def write_csv(path: Path, heading: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Write a table, whole or not at all."""
    with atomic_path(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as f:
        writer = csv.writer(f, lineterminator="\n")
        writer.writerow(heading)
        writer.writerows(rows)
