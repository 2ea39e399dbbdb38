"""The stages in order: FULL on a GPU, SMALL in a rehearsal."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from functools import partial

from bench.gpu import extras, headline, look, paths, repetition, sanitizer, tuning
from bench.gpu.stage import Stage
from bench.harness.errors import BadInput


def _stages(small: bool) -> tuple[Stage, ...]:
    """Expected seconds are estimates until a run has measured them."""
    return (
        Stage("look", "machine, versions, ceilings", partial(look.parts, small), 20, 45),
        Stage("paths", "every path against float64", partial(paths.parts, small), 45, 120),
        Stage(
            "headline", "ours against the others, timed", partial(headline.parts, small), 90, 200,
            quiet=True, jobs=partial(headline.jobs, small),
        ),
        Stage("repetition", "bits, graphs, streams, threads", partial(repetition.parts, small),
              15, 60),
        Stage("sanitizer", "memcheck and racecheck", partial(sanitizer.parts, small), 25, 80),
        Stage("tuning", "launch parameters", partial(tuning.parts, small), 20, 300),
        Stage("extras", "drift, profile, digits", partial(extras.parts, small), 15, 120),
    )  # fmt: skip


FULL, SMALL = _stages(small=False), _stages(small=True)


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
