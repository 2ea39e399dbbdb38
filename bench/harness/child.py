"""Get a result from a process of its own, through a file that nothing else writes to.

The process also runs code that may print, such as a user's suite or a library that warns. Therefore
neither its output nor its exit code is a result: they only explain why a result is missing.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import ROOT
from bench.harness.errors import BadInput, Wrong
from gaussreg_fast._exit_codes import Exit, line
from gaussreg_fast._files import write_text
from gaussreg_fast.errors import MachineError, of_machine

ERRORS: dict[str, type[Exception]] = {
    kind.__name__: kind for kind in (BadInput, Wrong, MachineError)
}


# These make glibc keep freed memory. Otherwise the layout of a process's heap decides whether a
# tensor's memory returns to the system in every call, and page faults then dominate the time.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(2**25), "MALLOC_TRIM_THRESHOLD_": str(2**30)}


def ask(words: Sequence[str], environment: Mapping[str, str]) -> Any:
    """Run `python -m bench WORDS --answer FILE`, and return the result in the file.

    In the process glibc keeps freed memory, whatever the environment says.

    Raises:
        BadInput, Wrong, MachineError: the process ended with this error, or, as BadInput, without
            an answer.
        RuntimeError: a mistake in our own code ended it. The message has its traceback.
    """
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        answer, log = Path(folder) / "answer.json", Path(folder) / "log"
        command = [sys.executable, "-m", "bench", *words, "--answer", str(answer)]
        # A file, because a pipe ends only with the last process that holds it, also one that the
        # user's code has left behind.
        with log.open("wb") as output:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=ROOT,
                env={**environment, **ALLOCATOR},
            )  # fmt: skip
        if not answer.exists():
            text = log.read_text(encoding="utf-8", errors="replace")
            if done.returncode == Exit.MISTAKE:
                raise RuntimeError(f"a mistake in the process that measures:\n{text}")
            last = _last_line(text)
            raise BadInput(f"measuring failed: {describe_exit(done.returncode)}: {last}")
        message = json.loads(answer.read_text(encoding="utf-8"))
    if "error" in message:
        raise ERRORS[message["error"]](message["reason"])
    return message["result"]


def by_instruction_set(words: Sequence[str], names: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Yield each named instruction set that this processor has, with what `ask` returns for it."""
    for name in names:
        try:
            found = ask(words, {**os.environ, "GAUSSREG_FAST_ISA": name})
        except BadInput as error:
            if "cannot run on this processor" not in str(error):
                raise
            print(f"{name}: this processor does not have it")
        else:
            yield name, found


def answer(path: Path, compute: Callable[[], Any]) -> int:
    """Write the result of `compute`, or the error that it raises, for `ask`; return 0.

    An error that the machine caused is written as a MachineError.
    """
    message: dict[str, Any]
    try:
        message = {"result": compute()}
    except Exception as error:
        kind = MachineError if of_machine(error) else type(error)
        if kind.__name__ not in ERRORS:
            raise
        message = {"error": kind.__name__, "reason": line(error)}
    write_text(path, json.dumps(message))
    return 0


def describe_exit(code: int | None) -> str:
    """Return a return code in words."""
    if code is None:
        return "it does not end"
    return f"exit code {code}" if code >= 0 else f"ended by {signal.Signals(-code).name}"


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "nothing was printed"
