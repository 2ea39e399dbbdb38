"""Show progress: a bar if rich is installed and the output is a terminal, else a line per part."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO


class Progress:
    """Shows the part that is being measured, and a line about each finished one."""

    def __init__(self, total: int, out: Path | None = None, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stdout
        self.bar: Any = None
        self.task: Any = None
        self.done, self.total, self.out = 0, total, out
        if self.stream.isatty() and importlib.util.find_spec("rich"):
            from rich import console, progress

            columns = (
                progress.TextColumn("{task.description:24}", markup=False),
                progress.BarColumn(),
                progress.MofNCompleteColumn(),
                progress.TimeElapsedColumn(),
            )
            self.bar = progress.Progress(*columns, console=console.Console(file=self.stream))
            self.task = self.bar.add_task("", total=total)

    def __enter__(self) -> Progress:
        if self.bar:
            self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if self.bar:
            self.bar.stop()
        if kind is KeyboardInterrupt and self.out:
            finished = f"{self.done} of {self.total} parts are kept in {self.out}"
            print(f"{finished}: the same command with --resume resumes them", file=sys.stderr)

    def begin(self, name: str) -> None:
        if self.bar:
            self.bar.update(self.task, description=name)

    def end(self, line: str) -> None:
        self.done += 1
        if self.bar:
            self.bar.advance(self.task)
            self.bar.console.print(line, highlight=False, markup=False, emoji=False)
        else:
            print(f"[{self.done}/{self.total}] {line}", file=self.stream, flush=True)
