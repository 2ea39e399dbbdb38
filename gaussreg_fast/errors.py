"""Errors that a user can correct."""

import re

_ANSI = re.compile(r"\x1b\[[0-9;]*m")


class InputError(ValueError):
    """Bad input. The message is one line that names the input, its value and what is allowed."""


def first_line(error: BaseException) -> str:
    """Return the first line of another library's error message, without colours, to be quoted."""
    lines = _ANSI.sub("", str(error)).strip().splitlines()
    return lines[0].rstrip(".: ") if lines else type(error).__name__
