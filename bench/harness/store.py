"""Read and write result files: JSON, written whole or not at all, after every row."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from bench.harness import machine
from bench.harness.errors import BadInput
from gaussreg_fast._files import json_text, write_text

# The formats of the kinds of files that have changed; that of the others is 1.
FORMATS = {"report": 2, "baseline": 2, "check": 2, "profile": 2}
NAME = "report.json"
# The entries that a file must hold, with their types.
CONTENT: dict[str, dict[str, Any]] = {
    "report": {"machine": dict, "settings": dict, "rows": list, "complete": bool},
    "launches": {"archs": dict},
    "gpu run": {"machine": dict, "stages": dict, "date": str},
    "compile seconds": {"releases": dict},
    "baseline": {"machine": dict, "calls": dict, "suite": (str, type(None))},
}


def header(what: str) -> dict[str, Any]:
    """Return the first entries of a file: its kind and format."""
    return {"what": what, "format": FORMATS.get(what, 1)}


def today() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%d")


def rounded(value: Any) -> Any:
    """Round floats to five digits, because further digits are noise and make the file long."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(item) for item in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def write(path: Path, content: dict[str, Any], step: str = " ") -> None:
    """Write strict JSON with rounded floats; a container without containers takes one line.

    `step` is the indentation of each level.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, _compact(rounded(content), "", step) + "\n")


def _compact(value: Any, indent: str, step: str) -> str:
    inner = indent + step
    if isinstance(value, dict) and any(isinstance(v, (dict, list)) for v in value.values()):
        lines = (f"{inner}{json.dumps(k)}: {_compact(v, inner, step)}" for k, v in value.items())
        return "{\n" + ",\n".join(lines) + f"\n{indent}}}"
    if isinstance(value, list) and any(isinstance(v, (dict, list)) for v in value):
        return "[\n" + ",\n".join(inner + _compact(v, inner, step) for v in value) + f"\n{indent}]"
    return json.dumps(json.loads(json_text(value)), ensure_ascii=False)


def read(path: Path, what: str) -> dict[str, Any]:
    """Read a result file of this format; raise BadInput with the reason if it cannot be used."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInput(f"{path}: no such {what}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: cannot be read ({error})") from None
    except json.JSONDecodeError as error:
        raise BadInput(f"{path}: not JSON ({error})") from None
    if not isinstance(content, dict) or content.get("what") != what:
        raise BadInput(f"{path}: not a {what}")
    if (got := content.get("format")) != (wanted := header(what)["format"]):
        raise BadInput(
            f"{path}: the format of a {what} must be {wanted} for this version, got {got}: measure "
            "it again"
        )
    for key, kind in CONTENT[what].items():
        if not isinstance(content.get(key), kind):
            raise BadInput(f"{path}: a broken {what}: {key!r} is missing or of the wrong type")
    if what == "baseline" and not all(map(_usable, content["calls"].values())):
        raise BadInput(f"{path}: a broken baseline: every call needs ratios above 0")
    return content


def _usable(call: Any) -> bool:
    ratios = call.get("ratio") if isinstance(call, dict) else None
    numbers = isinstance(ratios, list) and all(isinstance(r, (int, float)) for r in ratios)
    return bool(numbers and ratios and min(ratios) > 0 and max(ratios) < float("inf"))


class Report:
    """The rows of one report, in a file."""

    def __init__(self, path: Path, content: dict[str, Any]):
        self.path, self.content = path, content

    @classmethod
    def begin(cls, folder: Path, settings: dict[str, Any], facts: dict[str, Any]) -> Report:
        """Start a new report; raise BadInput if it would overwrite an interrupted one."""
        path = folder / NAME
        if path.exists() and not read(path, "report")["complete"]:
            raise BadInput(
                f"{path}: holds an interrupted run; --resume resumes it, --restart replaces it"
            )
        return cls._new(path, settings, facts)

    @classmethod
    def restart(cls, folder: Path, settings: dict[str, Any], facts: dict[str, Any]) -> Report:
        """Start a new report, in place of an earlier one."""
        return cls._new(folder / NAME, settings, facts)

    @classmethod
    def _new(cls, path: Path, settings: dict[str, Any], facts: dict[str, Any]) -> Report:
        about = {**header("report"), "date": today(), "seconds": 0.0}
        content = {**about, "complete": False, "settings": settings, "machine": facts, "rows": []}
        report = cls(path, content)
        report.save()
        return report

    @classmethod
    def resume(cls, folder: Path, settings: dict[str, Any], facts: dict[str, Any]) -> Report:
        """Resume a report; raise BadInput if its machine, version or settings differ."""
        content = read(folder / NAME, "report")
        if gap := machine.difference(content["machine"], facts):
            raise BadInput(f"{folder / NAME}: cannot be resumed: it was measured with {gap}")
        before, here = content["machine"]["gaussreg_fast"], facts["gaussreg_fast"]
        if before != here:
            raise BadInput(
                f"{folder / NAME}: cannot be resumed: it was measured with gaussreg_fast {before}, "
                f"here it is {here}"
            )
        if content["settings"] != settings:
            before, here = (
                ", ".join(f"{name} {value}" for name, value in each.items())
                for each in (content["settings"], settings)
            )
            raise BadInput(
                f"{folder / NAME}: cannot be resumed: its settings are {before}, here they are "
                f"{here}"
            )
        content["complete"] = False
        measured = [row for row in content["rows"] if row["status"] == "ok"]
        return cls(folder / NAME, {**content, "rows": measured})

    def save(self) -> None:
        write(self.path, self.content)

    def add(self, row: dict[str, Any], seconds: float) -> None:
        """Add a row and write the file."""
        self.content["rows"].append(row)
        self.content["seconds"] += seconds
        self.save()

    def finish(self, **analysis: Any) -> None:
        self.content |= {"complete": True, **analysis}
        self.save()

    def names(self) -> set[str]:
        return {row["case"] for row in self.content["rows"]}


def row(content: dict[str, Any], name: str) -> dict[str, Any] | None:
    """Return the row of that name; None if it was not measured."""
    return next((r for r in content["rows"] if r["case"] == name and r["status"] == "ok"), None)


def on_topic(content: dict[str, Any], topic: str) -> list[dict[str, Any]]:
    """Return the measured rows of a topic's cases."""
    return [r for r in content["rows"] if r.get("topic") == topic and r["status"] == "ok"]
