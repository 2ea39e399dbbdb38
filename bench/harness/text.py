"""Format numbers and tables: Markdown for pages, aligned columns for the screen."""

from __future__ import annotations

from collections.abc import Sequence


def table(head: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as text with aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def digits(value: float) -> str:
    """Format with three digits, or as a whole number if that has more."""
    return f"{value:.3g}" if value < 999.5 else f"{value:.0f}"


def time_text(us: float) -> str:
    """Format microseconds in the unit that fits."""
    for unit, size in (("s", 1e6), ("ms", 1e3)):
        if us >= 0.9995 * size:
            return f"{digits(us / size)} {unit}"
    return f"{digits(us)} us"
