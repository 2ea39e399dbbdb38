"""The progress bar and the table of results of slow commands."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table


def progress_bar(console: Console) -> Progress:
    """Return a bar with steps done, total, and time left; a task's field `state` comes last."""
    return Progress(
        TextColumn("{task.description:18}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[state]}"),
        console=console,
    )


def result_table(title: str, caption: str, heads: tuple[str, ...], rows: list[list[str]]) -> Table:
    """Return a table with as many columns of the rows as `heads`, the first one left-aligned."""
    table = Table(title=title, caption=caption, box=None, padding=(0, 1, 0, 0))
    for k, name in enumerate(heads):
        table.add_column(name, justify="right" if k else "left")
    for row in rows:
        table.add_row(*row[: len(heads)])
    return table
