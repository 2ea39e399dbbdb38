"""Result files: JSON, written whole or not at all, after every row."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from bench.harness import machine
from bench.harness.errors import BadInput
from gaussreg_fast._files import json_text, write_text

FORMAT = 1
NAME = "report.json"
# What a file must hold to be of use.
CONTENT: dict[str, dict[str, Any]] = {
    "report": {"machine": dict, "settings": dict, "rows": list, "complete": bool},
    "launches": {"archs": dict},
    "gpu run": {"machine": dict, "stages": dict, "date": str},
    "compile seconds": {"releases": dict},
    "baseline": {"machine": dict, "calls": dict, "suite": (str, type(None))},
}


def today() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%d")


def rounded(value: Any) -> Any:
    """Floats to five digits: what is beyond them is noise, and makes the file long."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(item) for item in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def write(path: Path, content: dict[str, Any], step: str = " ") -> None:
    """Writes strict JSON, floats rounded; what holds no list or dict is one line.

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
    """The content of a result file of this format; BadInput says why it cannot be used."""
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
    if content.get("format") != FORMAT:
        raise BadInput(
            f"{path}: a {what} of format {content.get('format')}, this version reads {FORMAT}"
        )
    for key, kind in CONTENT[what].items():
        if not isinstance(content.get(key), kind):
            raise BadInput(f"{path}: a broken {what}: {key!r} is missing or not what it should be")
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
        """A new one; what an interrupted run left is not overwritten unasked."""
        path = folder / NAME
        if path.exists() and not read(path, "report")["complete"]:
            raise BadInput(f"{path}: of an interrupted run: --resume or --restart")
        return cls._new(path, settings, facts)

    @classmethod
    def restart(cls, folder: Path, settings: dict[str, Any], facts: dict[str, Any]) -> Report:
        """A new one in any case."""
        return cls._new(folder / NAME, settings, facts)

    @classmethod
    def _new(cls, path: Path, settings: dict[str, Any], facts: dict[str, Any]) -> Report:
        about = {"what": "report", "format": FORMAT, "date": today(), "seconds": 0.0}
        content = {**about, "complete": False, "settings": settings, "machine": facts, "rows": []}
        report = cls(path, content)
        report.save()
        return report

    @classmethod
    def resume(cls, folder: Path, settings: dict[str, Any], facts: dict[str, Any]) -> Report:
        """An interrupted one; BadInput if it was of another machine, or of other settings."""
        content = read(folder / NAME, "report")
        if gap := machine.difference(content["machine"], facts):
            raise BadInput(f"{folder / NAME}: cannot be resumed: it is of {gap}")
        ours, here = content["machine"]["gaussreg_fast"], facts["gaussreg_fast"]
        if ours != here:
            raise BadInput(f"{folder / NAME}: is of gaussreg_fast {ours}, here it is {here}")
        if content["settings"] != settings:
            told = ", ".join(f"{k} {v}" for k, v in content["settings"].items())
            raise BadInput(f"{folder / NAME}: was begun with other settings: {told}")
        content["complete"] = False
        kept = [row for row in content["rows"] if row["status"] == "ok"]
        return cls(folder / NAME, {**content, "rows": kept})

    def save(self) -> None:
        write(self.path, self.content)

    def add(self, row: dict[str, Any], seconds: float) -> None:
        """Keeps a row, on disk."""
        self.content["rows"].append(row)
        self.content["seconds"] += seconds
        self.save()

    def finish(self, **analysis: Any) -> None:
        self.content |= {"complete": True, **analysis}
        self.save()

    def names(self) -> set[str]:
        return {row["case"] for row in self.content["rows"]}


def row(content: dict[str, Any], name: str) -> dict[str, Any] | None:
    """The row of a name, if it was measured."""
    return next((r for r in content["rows"] if r["case"] == name and r["status"] == "ok"), None)


def on_topic(content: dict[str, Any], topic: str) -> list[dict[str, Any]]:
    """The measured rows of a topic's cases."""
    return [r for r in content["rows"] if r.get("topic") == topic and r["status"] == "ok"]
