"""Launches of a user's own Triton kernels."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.errors import BadInput
from bench.simulator import Launch, Schedule, simulated
from bench.simulator.running import SCHEDULES


def function(name: str) -> Callable[[], Any]:
    """A function named MODULE:FUNCTION; the module may lie in the current folder."""
    module, _, attribute = name.partition(":")
    if not attribute:
        raise BadInput(f"--kernel: MODULE:FUNCTION is needed, got {name!r}")
    sys.path.insert(0, str(Path.cwd()))
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise BadInput(f"--kernel: {name}: {error}") from None
    if not callable(found):
        raise BadInput(f"--kernel: {name} is a {type(found).__name__}, a function is needed")
    return found


def launches(name: str, arch: str, schedule: Schedule | None = None) -> list[Launch]:
    """What the function launches, executed."""
    launch = function(name)
    with simulated(schedule, arch) as simulation:
        launch()
    if not simulation.launches:
        raise BadInput(f"--kernel: {name} launched no Triton kernel")
    return simulation.launches


def simulate(name: str, arch: str) -> int:
    """Runs the function's launches under all schedules; 1 where one of them finds an error."""
    found: dict[str, None] = {}
    count = 0
    for schedule in SCHEDULES:
        executed = launches(name, arch, schedule)
        count = len(executed)
        found |= dict.fromkeys(line for launch in executed for line in launch.errors())
    for line in found:
        print(line)
    print(f"{name}: {count} launches, {len(SCHEDULES)} schedules each, {len(found)} errors")
    return 1 if found else 0
