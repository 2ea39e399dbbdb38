"""Errors that a user can mend."""

import re

_ANSI = re.compile(r"\x1b\[[0-9;]*m")


class InputError(ValueError):
    """Bad input: the message is one line that names what came and what is allowed."""


def first_line(error: BaseException) -> str:
    """Return another library's error message on one line, without colours, to be quoted in ours."""
    lines = _ANSI.sub("", str(error)).strip().splitlines()
    return lines[0].rstrip(".: ") if lines else type(error).__name__
