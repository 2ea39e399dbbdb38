"""The check of a loss's options before there is a sample."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from gaussreg_fast import checks
from gaussreg_fast.backends import require_here


def check_options(function: Callable[..., Tensor], options: Mapping[str, Any]) -> None:
    """Check the options of a loss function, as far as they do not depend on x.

    The function's own checks see an empty batch whose samples are long enough for the options.

    Raises:
        TypeError, ValueError: an option is of the wrong type or out of range.
        RuntimeError: the backend cannot run on this machine.
    """
    options = dict(options)
    seed, generator = options.pop("seed", None), options.pop("generator", None)
    source = generator if isinstance(generator, torch.Generator) else seed
    checks.seed(seed, generator, getattr(source, "device", torch.device("cpu")))
    require_here(checks.one_of("backend", options.pop("backend", "auto"), checks.BACKENDS))
    if isinstance(options.get("permutation"), Tensor):
        options["permutation"] = "none"  # its length is checked against x
    known = inspect.signature(function).parameters
    if "seed" in known:
        options["seed"] = 0  # draws nothing from the user's generators
    length, most = 2, checks.MAX_DIMENSION // 2
    for name, default in (("block_size", 16), ("factor", 4)):
        if name in known:
            length *= checks.integer(name, options.get(name, default), 1, most)
    function(torch.zeros(0, length, dtype=torch.float32, device="cpu"), **options)
