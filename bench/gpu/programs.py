"""Other processes: the programs that parts run, and how a process ends with its parent."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from pathlib import Path

from bench import ROOT
from bench.gpu.stage import LeftOut

_PR_SET_PDEATHSIG = 1


def output(words: list[str], seconds: float, **environment: str) -> str:
    """What a program prints. When its time is up it is stopped, with all that it started.

    Raises:
        LeftOut: there is no such program here.
        RuntimeError: it failed; the end of what it printed is in the message.
        subprocess.TimeoutExpired: it took longer; what it had printed is the `output`.
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
    finally:  # also when this process is told to end
        kill(process, signal.SIGKILL)
    if process.returncode:
        ended = ending(process.returncode)
        raise RuntimeError(f"{Path(words[0]).name}: {ended}: {printed.strip()[-400:]}")
    return printed


def end_with_parent() -> None:
    """This process is killed when the one that started it ends, even if it is stopped then.

    Linux alone can do that; elsewhere nothing happens.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def kill(process: subprocess.Popen[str], number: signal.Signals) -> None:
    """Sends a signal to a process that still runs, and to all of its session."""
    if process.poll() is None:
        os.killpg(process.pid, number)


def ending(code: int | None) -> str:
    """A return code in words."""
    if code is None:
        return "it does not end"
    return f"exit code {code}" if code >= 0 else f"ended by {signal.Signals(-code).name}"
