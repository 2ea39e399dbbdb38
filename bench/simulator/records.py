"""Read, write and compare committed counts, and name the source lines of a difference."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from bench import ROOT
from bench.compiled.kernel_resources import changes as number_changes
from bench.harness import store
from bench.harness.errors import BadInput

RECORD = ROOT / "bench" / "results" / "counters.json"
FORMAT = 1
Table = dict[str, dict[str, dict[str, Any]]]  # case -> launch -> counts and lines
# Counter of a launch -> its index among the numbers of a source line.
ON_LINES = {"instructions": 0, "wavefronts": 1, "sectors_read": 2, "sectors_written": 2}
LINES_NAMED = 3


def read(path: Path, argument: str = "--record") -> dict[str, dict[str, Table]]:
    """Read a file of counts: Triton release -> architecture -> counts.

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
    raise BadInput(f"{argument} must be a file of counts of format {FORMAT}, got {path}")


def matching(table: Table, only: str) -> Table:
    """Return the cases whose name matches."""
    return {case: launches for case, launches in table.items() if re.search(only, case)}


def write(path: Path, release: str, arch: str, now: Table, only: str) -> None:
    """Write the counts of cases whose name matches into a file, and keep its other counts."""
    releases = read(path, "--out") if path.exists() else {}
    archs = releases.setdefault(release, {})
    before = {c: n for c, n in archs.get(arch, {}).items() if not re.search(only, c)}
    recorded = ("counts", "lines")
    archs[arch] = before | {
        case: {name: {k: entry[k] for k in recorded} for name, entry in launches.items()}
        for case, launches in now.items()
    }
    content = {"what": "counters", "format": FORMAT, "releases": releases}
    store.write(path, content)


def changes(before: Table, now: Table) -> list[str]:
    """Return a line for each count that differs, with the source lines that differ most."""
    found = []
    numbers = [
        {
            f"{case}: {launch}": entry["counts"]
            for case, ls in t.items()
            for launch, entry in ls.items()
        }
        for t in (before, now)
    ]
    for _, name, counter, old, new in number_changes({"": numbers[0]}, {"": numbers[1]}):
        found.append(f"{name}: {counter} {old} -> {new}")
        if counter in ON_LINES:
            case, _, launch = name.rpartition(": ")
            pair = before[case][launch]["lines"], now[case][launch]["lines"]
            found += _on_lines(*pair, ON_LINES[counter])
    return found


def _on_lines(old: dict[str, list[int]], new: dict[str, list[int]], at: int) -> list[str]:
    """Return the source lines where a number changed most."""
    numbers = {
        line: (old.get(line, [0, 0, 0])[at], new.get(line, [0, 0, 0])[at])
        for line in dict.fromkeys([*old, *new])
    }
    changed = [(line, a, b) for line, (a, b) in numbers.items() if a != b]
    changed.sort(key=lambda item: -abs(item[2] - item[1]))
    return [f"    {a} -> {b}  {line}" for line, a, b in changed[:LINES_NAMED]]
