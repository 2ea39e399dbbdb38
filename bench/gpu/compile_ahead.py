"""Compile the kernels of a run: alone, to fill a cache, or in a process beside the run."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench import ROOT
from bench.gpu import programs
from bench.gpu.queue import (
    ESTIMATES,
    WHAT,
    Finished,
    compile_all,
    estimates,
    jobs,
    note_worker,
    ordered,
    workers_file,
)
from bench.gpu.stage import Stage
from bench.harness import store
from bench.harness.progress import Progress
from gaussreg_fast._exit_codes import Exit


def ahead(stages: Sequence[Stage], record: bool) -> int:
    """Compile the kernels of some stages for sm_90; `record` writes the seconds of each."""
    import triton

    arch, release = "sm_90", triton.__version__
    found = ordered(jobs(stages, arch), estimates(release, arch))
    workers = len(os.sched_getaffinity(0))
    with contextlib.ExitStack() as stack:
        if record:  # set before the workers start, because they read it then
            os.environ["TRITON_CACHE_DIR"] = stack.enter_context(tempfile.TemporaryDirectory())
        begin = time.monotonic()
        with Progress(len(found), stream=sys.stderr) as progress:
            results = compile_all(found, workers, progress=progress)
    elapsed = time.monotonic() - begin
    failed = [f"{name}: {error}" for name, (_, error) in results.items() if error]
    seconds = {job.variant.name: round(results[job.variant.name][0], 2) for job, _ in found}
    longest = sorted(seconds.items(), key=lambda pair: -pair[1])[:5]
    print(f"triton {release}, {arch}: {len(seconds)} kernels, {sum(seconds.values()):.0f} core "
          f"seconds, {elapsed:.0f} s with {workers} processes")  # fmt: skip
    print("longest: " + ", ".join(f"{name} {s:.1f} s" for name, s in longest))
    for line in failed:
        print(f"does not compile: {line}")
    if record:
        _record(release, arch, seconds)
    return Exit.NO if failed else Exit.DONE


def _record(release: str, arch: str, seconds: dict[str, float]) -> None:
    """Write the measured seconds over the known ones, without kernels that no stage needs."""
    from bench.gpu.plan import FULL

    needed = {job.variant.name for job in jobs(FULL, arch)}
    merged = {k: s for k, s in (estimates(release, arch) | seconds).items() if k in needed}
    releases = store.read(ESTIMATES, WHAT)["releases"] if ESTIMATES.exists() else {}
    releases[release] = {**releases.get(release, {}), arch: dict(sorted(merged.items()))}
    about = {**store.header(WHAT), "date": store.today()}
    store.write(ESTIMATES, {**about, "releases": releases})
    print(f"wrote {ESTIMATES}")


def arguments(given: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--plan", required=True)
    parser.add_argument("--stages", type=json.loads, required=True)
    parser.add_argument("--arch", required=True)
    parser.add_argument("--workers", type=int, required=True)
    parser.add_argument("--finished", type=Path, required=True)
    parser.add_argument("--rehearse", action="store_true")
    return parser.parse_args(given)


def main(given: list[str]) -> int:
    """Compile beside the stages; commands that fill other caches start first."""
    options = arguments(given)
    programs.end_with_parent()
    os.environ.pop("TRITON_INTERPRET", None)
    from bench.gpu.plan import chosen

    stages = chosen(options.plan, options.stages)
    more = ["--rehearse"] if options.rehearse else []
    env = os.environ | {"TORCHINDUCTOR_COMPILE_THREADS": "1", "OMP_NUM_THREADS": "1"}
    running: list[tuple[str, subprocess.Popen[bytes]]] = []
    for stage in stages:
        for words in stage.jobs() if stage.jobs else []:
            command = [sys.executable, "-m", "bench", *words, *more]
            running.append((stage.name, subprocess.Popen(command, cwd=ROOT, env=env)))
            note_worker(workers_file(options.finished), running[-1][1].pid)
    import triton

    found = ordered(jobs(stages, options.arch), estimates(triton.__version__, options.arch))
    finished = Finished(options.finished, [j for j, _ in found], [s.name for s in stages])
    for name, _ in running:
        finished.left[name] += 1
    for stage in stages:
        finished.one_less(stage.name, 0)  # reports stages that need nothing

    def wait(name: str, process: subprocess.Popen[bytes]) -> None:
        process.wait()
        finished.one_less(name)

    with ThreadPoolExecutor(max(1, len(running))) as threads:
        for pair in running:
            threads.submit(wait, *pair)
        compile_all(found, options.workers, finished)
    return 0
