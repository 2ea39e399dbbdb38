"""The stages in order: FULL on a GPU, SMALL in a rehearsal."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from bench.gpu import extras, headline, look, repetition, routes, sanitizer, tuning
from bench.gpu.stage import Part, Stage
from bench.harness.errors import BadInput


def _stages(small: bool) -> tuple[Stage, ...]:
    """Return the stages with their expected and largest seconds.

    Expected seconds are the sum of the parts' and estimates until a run has measured them. Of the
    last two stages, which get the remaining time, they are those of the first part.
    """
    return (
        Stage(
            "look", "machine, versions, ceilings", partial(look.parts, small), 18, 45, quiet=True
        ),
        Stage("routes", "every route against float64", partial(routes.parts, small), 42, 120),
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


def _with_time_for_simulator(stage: Stage) -> Stage:
    """Return a stage with enough time for the simulator on a busy machine."""
    most = 600.0

    def parts() -> list[Part]:
        return [replace(part, seconds=max(20.0, part.seconds)) for part in stage.parts()]

    return replace(stage, parts=parts, at_most=most)


FULL = _stages(small=False)
SMALL = tuple(map(_with_time_for_simulator, _stages(small=True)))


def chosen(plan: str, names: Sequence[str]) -> list[Stage]:
    """Return the stages of a plan MODULE:NAME with these names, or all, in the plan's order.

    Raises:
        BadInput: no stage has one of the names.
    """
    module, _, attribute = plan.partition(":")
    stages: Sequence[Stage] = getattr(importlib.import_module(module), attribute)
    known = [stage.name for stage in stages]
    for name in names:
        if name not in known:
            raise BadInput(f"--stages must name some of {', '.join(known)}, got {name!r}")
    return [stage for stage in stages if not names or stage.name in names]
