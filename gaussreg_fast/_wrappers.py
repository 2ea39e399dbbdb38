"""What libraries wrap around models and optimisers, and how to see through it.

Wrappers of models add parts to the names of parameters. Wrappers of optimisers decide when the
optimiser inside makes a step: not while gradients accumulate, nor after an overflow.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

# Parts of names by torch.compile, FSDP1, activation checkpointing, DataParallel (also DDP and
# AveragedModel) and, for a layer with an adapter, PEFT.
_PARTS = frozenset(
    ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "module", "base_layer")
)
_PEFT = re.compile(r"(^|\.)base_model\.model\.")  # around the whole model


def unwrapped(names: Sequence[Any]) -> list[Any]:
    """Return names of parameters without the parts that wrappers of models add.

    If two of them would then be the same, or one is no string, return the names as they are.
    """
    if not all(isinstance(name, str) for name in names):
        return list(names)
    plain = [_unwrapped(name) for name in names]
    return plain if len(set(plain)) == len(plain) else list(names)


def _unwrapped(name: str) -> str:
    kept = ".".join(part for part in name.split(".") if part not in _PARTS)
    return _PEFT.sub(r"\1", kept) if "base_model" in kept else kept


def differing_prefixes(names: Sequence[Any], others: Sequence[Any]) -> tuple[str, str] | None:
    """Return the prefixes by which two sets of names differ, or None if there are no such."""
    if not all(isinstance(name, str) for name in (*names, *others)):
        return None
    first, second = _common_parts(names), _common_parts(others)
    while first and second and first[-1] == second[-1]:
        del first[-1], second[-1]
    pair = "".join(f"{part}." for part in first), "".join(f"{part}." for part in second)
    rests = [
        {name.removeprefix(prefix) for name in listed}
        for prefix, listed in zip(pair, (names, others), strict=True)
    ]
    return pair if rests[0] == rests[1] else None


def _common_parts(names: Sequence[str]) -> list[str]:
    """Return the parts with which all names begin; the last part of a name never counts."""
    parts = sorted(name.split(".")[:-1] for name in names)
    ends = zip(parts[0], parts[-1], strict=False)  # the lists between them begin as these two do
    return [a for a, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], ends)]


# ---------------------------------------------------------------- optimisers


def innermost(optimizer: Any) -> Any:
    """Return the optimiser that makes the steps: the last one along attributes `optimizer`."""
    while True:
        inner = getattr(optimizer, "optimizer", None)
        if not isinstance(inner, Optimizer) or inner is optimizer:
            return optimizer
        optimizer = inner


def step_is_skipped(optimizer: Optimizer) -> bool:
    """Return whether the step that runs now changes nothing, because gradients have overflowed.

    A gradient scaler calls fused optimisers all the same, and leaves the skipping to their kernel.
    """
    overflow = getattr(optimizer, "found_inf", None)
    return overflow is not None and bool(overflow)


def not_held(optimizer: Optimizer, params: Sequence[Tensor]) -> int | None:
    """Return the position of the first of params that is in no group of the optimiser, or None."""
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    return next((i for i, p in enumerate(params) if id(p) not in held), None)
