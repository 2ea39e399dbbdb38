"""Run one stage in a process of its own; its rows go to the run at once, a line each.

After an error that leaves the device unusable the process ends, because a new process gets a usable
device; the run starts one for the remaining parts.
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
from bench.harness.errors import failed_row
from gaussreg_fast._exit_codes import Exit

UNUSABLE, TERMINATED = Exit.MACHINE, 143  # exit codes: the device fails; 128 + SIGTERM
SPARE, MORE = 2.0, 10.0  # a part may take SPARE times its expected seconds, plus MORE seconds
LEAST = 1.5  # it may take LEAST times its expected seconds even if later parts lose time


@contextlib.contextmanager
def device(rehearse: bool) -> Iterator[Any]:
    """Yield None for the real GPU, or the pretended device of a rehearsal."""
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
    """Measure the parts of a stage that are not in `--skip`, as far as the seconds allow."""
    options = arguments(given)
    programs.end_with_parent()
    # An orderly exit, so that the programs that parts have started end too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    end = time.monotonic() + options.seconds
    os.environ.pop("TRITON_INTERPRET", None)
    import torch

    from bench.gpu import queue
    from bench.gpu.plan import chosen

    torch.set_num_threads(1)
    queue.finished_in = options.finished
    with os.fdopen(options.pipe, "w", encoding="utf-8") as pipe:

        def send(**message: Any) -> None:
            pipe.write(json.dumps(message) + "\n")
            pipe.flush()

        with device(options.rehearse):
            parts = chosen(options.plan, [options.stage])[0].parts()
        send(parts=[part.name for part in parts])
        todo = [part for part in parts if part.name not in options.skip]
        for number, part in enumerate(todo):
            left = end - time.monotonic()
            if part.seconds > left:
                reason = f"{LATE}: {left:.0f} s left, {part.seconds:.0f} s expected"
                send(row={"part": part.name, "status": "not measured", "reason": reason})
                continue
            allowed, cut = allowance(part, todo[number + 1 :], left)
            send(begin=part.name, allowed=allowed, cut=cut)
            row = measure_part(part, allowed, options.rehearse, cut)
            send(row=row)
            if row["status"] == "FAILED" and not usable():
                return UNUSABLE
    return 0


def allowance(part: Part, others: list[Part], left: float) -> tuple[float, bool]:
    """Return the seconds that a part may take, and whether they are fewer than usual.

    A part that takes far too long must not use up the expected seconds of the parts after it.
    """
    usual, rest = SPARE * part.seconds + MORE, 0.0
    for other in others:
        if part.seconds + rest + other.seconds <= left:
            rest += other.seconds
    allowed = min(usual, left, max(LEAST * part.seconds + 2, left - rest))
    return allowed, allowed < usual


def measure_part(part: Part, allowed: float, rehearse: bool, cut: bool) -> Row:
    """Run a part; return its row whatever happens. `cut`: it has less time than usual."""
    import torch

    from bench.harness import timing

    begin = time.monotonic()
    row: Row = {"part": part.name, "status": "FAILED"}
    torch.manual_seed(0)
    missed = _watch_compilations()
    try:
        with device(rehearse) as pretended, timing.limit(allowed):
            torch.cuda.empty_cache()
            found = {"status": "ok", **part.run(allowed)}
            if pretended is not None:
                found["rehearsed_launches"] = pretended.launches
                if errors := pretended.errors():
                    raise RuntimeError(f"the simulator found errors: {'; '.join(errors)}")
            row |= found
    except LeftOut as reason:
        row |= {"status": "not measured", "reason": str(reason)[:500]}
    except timing.OutOfTime as error:
        row |= timeout(str(error), cut)
        traceback.print_exc(file=sys.stderr)
    except Exception as error:
        row |= failed_row(error)
        traceback.print_exc(file=sys.stderr)
    row["seconds"] = round(time.monotonic() - begin, 2)
    if missed:
        row["compiled_here"] = missed
    return row


def timeout(reason: str, cut: bool) -> Row:
    """Return the entries of a part that took too long: a failure, unless its time was cut."""
    if cut:
        return {"status": "not measured", "reason": f"{LATE}: {reason}"}
    return {"status": "FAILED", "reason": reason}


def _watch_compilations() -> list[str]:
    """Return a list that collects the kernels compiled here, which were not compiled ahead."""
    from triton import knobs

    missed: list[str] = []

    def listener(*, src: Any, cache_hit: bool, **_: Any) -> None:
        if not cache_hit:
            missed.append(src.name)

    knobs.compilation.listener = listener
    return missed


def usable() -> bool:
    """Return whether the device still computes correctly."""
    import torch

    if not torch.cuda.is_available():
        return True
    try:
        torch.cuda.synchronize()
        return float(torch.ones(2, device="cuda").sum()) == 2
    except Exception:
        return False
