"""Errors that end a command with one line."""

from __future__ import annotations

import traceback
from pathlib import Path

from gaussreg_fast.errors import InputError, first_line, out_of_memory

_BENCH = Path(__file__).resolve().parents[1]


class BadInput(InputError):
    """An error of the user: one line on stderr, exit code 2."""


class Wrong(Exception):
    """A result that differs from the reference: exit code 1, and nothing is timed."""


def failed_row(error: Exception) -> dict[str, str]:
    """Return status and reason for a row whose measurement raised; no memory is no failure."""
    if out_of_memory(error):
        return {"status": "not measured", "reason": first_line(error)[:500]}
    return {"status": "FAILED", "reason": f"{type(error).__name__}: {error}"[:500]}


def describe(error: BaseException) -> str:
    """Describe an exception of a user's code in a line, with its place there if it has one."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if _is_of_user(frame.filename)]
    place, text = "", " ".join(str(error).split())
    if own:
        place, text = f"{own[-1].filename}:{own[-1].lineno}: ", text or (own[-1].line or "")
    return f"{place}raised {type(error).__name__}: {text}"


def _is_of_user(filename: str) -> bool:
    return not filename.startswith("<frozen") and _BENCH not in Path(filename).parents
