"""Simulate launches of a user's own Triton kernels."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from bench.harness.errors import BadInput, describe
from bench.simulator import Launch, Schedule, Unsupported, simulated
from bench.simulator.running import SCHEDULES


def function(name: str) -> Callable[[], Any]:
    """Import a function MODULE:FUNCTION; the module may lie in the current folder."""
    module, _, attribute = name.partition(":")
    if not attribute:
        raise BadInput(f"--kernel must be MODULE:FUNCTION, got {name!r}")
    sys.path.insert(0, str(Path.cwd()))
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        where = f"{Path.cwd()} and sys.path were searched"
        raise BadInput(f"--kernel: {name}: {error}; {where}") from None
    except (Exception, SystemExit) as error:  # the user's module may raise anything
        raise BadInput(f"--kernel: {name}: {describe(error)}") from None
    if not callable(found):
        raise BadInput(f"--kernel: {name} must be a function, got {type(found).__name__}")
    return found


def launches(name: str, arch: str, schedule: Schedule | None = None) -> tuple[list[Launch], str]:
    """Run the function; return its executed launches, and its exception in a line, or "".

    Launches before an exception are kept, because a race often causes a wrong number.
    """
    launch, raised = function(name), ""
    torch.manual_seed(0)
    with simulated(schedule, arch) as simulation:
        try:
            launch()
        except Unsupported as error:
            raise BadInput(str(error)) from None
        except (Exception, SystemExit) as error:  # the user's function may raise anything
            raised = describe(error)
    if not simulation.launches and not raised:
        raise BadInput(f"--kernel: {name} launched no Triton kernel")
    return simulation.launches, raised


def simulate(name: str, arch: str) -> int:
    """Run the function's launches under all schedules; return 1 if one finds an error, else 0."""
    found: dict[str, str] = {}
    count = 0
    for schedule in SCHEDULES:
        executed, raised = launches(name, arch, schedule)
        count = len(executed)
        found |= {key: line for launch in executed for key, line in launch.errors().items()}
        if raised:
            found["raised"] = raised
    for line in found.values():
        print(line)
    launched = f"{count} launch{'' if count == 1 else 'es'}"
    errors = f"{len(found)} error{'' if len(found) == 1 else 's'}"
    print(f"{name}: {launched}, {len(SCHEDULES)} schedules each, {errors}")
    return 1 if found else 0
