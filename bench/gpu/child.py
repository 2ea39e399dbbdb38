"""One stage in a process of its own: its rows go to the run, a line each, as they come.

What a part does to the device ends with the process: after an error that leaves the device
unusable it ends, and the run starts another for the parts that are left.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.gpu import programs
from bench.gpu.record import LATE
from bench.gpu.stage import LeftOut, Part, Row

UNUSABLE, TOLD = 3, 143  # exit codes: the device does not answer any more; told to end
SPARE, MORE = 2.0, 10.0  # a part may take so many times what it is expected to, and so much more
LEAST = 1.5  # and so many times in any case, if they are left


@contextlib.contextmanager
def device(rehearse: bool) -> Iterator[Any]:
    """The GPU, which yields None, or one that is not there."""
    if not rehearse:
        yield None
        return
    from bench.gpu.rehearsal import rehearsed

    with rehearsed() as pretended:
        yield pretended


def arguments(given: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench gpu-stage")
    parser.add_argument("--plan", required=True)
    parser.add_argument("--stage", required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--skip", type=json.loads, default=[])
    parser.add_argument("--pipe", type=int, required=True)
    parser.add_argument("--finished", type=Path)
    parser.add_argument("--rehearse", action="store_true")
    return parser.parse_args(given)


def main(given: list[str]) -> int:
    """Measures the parts of a stage that are not in `--skip`, as far as the seconds allow."""
    options = arguments(given)
    programs.end_with_parent()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TOLD))  # so that programs of parts end, too
    end = time.monotonic() + options.seconds
    os.environ.pop("TRITON_INTERPRET", None)
    import torch

    from bench.gpu import queue
    from bench.gpu.plan import chosen

    torch.set_num_threads(1)
    queue.finished_in = options.finished
    with os.fdopen(options.pipe, "w", encoding="utf-8") as pipe:

        def tell(**message: Any) -> None:
            pipe.write(json.dumps(message) + "\n")
            pipe.flush()

        with device(options.rehearse):
            parts = chosen(options.plan, [options.stage])[0].parts()
        tell(parts=[part.name for part in parts])
        todo = [part for part in parts if part.name not in options.skip]
        for number, part in enumerate(todo):
            left = end - time.monotonic()
            if part.seconds > left:
                reason = f"{LATE}: {left:.0f} s left, {part.seconds:.0f} s expected"
                tell(row={"part": part.name, "status": "not measured", "reason": reason})
                continue
            allowed, cut = allowance(part, todo[number + 1 :], left)
            tell(begin=part.name, allowed=allowed, cut=cut)
            row = measured(part, allowed, options.rehearse, cut)
            tell(row=row)
            if row["status"] == "FAILED" and not usable():
                return UNUSABLE
    return 0


def allowance(part: Part, others: list[Part], left: float) -> tuple[float, bool]:
    """Seconds that a part may take, and whether they are fewer than usual.

    Far beyond its own it does not get the expected seconds of those after it that still fit.
    """
    usual, rest = SPARE * part.seconds + MORE, 0.0
    for other in others:
        if part.seconds + rest + other.seconds <= left:
            rest += other.seconds
    allowed = min(usual, left, max(LEAST * part.seconds + 2, left - rest))
    return allowed, allowed < usual


def measured(part: Part, allowed: float, rehearse: bool, cut: bool) -> Row:
    """A part's row, whatever happens in it. `cut`: it has less time than it may take."""
    import torch

    from bench import timing

    begin = time.monotonic()
    row: Row = {"part": part.name, "status": "FAILED"}
    torch.manual_seed(0)
    missed = _compilations()
    try:
        with device(rehearse) as pretended, timing.limit(allowed):
            torch.cuda.empty_cache()
            found = {"status": "ok", **part.run(allowed)}
            if pretended is not None:
                found["rehearsed_launches"] = pretended.launches
                if errors := pretended.errors():
                    raise RuntimeError(f"the simulator has found: {'; '.join(errors)}")
            row |= found
    except (LeftOut, torch.OutOfMemoryError) as reason:
        row |= {"status": "not measured", "reason": str(reason)[:500]}
    except timing.OutOfTime as error:
        row |= late(str(error), cut)
        traceback.print_exc(file=sys.stderr)
    except Exception as error:
        row["reason"] = f"{type(error).__name__}: {error}"[:500]
        traceback.print_exc(file=sys.stderr)
    row["seconds"] = round(time.monotonic() - begin, 2)
    if missed:
        row["compiled_here"] = missed
    return row


def late(how: str, cut: bool) -> Row:
    """What a part is that took too long: a failure, unless the run's time was up."""
    if cut:
        return {"status": "not measured", "reason": f"{LATE}: {how}"}
    return {"status": "FAILED", "reason": how}


def _compilations() -> list[str]:
    """Kernels that this process compiles from now on: those that were not compiled ahead."""
    from triton import knobs

    missed: list[str] = []

    def listener(*, src: Any, cache_hit: bool, **_: Any) -> None:
        if not cache_hit:
            missed.append(src.name)

    knobs.compilation.listener = listener
    return missed


def usable() -> bool:
    """Whether the device still does what it is asked."""
    import torch

    if not torch.cuda.is_available():
        return True
    try:
        torch.cuda.synchronize()
        return float(torch.ones(2, device="cuda").sum()) == 2
    except Exception:
        return False
