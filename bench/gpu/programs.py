"""Run other programs with a time limit, and end processes together with their parent."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from pathlib import Path

from bench import ROOT
from bench.gpu.stage import LeftOut
from bench.harness.child import describe_exit

_PR_SET_PDEATHSIG = 1


def output(words: list[str], seconds: float, **environment: str) -> str:
    """Run a program and return its output. After `seconds` it is killed with all that it started.

    Raises:
        LeftOut: there is no such program here.
        RuntimeError: the program failed; the message ends with its last output.
        subprocess.TimeoutExpired: the program took longer; `output` has what it printed.
    """
    try:
        process = subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT,
            errors="replace", start_new_session=True, env=os.environ | environment,
            preexec_fn=end_with_parent,
        )  # fmt: skip
    except FileNotFoundError:
        raise LeftOut(f"{words[0]} is not on this machine") from None
    try:
        printed, _ = process.communicate(timeout=max(0.1, seconds))
    except subprocess.TimeoutExpired:
        kill(process, signal.SIGKILL)
        printed, _ = process.communicate()
        raise subprocess.TimeoutExpired(words, seconds, printed) from None
    finally:  # also when this process is terminated
        kill(process, signal.SIGKILL)
    if process.returncode:
        how = describe_exit(process.returncode)
        raise RuntimeError(f"{Path(words[0]).name}: {how}: {printed.strip()[-400:]}")
    return printed


def end_with_parent() -> None:
    """Make the system kill this process when its parent ends, even while it is stopped.

    Only Linux can do so; elsewhere this does nothing.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def kill(process: subprocess.Popen[str], number: signal.Signals) -> None:
    """Send a signal to a process that still runs, and to all of its session."""
    if process.poll() is None:
        os.killpg(process.pid, number)
