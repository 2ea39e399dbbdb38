"""Compile the kernels of a run ahead, in many processes, the longest first.

Compilation needs no GPU: launches are noted in front of a pretended device (`bench.compiled`)
and compiled into Triton's cache on disk, where a stage's process finds them. Expected seconds come
from `bench/results/compile_seconds.json`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from bench import ROOT
from bench.compiled.machine_code import Notes, Variant, compiled
from bench.gpu import programs
from bench.gpu.stage import Stage
from bench.harness import store
from bench.harness.progress import Progress

ESTIMATES = ROOT / "bench" / "results" / "compile_seconds.json"
WHAT = "compile seconds"
UNKNOWN = 5.0  # seconds expected of a kernel without measured namesakes
finished_in: Path | None = None  # file in which this process finds the compiled labels


# ---------------------------------------------------------------- kernels to compile


@dataclass(frozen=True)
class Job:
    """A kernel of a stage, and the labels of the launches that need it."""

    stage: str
    variant: Variant
    labels: tuple[str, ...]

    @property
    def kind(self) -> str:
        """The kernel's name."""
        return self.variant.kernel


def jobs(stages: Sequence[Stage], arch: str) -> list[Job]:
    """Return the kernels of the stages, each once, for the first stage that needs it."""
    from bench.gpu.rehearsal import noting

    notes, first = Notes(arch), {}
    for stage in stages:
        try:
            with noting(notes.hook, arch):
                for label, launch in [pair for p in stage.parts() for pair in p.kernels.items()]:
                    notes.label = label
                    launch()
        except Exception:  # the stage itself reports it; the other stages' kernels still compile
            traceback.print_exc()
        first |= {key: stage.name for key in notes.found if key not in first}
    needing: dict[str, list[str]] = {key: [] for key in notes.found}
    for label, keys in notes.needed.items():
        for key in keys:
            needing[key].append(label)
    return [Job(first[k], v, tuple(needing[k])) for k, v in notes.found.items()]


def estimates(release: str, arch: str) -> dict[str, float]:
    """Return the seconds that each kernel took to compile; none for an unmeasured release."""
    if not ESTIMATES.exists():
        return {}
    return store.read(ESTIMATES, WHAT)["releases"].get(release, {}).get(arch, {})


def ordered(found: Sequence[Job], known: dict[str, float]) -> list[tuple[Job, float]]:
    """Order jobs stage by stage, the longest first, and add their expected seconds.

    A kernel without known seconds counts as the median of its namesakes.
    """
    namesakes: dict[str, list[float]] = {}
    for name, seconds in known.items():
        namesakes.setdefault(re.sub(r".*: (\w+).*", r"\1", name), []).append(seconds)
    usual = {kind: statistics.median(each) for kind, each in namesakes.items()}
    expected = [(j, known.get(j.variant.name, usual.get(j.kind, UNKNOWN))) for j in found]
    stages = list(dict.fromkeys(job.stage for job in found))
    return sorted(expected, key=lambda pair: (stages.index(pair[0].stage), -pair[1]))


# ---------------------------------------------------------------- compiling


def _worker(workers: Path | None) -> None:
    programs.end_with_parent()
    if workers is not None:
        note_worker(workers, os.getpid())
    os.environ.pop("TRITON_INTERPRET", None)
    os.nice(5)  # the stages' own processes have priority


def note_worker(path: Path, pid: int) -> None:
    """Note the process id of a worker, which the run pauses while it measures the host's time."""
    with path.open("a", encoding="ascii") as file:
        file.write(f"{pid}\n")


def _compiled(variant: Variant) -> tuple[float, str]:
    """Compile a kernel; return the seconds, and the error or ""."""
    begin = time.perf_counter()
    try:
        compiled(variant)
    except Exception as error:  # whatever Triton, LLVM or ptxas raise
        return time.perf_counter() - begin, " ".join(f"{type(error).__name__}: {error}".split())
    return time.perf_counter() - begin, ""


def workers_file(finished: Path) -> Path:
    """Return the file with the workers' process ids, which is beside the file of results."""
    return finished.with_name("workers")


