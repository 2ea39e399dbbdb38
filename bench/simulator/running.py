"""Cases run in processes side by side, under several schedules, with what came out of each."""

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

# In the order of barriers; finely interleaved, which finds what waits for no barrier; and with
# approximate instructions off by up to their documented error.
SCHEDULES = (Schedule(seed=1), Schedule(seed=5, slice=37), Schedule(seed=9, ulp=1.0))


@dataclass
class Outcome:
    """What came out of a case."""

    case: str
    path: str
    errors: dict[str, float] = field(default_factory=dict)
    over: list[str] = field(default_factory=list)  # results further off than they may be
    found: list[str] = field(default_factory=list)  # races, bounds, unwritten reads
    failed: str = ""  # the case did not run to its end
    lockstep: int = 0  # accesses that only need the lanes of a warp in step
    same: int = 0  # places written twice with the same value
    programs: int = 0
    instructions: int = 0  # of warps
    seconds: float = 0.0

    @property
    def bad(self) -> bool:
        return bool(self.over or self.found or self.failed)

    def line(self) -> str:
        """What a terminal shows of it."""
        state = (
            "FAILED" if self.failed else "WRONG" if self.over else "FOUND" if self.found else "ok"
        )
        numbers = " ".join(f"{name} {error:.1e}" for name, error in self.errors.items())
        return f"{state:6} {self.case}  {numbers}  {self.programs} programs, {self.seconds:.1f} s"

    def details(self) -> list[str]:
        """Why it is bad."""
        return [*([self.failed] if self.failed else []), *self.over, *self.found]


def path_of(case: Case, arch: str = "sm_90") -> str:
    """Which kernels a case takes, in words."""
    names = {"fused": "one launch", "large": "three launches", "general": "general"}
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
    return names[parameters.route(case.dimension, case.block_size if spectral else 0, memory)]


def run(case: Case, arch: str, schedules: Sequence[Schedule] = SCHEDULES) -> Outcome:
    """Runs a case under each schedule; results without `ulp` must be the same to the bit."""
    outcome = Outcome(str(case), path_of(case, arch))
    begin = time.perf_counter()
    try:
        _run(case, arch, schedules, outcome)
    except Exception as error:  # whatever a launch raises; the other cases go on
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
            finally:  # what was found says why a call raised
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
            outcome.over.append(f"{name}: error {error:.3g}, at most {most:.3g} ({schedule})")


def _differ(a: Results, b: Results) -> list[str]:
    """Results whose bits are not the same."""
    return [n for n in a if not torch.equal(_bits(a[n]), _bits(b[n]))]


def _bits(x: torch.Tensor) -> torch.Tensor:
    return x.detach().reshape(-1).contiguous().view(torch.uint8)


# ---------------------------------------------------------------- side by side


def started() -> None:
    """A worker computes with one thread: the processes share the cores."""
    torch.set_num_threads(1)
    os.environ.pop("TRITON_INTERPRET", None)


def run_all(
    cases: Sequence[Case], arch: str, jobs: int, schedules: Sequence[Schedule]
) -> Iterator[Outcome]:
    """Outcomes as they come, the longest cases first."""
    queue = sorted(cases, key=_cost, reverse=True)
    if jobs == 1:
        started()
        yield from (run(case, arch, schedules) for case in queue)
        return
    context = get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=started) as pool:
        waiting = [pool.submit(run, case, arch, schedules) for case in queue]
        for future in as_completed(waiting):
            yield future.result()


def _cost(case: Case) -> tuple[bool, int]:
    """Numbers in all; the projection's kernels of three launches compile longest."""
    slow = case.task == "projection" and case.dimension >= 65536
    return slow, case.dimension * case.batch


def summary(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """A row per path: cases, worst errors of values and of what has an element per number."""
    rows: dict[str, dict[str, Any]] = {}
    for o in sorted(outcomes, key=lambda o: o.path):
        row = rows.setdefault(o.path, {"path": o.path, "cases": 0, "bad": 0})
        row["cases"] += 1
        row["bad"] += o.bad
        for name, error in o.errors.items():
            scalar = name.startswith(("value", "moments", "blocks"))
            half = "bfloat16" in o.case or "float16" in o.case or "mixed" in o.case
            key = "value" if scalar else "gradient half" if half else "gradient"
            row[key] = max(row.get(key, 0.0), error)
    return list(rows.values())


def as_json(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Outcomes for a file, by name."""
    return [asdict(o) for o in sorted(outcomes, key=lambda o: o.case)]


def totals(outcomes: Sequence[Outcome]) -> Counter[str]:
    """Cases, programs, warp instructions and notes of all."""
    total: Counter[str] = Counter(cases=len(outcomes))
    for o in outcomes:
        total.update(
            bad=o.bad, programs=o.programs, instructions=o.instructions, lockstep=o.lockstep,
            same=o.same,
        )  # fmt: skip
    return total
