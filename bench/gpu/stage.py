"""What a run is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Row = dict[str, Any]


@dataclass(frozen=True)
class Part:
    """One row of the result.

    Attributes:
        name: of the row, unique within its stage.
        run: measures, and returns the row's content; what it raises makes the row FAILED.
            It is told the seconds that it may take.
        seconds: that it is expected to take with its kernels compiled.
        kernels: by a label, launches of every Triton kernel that `run` needs, on small inputs.
            They are compiled ahead, by many processes.
    """

    name: str
    run: Callable[[float], Row]
    seconds: float
    kernels: Mapping[str, Callable[[], Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Stage:
    """A part of a run.

    Attributes:
        name: as `--stages` takes it.
        title: what it does, for the table.
        parts: makes its parts, the most telling first.
        seconds: that it is expected to take; it does not start if less is left.
        at_most: it is stopped after so many seconds, or when the run's time is up.
        quiet: no kernels are compiled beside it, because it measures the host's time.
        jobs: makes commands (`python -m bench ...`) that fill compilers' caches on disk ahead.
    """

    name: str
    title: str
    parts: Callable[[], list[Part]]
    seconds: float
    at_most: float
    quiet: bool = False
    jobs: Callable[[], list[list[str]]] | None = None


class LeftOut(Exception):
    """A part that cannot be had here, with the reason: "not measured", and no failure."""
