"""Progress of slow commands: a bar on a terminal, and lines now and then in a log."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

SECONDS = 30.0  # between two lines


def plain_console(stderr: bool = False) -> Console:
    """Return a console that prints text as it is, because brackets in a prompt are no markup."""
    return Console(stderr=stderr, markup=False, emoji=False, highlight=False)


def progress_bar(console: Console) -> Progress:
    """Return a bar with steps done, total, and time left; a task's field `state` comes last.

    A console that is no terminal gets a line with the same when a task begins and ends, and every
    `SECONDS`.
    """
    columns = (
        TextColumn("{task.description:18}", markup=False),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[state]}", markup=False),
    )
    # FORCE_COLOR makes rich take a file for a terminal.
    on_terminal = console.is_terminal and console.file.isatty()
    if on_terminal or console.is_jupyter:
        return Progress(*columns, console=console)
    return _Lines(*columns, console=console)


class _Lines(Progress):
    def __init__(self, *columns: Any, console: Console) -> None:
        super().__init__(*columns, console=console, disable=True)
        self._last: dict[TaskID, float] = {}  # task -> when it had its last line

    def update(self, task_id: TaskID, **changes: Any) -> None:
        super().update(task_id, **changes)
        self._report(task_id)

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        super().advance(task_id, advance)
        self._report(task_id)

    def _report(self, task_id: TaskID) -> None:
        task = self._tasks[task_id]
        now = time.monotonic()
        due = now - self._last.get(task_id, -SECONDS) >= SECONDS or task.finished
        if not task.completed or not due:
            return
        self._last[task_id] = now
        left = "" if task.time_remaining is None else _hours(task.time_remaining) + " left"
        total = "" if task.total is None else f" of {task.total:g}"
        parts = [f"{task.description}: {task.completed:g}{total}", left, task.fields["state"]]
        self.console.print(", ".join(filter(None, parts)), soft_wrap=True)


def _hours(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
