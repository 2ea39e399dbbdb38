"""The options of `load_model` and the check of their values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from gaussreg_fast.errors import InputError

OFFLOADS = ("none", "text", "model")


@dataclass(frozen=True)
class Options:
    """The arguments of `load_model`, resolved as far as possible without the pipeline."""

    device: torch.device
    dtype: torch.dtype
    steps: int | None
    guidance: float | None
    height: int | None
    width: int | None
    gradient_checkpointing: bool
    vae_slicing: bool
    offload: str
    names: tuple[str, ...] = ()
    """The names under which the model was published, as far as known: its source, and the one in
    its index, which save_pretrained keeps."""


def check_option(name: str, value: Any) -> None:
    """Check one option by its name; None leaves it to the pipeline.

    Raises:
        InputError: the value is out of range.
    """
    if name == "steps" and value is not None and (type(value) is not int or value < 1):
        raise InputError(f"steps must be a positive integer, got {value!r}")
    if name == "guidance" and value is not None:
        number = isinstance(value, (int, float))
        if not (number and 0 <= value < float("inf")):
            raise InputError(f"guidance must be a finite number of at least 0, got {value!r}")
    if name in ("height", "width") and value is not None and (type(value) is not int or value < 1):
        raise InputError(f"{name} must be a positive integer of pixels, got {value!r}")
    if name == "offload" and value not in OFFLOADS:
        raise InputError(f"offload must be one of {', '.join(OFFLOADS)}, got {value!r}")
