"""The exit codes, the same for every command, and the line on stderr that an error becomes.

| code | meaning |
| --- | --- |
| 0 | done |
| 1 | the answer is no: not Gaussian, slower, different, wrong, failed |
| 2 | bad input: an argument, a file or a package that is missing |
| 3 | the machine: memory, disk or device |
| 70 | a mistake in a program, ours or a reward of yours, with a traceback |
| 130 | interrupted, or the reader of the output has gone |
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
import traceback
from collections.abc import Callable
from enum import IntEnum

from gaussreg_fast.errors import InputError, MachineError, first_line, of_machine, out_of_memory


class Exit(IntEnum):
    """The exit codes."""

    DONE = 0
    NO = 1
    BAD_INPUT = 2
    MACHINE = 3
    MISTAKE = 70  # EX_SOFTWARE of sysexits.h; Python's own code would be read as "no"
    INTERRUPTED = 130  # 128 + SIGINT, as shells report it


def exit_code(command: Callable[[], int | None]) -> int:
    """Run a command and return its exit code; an error that a user can mend is one line.

    Raises:
        SystemExit: the command's own.
    """
    _prepare_output()
    try:
        try:
            code = command() or Exit.DONE
        finally:
            sys.stdout.flush()  # now, because a full disk would be a traceback at Python's exit
        return code
    except SystemExit as end:
        if not isinstance(end.__context__, BrokenPipeError):
            raise
        return _without_reader()  # click ends with code 1 if the reader of its output has gone
    except BrokenPipeError:
        return _without_reader()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return Exit.INTERRUPTED
    except Exception as error:
        return report(error)


def report(error: Exception) -> Exit:
    """Print an error on stderr, and return its exit code."""
    code = _code(error)
    if code is Exit.MISTAKE:
        traceback.print_exception(error)
        return code
    print(f"error: {line(error)}", file=sys.stderr)
    if _nameless(error):
        _discard_output()  # it may be the output itself that could not be written
    return code


def line(error: Exception) -> str:
    """Return the line that says what went wrong."""
    if isinstance(error, OSError):
        return f"{error.filename or 'output'}: {error.strerror or first_line(error)}"
    if isinstance(error, ModuleNotFoundError):
        return f"the package {error.name} is not installed"
    if isinstance(error, InputError | MachineError):
        return str(error)
    text = first_line(error)
    return f"out of memory ({text})" if out_of_memory(error) else text


def _code(error: Exception) -> Exit:
    if of_machine(error):
        return Exit.MACHINE
    if isinstance(error, ModuleNotFoundError):
        ours = (error.name or "bench").partition(".")[0] in ("gaussreg_fast", "bench")
        return Exit.MISTAKE if ours else Exit.BAD_INPUT
    of_file = isinstance(error, OSError) and (error.filename is not None or _nameless(error))
    return Exit.BAD_INPUT if of_file or isinstance(error, InputError) else Exit.MISTAKE


def _without_reader() -> Exit:
    _discard_output()
    return Exit.INTERRUPTED


def _nameless(error: Exception) -> bool:
    """Return whether an error is that of a file without a name, such as the output.

    Other errors of the system without a file are those of a network, for example of a reward.
    """
    if not isinstance(error, OSError) or error.filename is not None:
        return False
    return error.errno == errno.EBADF or of_machine(error)


def _discard_output() -> None:
    """Send what is left of the output nowhere, because Python writes it again when it exits."""
    with contextlib.suppress(OSError, ValueError):  # a stream without a file
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _prepare_output() -> None:
    """Write each line at once, into a log too, and escape what its encoding does not have."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        errors = "backslashreplace" if sys.stdout.errors == "strict" else sys.stdout.errors
        sys.stdout.reconfigure(errors=errors, line_buffering=True)
