"""Fills the compilers' caches on disk with many processes, so that a run finds them there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

import torch

from bench import ROOT, cases, peers
from bench.errors import BadInput

COMPILE_SECONDS = 150.0


def case(name: str) -> int:
    """Compiles what a case needs, in this process."""
    parsed = cases.parse(name)
    xs = peers.inputs(parsed, "cuda", 1)
    for call in peers.ours(parsed, xs).values():
        call(0)
    if cases.compiled("cuda", False, parsed):
        peers.compiled(parsed, xs, COMPILE_SECONDS)
    torch.cuda.synchronize()
    return 0


def ahead(names: Sequence[str], seconds: float) -> None:
    """The cases among so many names, all at once."""
    jobs = []
    for name in names:
        try:
            cases.parse(name)
        except BadInput:  # another part of a report
            continue
        jobs.append(["prepare", name])
    processes(jobs, seconds)


def processes(jobs: Sequence[Sequence[str]], seconds: float) -> list[str]:
    """Runs `python -m bench` with each job's arguments, all at once: what they print."""
    env = os.environ | {"TORCHINDUCTOR_COMPILE_THREADS": "1", "OMP_NUM_THREADS": "1"}
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "bench", *job],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env, cwd=ROOT,
            start_new_session=True,
        )
        for job in jobs
    ]  # fmt: skip
    end = time.monotonic() + seconds
    printed = []
    for process in running:
        try:
            process.wait(max(0.1, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # with the compilers it has started
        printed += process.communicate()[0].splitlines()
    return printed
