"""The parts that all reports of experiments share: heading, pictures, files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gaussreg_fast import _environment
from gaussreg_fast._files import atomic_path, write_json, write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def heading(experiment: str) -> dict[str, Any]:
    """Return the first entries of an experiment's JSON: its name, the date and the machine."""
    return {
        "experiment": experiment,
        "date": _environment.today(),
        "machine": {**_environment.machine(), **_environment.versions("torch")},
    }


def strip(axis: Any, images: np.ndarray, label: str) -> None:
    """Plot images (n, H, W), uint8 or in [0, 1], side by side."""
    white = 255 if images.dtype == np.uint8 else 1
    axis.imshow(np.concatenate(list(images), axis=1), cmap="gray", vmin=0, vmax=white)
    axis.set(xticks=[], yticks=[])
    axis.set_ylabel(label, rotation=0, ha="right", va="center", fontsize="small")


def save(name: str, figure: Figure, text: str, result: dict[str, Any], folder: Path) -> list[Path]:
    """Write an experiment's picture, text and JSON, each whole or not at all; return the paths."""
    paths = [folder / f"{name}.{ending}" for ending in ("png", "md", "json")]
    with atomic_path(paths[0]) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
    write_text(paths[1], text)
    write_json(paths[2], result)
    return paths
