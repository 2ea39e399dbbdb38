"""Run cases in parallel processes, under several schedules, and collect the outcomes."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from typing import Any

import torch

from bench.compiled.pretended import ARCHS
from bench.simulator import Launch
from bench.simulator.calls import Results
from bench.simulator.cases import Case
from bench.simulator.core import Schedule
from gaussreg_fast.backends.triton import parameters

# In the order of barriers; finely interleaved, to find missing barriers; and with approximate
# instructions off by up to their documented error.
SCHEDULES = (Schedule(seed=1), Schedule(seed=5, slice=37), Schedule(seed=9, ulp=1.0))


@dataclass
class Outcome:
    """The outcome of a case.

    Attributes:
        case: the case's name.
        route: the kernels that it takes.
        errors: result -> error.
        over: results with too large an error.
        found: races, accesses out of bounds, reads of unwritten memory.
        failed: the exception, if the case did not run to its end.
        lockstep: number of accesses that are right only while a warp's lanes run in step.
        same: number of places that were written twice with the same value.
        programs: number of programs.
        instructions: number of warp instructions.
        seconds: duration.
    """

    case: str
    route: str
    errors: dict[str, float] = field(default_factory=dict)
    over: list[str] = field(default_factory=list)
    found: list[str] = field(default_factory=list)
    failed: str = ""
    lockstep: int = 0
    same: int = 0
    programs: int = 0
    instructions: int = 0
    seconds: float = 0.0

    @property
    def bad(self) -> bool:
        return bool(self.over or self.found or self.failed)

    def line(self) -> str:
        """Format the outcome in a line, for the screen."""
        state = (
            "FAILED" if self.failed else "WRONG" if self.over else "FOUND" if self.found else "ok"
        )
        numbers = " ".join(f"{name} {error:.1e}" for name, error in self.errors.items())
        return f"{state:6} {self.case}  {numbers}  {self.programs} programs, {self.seconds:.1f} s"

    def details(self) -> list[str]:
        """Return the reasons why the outcome is bad."""
        return [*([self.failed] if self.failed else []), *self.over, *self.found]


def route_of(case: Case, arch: str = "sm_90") -> str:
    """Return the kernels that a case takes, in words."""
    names = {
        "fused": "one launch", "large": "three launches", "groups": "five launches",
        "general": "general",
    }  # fmt: skip
    memory = ARCHS[arch][1]
    word = case.task.split()[0]
    if word == "projection":
        way = parameters.projection_route(case.dimension, case.block_size, memory)
        return f"projection, {names[way]}"
    if word in ("drift", "permutation"):
        return word
    if word.startswith("path_"):
        return "path KL"
    spectral = case.power_weight and word not in ("moments", "kl", "kurtosis", "norm")
    way = parameters.loss_route(
        case.dimension, case.block_size if spectral else 0, memory, arch,
        batch=case.batch, shared=case.permutation in ("shared", "index"),
    )  # fmt: skip
    return names[way]


def run(case: Case, arch: str, schedules: Sequence[Schedule] = SCHEDULES) -> Outcome:
    """Run a case under each schedule; results without `ulp` must agree to the bit."""
    outcome = Outcome(str(case), route_of(case, arch))
    begin = time.perf_counter()
    try:
        _run(case, arch, schedules, outcome)
    except Exception as error:  # whatever a launch raises, so that the other cases still run
        outcome.failed = f"{type(error).__name__}: {error}"
    outcome.seconds = time.perf_counter() - begin
    return outcome


def _run(case: Case, arch: str, schedules: Sequence[Schedule], outcome: Outcome) -> None:
    from bench.simulator import simulated
    from bench.simulator.calls import call

    first: Results | None = None
    found: dict[str, str] = {}
    for schedule in schedules:
        with simulated(schedule, arch) as simulation:
            try:
                results = call(case, simulation.memory)
            finally:  # also after an exception, because findings may explain it
                _note(simulation.launches, outcome, found)
        _compare(case, results, schedule, outcome)
        if schedule.ulp == 0:
            first = first or results
            outcome.over += [
                f"{name}: other bits with {schedule}" for name in _differ(first, results)
            ]


def _note(launches: Sequence[Launch], outcome: Outcome, found: dict[str, str]) -> None:
    for launch in launches:
        found |= {key: line for key, line in launch.errors().items() if key not in found}
        outcome.lockstep += len(launch.findings("lockstep"))
        outcome.same += len(launch.findings("same value"))
        outcome.programs += launch.programs
        outcome.instructions += int(launch.execution.executed.sum())
    outcome.found = list(found.values())


def _compare(case: Case, results: Results, schedule: Schedule, outcome: Outcome) -> None:
    from bench.simulator import compare

    for name, error in compare.errors(case, results).items():
        outcome.errors[name] = max(error, outcome.errors.get(name, 0.0))
        if not error <= (most := compare.limit(case, name)):
            outcome.over.append(f"{name}: error {error:.3g}, allowed {most:.3g} ({schedule})")


def _differ(a: Results, b: Results) -> list[str]:
    """Return the names of results with different bits."""
    return [n for n in a if not torch.equal(_bits(a[n]), _bits(b[n]))]


def _bits(x: torch.Tensor) -> torch.Tensor:
    return x.detach().reshape(-1).contiguous().view(torch.uint8)


# ---------------------------------------------------------------- in parallel


def start_worker() -> None:
    """Limit a worker to one thread, because the processes share the cores."""
    torch.set_num_threads(1)
    os.environ.pop("TRITON_INTERPRET", None)


def run_all(
    cases: Sequence[Case], arch: str, jobs: int, schedules: Sequence[Schedule]
) -> Iterator[Outcome]:
    """Yield outcomes as cases finish; the longest cases start first."""
    queue = sorted(cases, key=_cost, reverse=True)
    if jobs == 1:
        start_worker()
        yield from (run(case, arch, schedules) for case in queue)
        return
    context = get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=start_worker) as pool:
        waiting = [pool.submit(run, case, arch, schedules) for case in queue]
        for future in as_completed(waiting):
            yield future.result()


def _cost(case: Case) -> tuple[bool, int]:
    """Return a sort key: large projections, which compile longest, then the amount of numbers."""
    slow = case.task == "projection" and case.dimension >= 65536
    return slow, case.dimension * case.batch


def summary(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Return a row per route: cases, and the worst errors of values and of gradients."""
    rows: dict[str, dict[str, Any]] = {}
    for o in sorted(outcomes, key=lambda o: o.route):
        row = rows.setdefault(o.route, {"route": o.route, "cases": 0, "bad": 0})
        row["cases"] += 1
        row["bad"] += o.bad
        for name, error in o.errors.items():
            scalar = name.startswith(("value", "moments", "blocks"))
            half = "bfloat16" in o.case or "float16" in o.case or "mixed" in o.case
            key = "value" if scalar else "gradient half" if half else "gradient"
            row[key] = max(row.get(key, 0.0), error)
    return list(rows.values())


def as_json(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Return the outcomes for a file, in the order of names."""
    return [asdict(o) for o in sorted(outcomes, key=lambda o: o.case)]


def totals(outcomes: Sequence[Outcome]) -> Counter[str]:
    """Return the totals of cases, programs, warp instructions and notes."""
    total: Counter[str] = Counter(cases=len(outcomes))
    for o in outcomes:
        total.update(
            bad=o.bad, programs=o.programs, instructions=o.instructions, lockstep=o.lockstep,
            same=o.same,
        )  # fmt: skip
    return total
