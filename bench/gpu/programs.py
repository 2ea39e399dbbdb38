"""Other programs that parts run: sanitizers, profilers, the package's own commands."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from pathlib import Path

from bench import ROOT
from bench.gpu.stage import LeftOut


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
    """Ends this process, with all of its session, soon after the one that started it has ended."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.killpg(os.getpgid(0), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def kill(process: subprocess.Popen[str], number: signal.Signals) -> None:
    """Sends a signal to a process that still runs, and to all of its session."""
    if process.poll() is None:
        os.killpg(process.pid, number)


def ending(code: int) -> str:
    """A return code in words."""
    return f"exit code {code}" if code >= 0 else f"ended by {signal.Signals(-code).name}"
