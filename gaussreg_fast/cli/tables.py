"""The table of results of slow commands."""

from __future__ import annotations

from rich.table import Table


def result_table(title: str, caption: str, heads: tuple[str, ...], rows: list[list[str]]) -> Table:
    """Return a table with as many columns of the rows as `heads`, the first one left-aligned."""
    table = Table(title=title, caption=caption, box=None, padding=(0, 1, 0, 0))
    for k, name in enumerate(heads):
        table.add_column(name, justify="right" if k else "left")
    for row in rows:
        table.add_row(*row[: len(heads)])
    return table
