"""Progress of slow commands: a bar for people, and lines in a log."""

import io
import itertools
import re

import pytest

pytest.importorskip("rich")

from rich.console import Console

from gaussreg_fast import _progress


@pytest.fixture
def clock(monkeypatch):
    """clock[0] is what the time is."""
    now = [1000.0]
    monkeypatch.setattr(_progress.time, "monotonic", lambda: now[0])
    return now


def log():
    console = _progress.plain_console()
    console.file = io.StringIO()
    return console


def test_a_log_gets_a_line_at_the_start_at_the_end_and_every_half_minute(clock):
    console = log()
    with _progress.progress_bar(console) as progress:
        task = progress.add_task("batch 1 of 2", total=600, state="")
        for step in range(600):
            clock[0] += 1
            progress.update(task, completed=step + 1, state=f"reward {step}")
    lines = console.file.getvalue().splitlines()
    steps = [int(re.match(r"batch 1 of 2: (\d+) of 600, .*reward \d+$", x)[1]) for x in lines]
    assert steps[0] == 1
    assert steps[-1] == 600
    assert {b - a for a, b in itertools.pairwise(steps[:-1])} == {30}


def test_each_task_begins_and_ends_with_a_line(clock):
    console = log()
    with _progress.progress_bar(console) as progress:
        for name in ("teacher", "student"):
            task = progress.add_task(name, total=5, state="")
            for _ in range(5):
                progress.advance(task)
    lines = console.file.getvalue().splitlines()
    assert [line.split(",")[0] for line in lines] == [
        "teacher: 1 of 5", "teacher: 5 of 5", "student: 1 of 5", "student: 5 of 5",
    ]  # fmt: skip


def test_a_task_without_an_end_still_reports(clock):
    console = log()
    with _progress.progress_bar(console) as progress:
        task = progress.add_task("loading", total=None, state="[b]")
        progress.advance(task)
        clock[0] += 31
        progress.advance(task)
    assert console.file.getvalue().splitlines() == ["loading: 1, [b]", "loading: 2, [b]"]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_gets_a_bar(monkeypatch):
    for name in ("TERM", "TTY_COMPATIBLE", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    terminal = Console(file=Terminal(), width=100)
    with _progress.progress_bar(terminal) as progress:
        progress.advance(progress.add_task("a [b] c", total=2, state="reward [1]"))
    shown = terminal.file.getvalue()
    assert "━" in shown
    assert "a [b] c" in shown
    assert "reward [1]" in shown


def test_a_log_gets_lines_where_colours_are_forced(clock, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    console = log()
    assert console.is_terminal
    with _progress.progress_bar(console) as progress:
        progress.advance(progress.add_task("loading", total=1, state="done"))
    assert [line.split(",")[0] for line in console.file.getvalue().splitlines()] == [
        "loading: 1 of 1"
    ]


def test_a_run_and_a_demo_write_lines_into_a_log(cli, tmp_path):
    pytest.importorskip("diffusers")
    done = cli(
        "optimize", "--out", tmp_path / "run", "--prompt", "a handwritten three", "--reward",
        "digits-ink", "--iterations", "3",
    )  # fmt: skip
    assert done.returncode == 0
    begin, end = [line for line in done.stderr.splitlines() if line.startswith("batch")]
    assert begin.startswith("batch 1 of 1: 1 of 4")
    assert end.startswith("batch 1 of 1: 4 of 4")
    assert "reward " in end
    words = ["--experiment", "checkerboard", "--samples", "1", "--iterations", "2"]
    done = cli("demo", "--out", tmp_path / "demo", *words, "--shuffles", "1")
    assert done.returncode == 0
    assert re.match(r"\w.*: 1 of \d+", done.stdout)
