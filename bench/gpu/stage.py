"""The units of a run: stages and their parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Row = dict[str, Any]


@dataclass(frozen=True)
class Part:
    """One row of the result.

    Attributes:
        name: the row's name, unique within its stage.
        run: measures, and returns the row's content; it gets the seconds that it may take. An
            exception makes the row FAILED.
        seconds: expected seconds with its kernels compiled.
        kernels: label -> launch on small inputs, for every Triton kernel that `run` needs. Many
            processes compile them ahead.
    """

    name: str
    run: Callable[[float], Row]
    seconds: float
    kernels: Mapping[str, Callable[[], Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Stage:
    """A section of a run.

    Attributes:
        name: the stage's name for `--stages`.
        title: short description for the table.
        parts: makes the parts, the most telling first.
        seconds: expected seconds; the stage does not start if less is left.
        at_most: seconds after which it is stopped, unless the run's time ends earlier.
        quiet: compile no kernels beside it, because it measures the host's time.
        jobs: makes the `python -m bench` commands that fill compilers' caches on disk ahead.
    """

    name: str
    title: str
    parts: Callable[[], list[Part]]
    seconds: float
    at_most: float
    quiet: bool = False
    jobs: Callable[[], list[list[str]]] | None = None


class LeftOut(Exception):
    """A part cannot be measured here, which is no failure; the message is the reason."""