class Finished:
    """A growing file with a line for each kernel, label and stage that is done."""

    def __init__(self, path: Path, found: Sequence[Job], stages: Sequence[str]) -> None:
        self.file = path.open("a", encoding="utf-8")
        self.workers = workers_file(path)
        self.lock = threading.Lock()
        self.missing: dict[str, set[str]] = {}
        self.errors: dict[str, str] = {}
        self.left = dict.fromkeys(stages, 0)
        for job in found:
            self.left[job.stage] += 1
            for label in job.labels:
                self.missing.setdefault(label, set()).add(job.variant.name)

    def kernel(self, job: Job, seconds: float, error: str) -> None:
        """Note that a kernel is compiled, or that it failed."""
        name, error = job.variant.name, error[:300]
        self._write(kernel=name, seconds=round(seconds, 2), error=error)
        for label in job.labels:
            self.missing[label].discard(name)
            self.errors[label] = self.errors.get(label, "") or error
            if not self.missing[label]:
                self._write(label=label, error=self.errors[label])
        self.one_less(job.stage)

    def one_less(self, stage: str, number: int = 1) -> None:
        """Subtract from the number of things that a stage waits for; note the stage at 0."""
        with self.lock:
            self.left[stage] -= number
            done = self.left[stage] == 0
        if done:
            self._write(stage=stage)

    def _write(self, **line: Any) -> None:
        with self.lock:
            self.file.write(json.dumps(line) + "\n")
            self.file.flush()


def lines(path: Path) -> list[dict[str, Any]]:
    """Read the complete lines of a `Finished` file."""
    if not path.exists():
        return []
    whole = path.read_text(encoding="utf-8").rpartition("\n")[0]
    return [json.loads(line) for line in whole.splitlines()]


def ready() -> dict[str, str] | None:
    """Return the compiled labels with their errors or ""; None if nothing is compiled ahead."""
    if finished_in is None:
        return None
    return {line["label"]: line["error"] for line in lines(finished_in) if "label" in line}


def compile_all(
    found: Sequence[tuple[Job, float]],
    workers: int,
    finished: Finished | None = None,
    progress: Progress | None = None,
) -> dict[str, tuple[float, str]]:
    """Compile in this order; return each kernel's seconds, and the error or ""."""
    results = {}
    context = get_context("spawn")
    path = finished.workers if finished else None
    with ProcessPoolExecutor(
        workers, mp_context=context, initializer=_worker, initargs=(path,)
    ) as pool:
        waiting = {pool.submit(_compiled, job.variant): job for job, _ in found}
        for future in as_completed(waiting):
            job = waiting[future]
            results[job.variant.name] = future.result()
            if finished is not None:
                finished.kernel(job, *future.result())
            if progress is not None:
                progress.end(f"{job.variant.name}  {future.result()[0]:.1f} s")
    return results


# ---------------------------------------------------------------- beside a run


class Background:
    """The run's handle on the process that compiles."""

    def __init__(self, plan: str, stages: Sequence[str], arch: str, rehearse: bool) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="gpu-run-")
        self.finished = Path(self.folder.name) / "finished"
        cores = len(os.sched_getaffinity(0))
        words = ["--plan", plan, "--stages", json.dumps(list(stages)), "--arch", arch]
        words += ["--workers", str(max(1, cores - 2)), "--finished", str(self.finished)]
        words += ["--rehearse"] if rehearse else []
        self.log = (Path(self.folder.name) / "log").open("w+", encoding="utf-8")
        self.process: subprocess.Popen[str] = subprocess.Popen(
            [sys.executable, "-m", "bench", "gpu-compile", *words],
            stdout=self.log, stderr=self.log, text=True, cwd=ROOT, start_new_session=True,
        )  # fmt: skip

    def wait(self, stage: str, seconds: float) -> float:
        """Wait for a stage's kernels, at most `seconds`; return the seconds waited."""
        begin = time.monotonic()
        while time.monotonic() - begin < seconds and self.process.poll() is None:
            if any(line.get("stage") == stage for line in lines(self.finished)):
                break
            time.sleep(0.2)
        return time.monotonic() - begin

    def pause(self) -> None:
        """Stop compiling until `resume`."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        """Send a signal to the workers, not to the process that has to end with this one."""
        path = workers_file(self.finished)
        for pid in path.read_text(encoding="ascii").split() if path.exists() else []:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), number)

    def report(self) -> dict[str, Any]:
        """Return the compiled kernels' seconds and errors, and the last output of a failure."""
        done = [line for line in lines(self.finished) if "kernel" in line]
        failed = {line["kernel"]: line["error"] for line in done if line["error"]}
        found: dict[str, Any] = {"seconds": {line["kernel"]: line["seconds"] for line in done}}
        if failed:
            found["failed"] = failed
        if self.process.poll():
            self.log.flush()
            self.log.seek(0)
            found["log"] = self.log.read().splitlines()[-30:]
        return found

    def stop(self) -> None:
        """End the process, with all that it started."""
        programs.kill(self.process, signal.SIGKILL)
        self.process.wait()
        self.log.close()
        self.folder.cleanup()
