"""Fills the compilers' caches on disk with many processes, so that a run finds them there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace

import torch

from bench import ROOT, cases, peers
from bench.errors import BadInput

COMPILE_SECONDS = 150.0


def case(name: str) -> int:
    """Compiles what a case needs, in this process. Kernels do not depend on the batch size."""
    parsed = cases.parse(name)
    small = replace(parsed, batch=min(2, parsed.batch))
    for call in peers.ours(small, peers.inputs(small, "cuda", 1)).values():
        call(0)
    if cases.compiled("cuda", False, parsed):
        peers.compiled(parsed, peers.inputs(parsed, "cuda", 1), COMPILE_SECONDS)
    torch.cuda.synchronize()
    return 0


def jobs(names: Sequence[str], quick: bool) -> list[list[str]]:
    """A process for each case among so many names, one for those that need the same kernels."""
    found: dict[object, list[str]] = {}
    for name in names:
        try:
            parsed = cases.parse(name)
        except BadInput:  # another part of a report
            continue
        key: object = (parsed.dimension, parsed.dtype, parsed.permutation, parsed.suite == "guards")
        compiling = cases.compiled("cuda", quick, parsed)
        found.setdefault(name if compiling else key, ["prepare", name])
    return list(found.values())


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
