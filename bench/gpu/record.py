"""The file of a run: every row, saved at once, and the state of each stage."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench import ROOT
from bench.gpu.stage import Row
from bench.harness import store
from bench.harness.errors import BadInput
from gaussreg_fast._files import locked

NAME = "run.json"
WHAT = "gpu run"
REHEARSAL = "rehearsal"  # the device's name in a rehearsal
# Facts that must agree to resume a run. The driver may differ, because each row names its own.
SAME = ("device", "python", "torch", "triton", "gaussreg_fast")
DONE = "done"  # the state of a finished stage
LATE = "out of time"  # start of the reason of a row that a second run may still measure


def slug(device: str) -> str:
    """Return the name of a device's folder, such as nvidia-h200."""
    return re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-") or "device"


def source() -> str:
    """Identify the measured sources by twelve digits of a hash of their files."""
    digest = hashlib.sha256()
    for folder in ("kernels", "gaussreg_fast"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in (".py", ".cpp", ".h"):
                digest.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:12]


class Record:
    """One run's file, written whole after every change."""

    def __init__(self, path: Path, content: dict[str, Any]) -> None:
        self.path, self.content = path, content

    @classmethod
    def begin(cls, folder: Path, facts: dict[str, Any], restart: bool = False) -> Record:
        """Start a new run.

        Raises:
            BadInput: the folder has a run already, and `restart` is False.
        """
        if (folder / NAME).exists() and not restart:
            raise BadInput(
                f"{folder / NAME}: holds a run already: --resume measures its missing rows, "
                "--restart replaces it"
            )
        about = {**store.header(WHAT), "date": store.today()}
        return cls(folder / NAME, {**about, "machine": facts, "stages": {}})

    @classmethod
    def resume(cls, before: Path, folder: Path, facts: dict[str, Any]) -> Record:
        """Resume the run in `before`, and write it into `folder`.

        Raises:
            BadInput: there is no such run, or its device or versions differ.
        """
        content = store.read(before / NAME, WHAT)
        for name in SAME:
            if content["machine"].get(name) != facts[name]:
                raise BadInput(
                    f"{before / NAME}: cannot be resumed: its {name} is "
                    f"{content['machine'].get(name)}, here it is {facts[name]}"
                )
        return cls(folder / NAME, content)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the file against other runs.

        Raises:
            BadInput: another run holds the lock.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        path = self.path.with_suffix(".lock")
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(locked(path))
            except BlockingIOError:
                raise BadInput(f"{self.path}: another run writes this file") from None
            try:
                yield
            finally:
                path.unlink(missing_ok=True)

    def stage(self, name: str) -> dict[str, Any]:
        """Return the entry of a stage."""
        return self.content["stages"].setdefault(name, {"state": "", "seconds": 0.0, "rows": []})

    def done(self, name: str) -> bool:
        """Return whether a stage is finished."""
        return bool(self.stage(name)["state"] == DONE)

    def failed(self, name: str) -> bool:
        """Return whether a stage or one of its rows failed."""
        stage = self.stage(name)
        rows = any(row["status"] == "FAILED" for row in stage["rows"])
        return rows or bool(stage["state"].startswith("FAILED"))

    def state(self, name: str) -> str:
        """Return the state of a stage that has ended, from its rows."""
        rows = self.stage(name)["rows"]
        bad = [row["part"] for row in rows if row["status"] == "FAILED"]
        late = [row for row in rows if row.get("reason", "").startswith(LATE)]
        if bad:
            return f"FAILED: {', '.join(bad)}"
        return f"{LATE} for {len(late)} of {len(rows)} parts" if late else DONE

    def start(self, name: str) -> list[str]:
        """Begin a stage, or begin it again if it was done; return the parts to skip.

        Earlier rows stay until new ones replace them.
        """
        stage = self.stage(name)
        skip = [] if self.done(name) else [r["part"] for r in stage["rows"] if r["status"] == "ok"]
        stage.pop("log", None)
        stage["state"] = "interrupted"  # stays if nothing ends the stage
        self.save()
        return skip

    def add(self, name: str, row: Row) -> None:
        """Save a row, in place of an earlier one of its part."""
        stage = self.stage(name)
        stage["rows"] = [r for r in stage["rows"] if r["part"] != row["part"]] + [row]
        self.save()

    def end(self, name: str, state: str, seconds: float, log: str) -> None:
        """Save the state of a stage, and its log unless it is done."""
        stage = self.stage(name)
        stage["state"] = state
        stage["seconds"] = round(stage["seconds"] + seconds, 1)
        if log and state != DONE:
            stage["log"] = log.splitlines()[-60:]
        self.save()

    def save(self) -> None:
        store.write(self.path, self.content)


def read(folder: Path) -> dict[str, Any]:
    """Read a run's file."""
    return store.read(folder / NAME, WHAT)


def errors(content: dict[str, Any]) -> list[float]:
    """Return the errors of all results that were compared with float64."""
    return [e for row in rows(content, "routes").values() for e in row.get("errors", {}).values()]


def best(row: Row) -> tuple[Row, float] | None:
    """Return a tuning row's fastest candidate, and its time over that of the one in use."""
    timed = [c for c in row["candidates"] if "median" in c]
    used = next((c for c in timed if c["in_use"]), None)
    return (timed[0], timed[0]["median"] / used["median"]) if used else None


def rows(content: dict[str, Any], stage: str) -> dict[str, Row]:
    """Return the measured rows of a stage, by their parts."""
    found = content["stages"].get(stage, {}).get("rows", [])
    return {row["part"]: row for row in found if row["status"] == "ok"}
