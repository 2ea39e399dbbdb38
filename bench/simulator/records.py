"""Committed counts: what a check compares with, and which lines of source a difference is on."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from bench import ROOT
from bench.errors import BadInput
from bench.kernel_resources import changes as number_changes
from gaussreg_fast._files import atomic_path

RECORD = ROOT / "bench" / "results" / "counters.json"
FORMAT = 1
Table = dict[str, dict[str, dict[str, Any]]]  # case -> launch -> counts and lines
# The counter of a launch -> its place among the numbers of a line.
ON_LINES = {"instructions": 0, "wavefronts": 1, "sectors_read": 2, "sectors_written": 2}
LINES_NAMED = 3


def read(path: Path, argument: str = "--record") -> dict[str, dict[str, Table]]:
    """Triton release -> architecture -> counts.

    Raises:
        BadInput: there is no such file, or it is no file of counts.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["what"] == "counters" and content["format"] == FORMAT:
            return dict(content["releases"])
    except OSError as error:
        raise BadInput(f"{argument}: {path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError):
        pass
    raise BadInput(f"{argument}: {path} is no file of counts of format {FORMAT}")


def kept(table: Table, only: str) -> Table:
    """The cases whose name matches."""
    return {case: launches for case, launches in table.items() if re.search(only, case)}


def write(path: Path, release: str, arch: str, now: Table, only: str) -> None:
    """Puts counts into a file; what else is in it stays."""
    releases = read(path, "--out") if path.exists() else {}
    archs = releases.setdefault(release, {})
    before = {c: n for c, n in archs.get(arch, {}).items() if not re.search(only, c)}
    recorded = ("counts", "lines")
    archs[arch] = before | {
        case: {name: {k: entry[k] for k in recorded} for name, entry in launches.items()}
        for case, launches in now.items()
    }
    content = {"what": "counters", "format": FORMAT, "releases": releases}
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        temporary.write_text(_text(content) + "\n", encoding="utf-8")


def _text(value: Any, depth: int = 0) -> str:
    """JSON in which a launch's counts, and each line of source, stand on a line of their own."""
    if not isinstance(value, dict) or not any(isinstance(v, dict | list) for v in value.values()):
        return json.dumps(value)
    pad = " " * depth
    items = (f"{pad} {json.dumps(k)}: {_text(v, depth + 1)}" for k, v in value.items())
    return "{\n" + ",\n".join(items) + f"\n{pad}}}"


def changes(before: Table, now: Table) -> list[str]:
    """A line for each count that differs, and the lines of source that differ most in it."""
    found = []
    numbers = [
        {
            f"{case}: {launch}": entry["counts"]
            for case, ls in t.items()
            for launch, entry in ls.items()
        }
        for t in (before, now)
    ]
    for _, name, what, old, new in number_changes({"": numbers[0]}, {"": numbers[1]}):
        found.append(f"{name}: {what} {old} -> {new}")
        if what in ON_LINES:
            case, _, launch = name.rpartition(": ")
            pair = before[case][launch]["lines"], now[case][launch]["lines"]
            found += _on_lines(*pair, ON_LINES[what])
    return found


def _on_lines(old: dict[str, list[int]], new: dict[str, list[int]], at: int) -> list[str]:
    """The lines of source where a number changed most."""
    numbers = {
        line: (old.get(line, [0, 0, 0])[at], new.get(line, [0, 0, 0])[at])
        for line in dict.fromkeys([*old, *new])
    }
    changed = [(line, a, b) for line, (a, b) in numbers.items() if a != b]
    changed.sort(key=lambda item: -abs(item[2] - item[1]))
    return [f"    {a} -> {b}  {line}" for line, a, b in changed[:LINES_NAMED]]
