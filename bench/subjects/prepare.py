"""Fill the compilers' caches on disk with many processes, before a run needs them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace

import torch

from bench import ROOT
from bench.harness.errors import BadInput
from bench.subjects import cases, peers
from gaussreg_fast import permutation

COMPILE_SECONDS = 150.0


def ours(case: cases.Case) -> None:
    """Make all calls of ours that a case is measured with."""
    xs = peers.inputs(case, "cuda", 1)
    for call in peers.ours(case, xs).values():
        call(0)
    for name, guard in peers.guards(case, "cuda").items():
        if name in ("covariance", "prno"):  # torch's own operators, with a permutation of ours
            permutation(0, case.dimension, device="cuda")
        else:
            peers.with_backward(guard.loss, xs[0])()


def small(case: cases.Case) -> cases.Case:
    """Return a case with the same kernels and the smallest batch that has them."""
    from gaussreg_fast.backends.triton import parameters

    return replace(case, batch=min(parameters.FEW, case.batch))


def case(name: str, compiling: bool) -> int:
    """Compile the kernels of a case in this process."""
    parsed = cases.parse(name)
    ours(small(parsed))
    if compiling:
        peers.compiled(parsed, peers.inputs(parsed, "cuda", 1), COMPILE_SECONDS)
    torch.cuda.synchronize()
    return 0


def jobs(names: Sequence[str], quick: bool) -> list[list[str]]:
    """Return the arguments of one process per case; cases with the same kernels share one."""
    found: dict[object, list[str]] = {}
    for name in names:
        try:
            parsed = cases.parse(name)
        except BadInput:  # a part of a report that is no case
            continue
        batch = small(parsed).batch
        guards = parsed.topic == "guards"
        key: object = (parsed.dimension, parsed.dtype, parsed.permutation, batch, guards)
        compiling = cases.compiled("cuda", quick, parsed)
        job = ["prepare", name, *(["--compile"] if compiling else [])]
        found.setdefault(name if compiling else key, job)
    return list(found.values())


def processes(jobs: Sequence[Sequence[str]], seconds: float) -> list[str]:
    """Run `python -m bench` with each job's arguments, all at once; return the printed lines."""
    env = os.environ | {"TORCHINDUCTOR_COMPILE_THREADS": "1", "OMP_NUM_THREADS": "1"}
    running: list[subprocess.Popen[str]] = []
    end = time.monotonic() + seconds
    printed = []
    try:
        for job in jobs:
            running.append(_start(job, env))
        for process in running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.1, end - time.monotonic()))
            _stop(process)
            printed += process.communicate()[0].splitlines()
    finally:  # an interrupted run leaves no compilers behind
        for process in running:
            _stop(process)
    return printed


def _start(job: Sequence[str], env: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "bench", *job],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, errors="replace",
        env=env, cwd=ROOT, start_new_session=True,
    )  # fmt: skip


def _stop(process: subprocess.Popen[str]) -> None:
    """Kill a process that still runs, with the compilers it has started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
