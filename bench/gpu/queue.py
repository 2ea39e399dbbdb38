"""The kernels of a run, compiled ahead by many processes, the longest first.

Compilation needs no GPU: launches are noted in front of a pretended device (`bench.compiled`)
and compiled into Triton's cache on disk, where a stage's process finds them. What each takes is
estimated from `bench/results/compile_seconds.json`.
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

ESTIMATES = ROOT / "bench" / "results" / "compile_seconds.json"
WHAT = "compile seconds"
UNKNOWN = 5.0  # seconds of a kernel that nothing like it was measured of
finished_in: Path | None = None  # where this process reads what is compiled


# ---------------------------------------------------------------- what is to be compiled


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
    """The kernels of the stages, each once, for the first stage that needs it."""
    from bench.gpu.rehearsal import noting

    notes, first = Notes(arch), {}
    for stage in stages:
        try:
            with noting(notes.hook, arch):
                for label, launch in [pair for p in stage.parts() for pair in p.kernels.items()]:
                    notes.label = label
                    launch()
        except Exception:  # the stage itself will say what is wrong; the others' are compiled
            traceback.print_exc()
        first |= {key: stage.name for key in notes.found if key not in first}
    needing: dict[str, list[str]] = {key: [] for key in notes.found}
    for label, keys in notes.needed.items():
        for key in keys:
            needing[key].append(label)
    return [Job(first[k], v, tuple(needing[k])) for k, v in notes.found.items()]


def estimates(release: str, arch: str) -> dict[str, float]:
    """Seconds that each kernel took to compile, by its name; none for a release not measured."""
    if not ESTIMATES.exists():
        return {}
    return store.read(ESTIMATES, WHAT)["releases"].get(release, {}).get(arch, {})


def ordered(found: Sequence[Job], known: dict[str, float]) -> list[tuple[Job, float]]:
    """With their expected seconds: stage by stage, the longest first.

    A kernel that is not known counts as the median of its namesakes.
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
        known(workers, os.getpid())
    os.environ.pop("TRITON_INTERPRET", None)
    os.nice(5)  # the stages' own processes go first


def known(path: Path, pid: int) -> None:
    """Notes a process that can be held: the run's own clock does not stop for the others."""
    with path.open("a", encoding="ascii") as file:
        file.write(f"{pid}\n")


def _compiled(variant: Variant) -> tuple[float, str]:
    """Seconds, and why it failed or ""."""
    begin = time.perf_counter()
    try:
        compiled(variant)
    except Exception as error:  # whatever Triton, LLVM or ptxas raise
        return time.perf_counter() - begin, " ".join(f"{type(error).__name__}: {error}".split())
    return time.perf_counter() - begin, ""


def held(finished: Path) -> Path:
    """The file with the processes that compile, beside the one with what is done."""
    return finished.with_name("workers")


class Finished:
    """A file with a line for each kernel, label and stage that is done; it is read as it grows."""

    def __init__(self, path: Path, found: Sequence[Job], stages: Sequence[str]) -> None:
        self.file = path.open("a", encoding="utf-8")
        self.workers = held(path)
        self.lock = threading.Lock()
        self.missing: dict[str, set[str]] = {}
        self.errors: dict[str, str] = {}
        self.left = dict.fromkeys(stages, 0)
        for job in found:
            self.left[job.stage] += 1
            for label in job.labels:
                self.missing.setdefault(label, set()).add(job.variant.name)

    def kernel(self, job: Job, seconds: float, error: str) -> None:
        """One is compiled, or failed."""
        name, error = job.variant.name, error[:300]
        self._tell(kernel=name, seconds=round(seconds, 2), error=error)
        for label in job.labels:
            self.missing[label].discard(name)
            self.errors[label] = self.errors.get(label, "") or error
            if not self.missing[label]:
                self._tell(label=label, error=self.errors[label])
        self.one_less(job.stage)

    def one_less(self, stage: str, number: int = 1) -> None:
        """Something that a stage waits for is done."""
        with self.lock:
            self.left[stage] -= number
            done = self.left[stage] == 0
        if done:
            self._tell(stage=stage)

    def _tell(self, **line: Any) -> None:
        with self.lock:
            self.file.write(json.dumps(line) + "\n")
            self.file.flush()


def lines(path: Path) -> list[dict[str, Any]]:
    """What is in such a file so far; a line that is not whole yet is left out."""
    if not path.exists():
        return []
    whole = path.read_text(encoding="utf-8").rpartition("\n")[0]
    return [json.loads(line) for line in whole.splitlines()]


def ready() -> dict[str, str] | None:
    """Labels whose kernels are compiled, with "" or what failed; None: nobody compiles ahead."""
    if finished_in is None:
        return None
    return {line["label"]: line["error"] for line in lines(finished_in) if "label" in line}


def compile_all(
    found: Sequence[tuple[Job, float]], workers: int, finished: Finished | None = None
) -> dict[str, tuple[float, str]]:
    """Compiles in this order. By name: seconds, and the error or ""."""
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
    return results


# ---------------------------------------------------------------- beside a run


class Background:
    """The process that compiles, as the run sees it."""

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
        """Waits until a stage's kernels are there, or until the seconds are over; those taken."""
        begin = time.monotonic()
        while time.monotonic() - begin < seconds and self.process.poll() is None:
            if any(line.get("stage") == stage for line in lines(self.finished)):
                break
            time.sleep(0.2)
        return time.monotonic() - begin

    def pause(self) -> None:
        """Nothing is compiled until `resume`."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        """To the processes that compile, not to those that would have to end with this one."""
        path = held(self.finished)
        for pid in path.read_text(encoding="ascii").split() if path.exists() else []:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), number)

    def report(self) -> dict[str, Any]:
        """What was compiled, and what the process printed last if it failed."""
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
        """Ends it, with all that it started."""
        programs.kill(self.process, signal.SIGKILL)
        self.process.wait()
        self.log.close()
        self.folder.cleanup()
