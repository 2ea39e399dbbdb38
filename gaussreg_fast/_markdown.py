"""Parts of Markdown pages. Text of the user is shown as it is, whatever markup it looks like."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table."""
    return ["| " + " | ".join(row) + " |" for row in (columns, ["---"] * len(columns), *rows)]


def escape(text: str) -> str:
    """Return text of the user for a line or a cell of a table.

    Special characters become HTML's references, because renderers differ in the backslashes that
    they know.
    """
    return re.sub(r"[&<>\\`*_{}\[\]#!|~$]", lambda c: f"&#{ord(c[0])};", " ".join(text.split()))


def code(text: str) -> str:
    """Return text of the user as code within a line."""
    ticks = _longer(text, 1)
    space = " " if "`" in text else ""
    return f"{ticks}{space}{' '.join(text.split())}{space}{ticks}"


def block(text: str, language: str) -> list[str]:
    """Return the lines of a block of code."""
    fence = _longer(text, 3)
    return [f"{fence}{language}", text.rstrip(), fence]


def _longer(text: str, least: int) -> str:
    """Return more backticks in a row than there are in a text."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    return "`" * max(least, longest + 1)
