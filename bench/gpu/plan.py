"""The stages in order: FULL on a GPU, SMALL in a rehearsal."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from bench.errors import BadInput
from bench.gpu import extras, headline, look, paths, repetition, sanitizer, tuning
from bench.gpu.stage import Part, Stage


def _stages(small: bool) -> tuple[Stage, ...]:
    """Expected seconds are estimates until a run has measured them.

    They are the sum of what the parts are expected to take; of the last two stages, which get
    what is left, those of their first part.
    """
    return (
        Stage(
            "look", "machine, versions, ceilings", partial(look.parts, small), 18, 45, quiet=True
        ),
        Stage("paths", "every path against float64", partial(paths.parts, small), 42, 120),
        Stage(
            "headline", "ours against the others, timed", partial(headline.parts, small), 146, 220,
            quiet=True, jobs=partial(headline.jobs, small),
        ),
        Stage(
            "repetition", "bits, graphs, streams, threads", partial(repetition.parts, small), 18, 45
        ),
        Stage("sanitizer", "memcheck and racecheck", partial(sanitizer.parts, small), 50, 80),
        Stage("tuning", "launch parameters", partial(tuning.parts, small), 12, 300),
        Stage("extras", "drift, profile, digits", partial(extras.parts, small), 10, 120),
    )  # fmt: skip


def _unhurried(stage: Stage) -> Stage:
    """With time enough for the simulator on a busy machine."""
    most = 600.0

    def parts() -> list[Part]:
        return [replace(part, seconds=max(20.0, part.seconds)) for part in stage.parts()]

    return replace(stage, parts=parts, at_most=most)


FULL = _stages(small=False)
SMALL = tuple(map(_unhurried, _stages(small=True)))


def chosen(plan: str, names: Sequence[str]) -> list[Stage]:
    """The stages of MODULE:NAME with these names, all if there are none, in the plan's order.

    Raises:
        BadInput: a name is of no stage.
    """
    module, _, attribute = plan.partition(":")
    stages: Sequence[Stage] = getattr(importlib.import_module(module), attribute)
    known = [stage.name for stage in stages]
    for name in names:
        if name not in known:
            raise BadInput(f"--stages: {name!r} is no stage; these are: {', '.join(known)}")
    return [stage for stage in stages if not names or stage.name in names]
