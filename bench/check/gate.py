"""The calls of the regression check, each beside a yardstick in the same process.

A suite is a function `suite(device)` that returns name -> (call, yardstick), both without
arguments; a user's project has it in a file of its own (docs/guide/gate-ci.md). The yardstick is
work of the same kind that the change under test does not touch, so that the speed of the machine
cancels.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import gaussreg_fast
from bench.harness.errors import BadInput, describe
from bench.subjects import cases, correctness, peers

Suite = dict[str, tuple[Callable[[], Any], Callable[[], Any]]]
# Case -> its calls; on a GPU one latent, and batches that fill the device.
CALLS = {
    "cpu": {
        "sd-1": ("value_and_grad", "loss_backward", "value"),
        "sd-16": ("value_and_grad", "statistics", "projection", "moments"),
        "sd-16-bfloat16": ("value_and_grad",),
        "sd-4-per_sample": ("value_and_grad",),
        "sdxl-4": ("value_and_grad",),
        "flux-1": ("value_and_grad",),
        "sd768-4": ("value_and_grad",),
    },
    "cuda": {
        "sd-1": ("value_and_grad", "loss_backward"),
        "sd-1024": ("value_and_grad", "value", "statistics", "projection", "moments"),
        "sd-1024-bfloat16": ("value_and_grad",),
        "sd-1024-per_sample": ("value_and_grad",),
        "sana-512": ("value_and_grad",),
        "sdxl-256": ("value_and_grad",),
        "flux-64": ("value_and_grad",),
        "sd768-64": ("value_and_grad",),
    },
}
# The yardstick transforms as many numbers as the call has, but at least four rows (torch plans the
# transform of fewer anew in each call) of at most 16384 (longer ones outlast a time slice).
YARDSTICK_ROWS = 4
YARDSTICK_SIZE = 16384


def suite(device: str) -> Suite:
    """Return the package's own suite; the yardstick is torch's FFT pair of as many numbers."""
    found: Suite = {}
    for name, calls in CALLS[device].items():
        case = cases.parse(name)
        (x,) = peers.inputs(case, device, 1)
        options: dict[str, Any] = {"permutation": case.permutation}
        known = {call: partial(timed, 0) for call, timed in peers.ours(case, [x]).items()} | {
            "statistics": partial(
                gaussreg_fast.permuted_statistics, x.detach(), orders=(1, 2), **options
            ),
            "projection": partial(gaussreg_fast.project_white_noise, x.detach()),
            "moments": peers.with_backward(gaussreg_fast.moment_loss, x),
        }
        size = min(case.dimension, YARDSTICK_SIZE)
        count = max(YARDSTICK_ROWS, case.batch * case.dimension // size)
        rows = torch.randn(count, size, device=device)
        for call in calls:
            found[f"{name} {call}"] = known[call], partial(_pair, rows)
    return found


def _pair(x: Tensor) -> Tensor:
    return torch.fft.irfft(torch.fft.rfft(x), n=x.shape[1])


def verify(device: str) -> None:
    """Raise Wrong if a result of the suite differs from float64."""
    for name, calls in CALLS[device].items():
        case = cases.parse(name)
        errors = correctness.check(case, device, rounds=1)
        if "statistics" in calls:
            correctness.check_statistics(errors, case, device)
        if "moments" in calls:
            correctness.check_guard(errors, "moment", peers.GUARDS["moment"], case, device)


def load(path: Path | None, device: str) -> Suite:
    """Return the suite of a file, or the package's own for None.

    The file is imported as a script would be: modules beside it are found.
    """
    if path is None:
        return suite(device)
    if not path.is_file():
        raise BadInput(f"--suite: {path}: no such suite")
    # Some libraries look a class's module up by its name: a dataclass, pickle. The name of a loaded
    # module stays that module's.
    name = path.stem if path.stem not in sys.modules else f"{path.stem}_suite"
    spec = importlib.util.spec_from_file_location(name, path)
    if not spec or not spec.loader:
        raise BadInput(f"--suite: a suite must be a Python file, got {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.insert(0, str(path.resolve().parent))
    try:
        spec.loader.exec_module(module)
        make = getattr(module, "suite", None)
        found = make(device) if callable(make) else None
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        raise BadInput(f"--suite: {path} cannot be used: {describe(error)}") from error
    if not callable(make):
        raise BadInput(f"--suite: {path} has no function suite(device)")
    return _checked(path, found)


def _checked(path: Path, found: Any) -> Suite:
    """Return a user's suite; raise BadInput if it is no dict of pairs of calls."""
    if not isinstance(found, dict) or not found:
        raise BadInput(
            f"--suite: suite(device) in {path} must return a dict with at least one call, got "
            f"{found!r:.80}"
        )
    for name, pair in found.items():
        if not isinstance(name, str):
            raise BadInput(f"--suite: the names of calls in {path} must be strings, got {name!r}")
        if not (isinstance(pair, (tuple, list)) and len(pair) == 2 and all(map(callable, pair))):
            raise BadInput(
                f"--suite: {name!r} in {path} must be a pair (call, yardstick) of functions "
                f"without arguments, got {pair!r:.80}"
            )
    return found
