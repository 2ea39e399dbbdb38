"""The file of a run: every row as soon as there is one, and what became of each stage."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench import ROOT
from bench.gpu.stage import Row
from bench.harness import store
from bench.harness.errors import BadInput

NAME = "run.json"
WHAT = "gpu run"
REHEARSAL = "rehearsal"  # the device's name where there is none
# A second command may meet another driver: each row has its own. These must agree.
SAME = ("device", "python", "torch", "triton", "gaussreg_fast")
DONE = "done"  # the state of a stage of which nothing is left to do
LATE = "out of time"  # how the reason of a row begins that may be had in a second run


def slug(device: str) -> str:
    """A device's name as a folder: nvidia-h200."""
    return re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-") or "device"


def source() -> str:
    """Which kernels and package are measured: twelve digits of a hash of their files."""
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
        """A new run.

        Raises:
            BadInput: there is one in this folder already, and it is not to be replaced.
        """
        if (folder / NAME).exists() and not restart:
            raise BadInput(
                f"{folder / NAME}: a run is there already: --resume measures what it lacks, "
                "--restart replaces it"
            )
        about = {"what": WHAT, "format": store.FORMAT, "date": store.today()}
        return cls(folder / NAME, {**about, "machine": facts, "stages": {}})

    @classmethod
    def resume(cls, before: Path, folder: Path, facts: dict[str, Any]) -> Record:
        """The run in `before`, continued in `folder`.

        Raises:
            BadInput: there is no such file, or it is of another device or of other versions.
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
        """Within, no other run writes this file.

        Raises:
            BadInput: another one is writing it.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        path = self.path.with_suffix(".lock")
        with path.open("w", encoding="utf-8") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BadInput(f"{self.path}: another run is writing it") from None
            except OSError:  # a file system without locks: one run at a time is up to the user
                pass
            try:
                yield
            finally:
                path.unlink(missing_ok=True)

    def stage(self, name: str) -> dict[str, Any]:
        """What is known of a stage."""
        return self.content["stages"].setdefault(name, {"state": "", "seconds": 0.0, "rows": []})

    def done(self, name: str) -> bool:
        """Whether nothing of a stage is left to do."""
        return bool(self.stage(name)["state"] == DONE)

    def failed(self, name: str) -> bool:
        """Whether something in a stage is wrong."""
        stage = self.stage(name)
        rows = any(row["status"] == "FAILED" for row in stage["rows"])
        return rows or bool(stage["state"].startswith("FAILED"))

    def state(self, name: str) -> str:
        """What the rows of a stage say that has come to its end."""
        rows = self.stage(name)["rows"]
        bad = [row["part"] for row in rows if row["status"] == "FAILED"]
        late = [row for row in rows if row.get("reason", "").startswith(LATE)]
        if bad:
            return f"FAILED: {', '.join(bad)}"
        return f"{LATE} for {len(late)} of {len(rows)} parts" if late else DONE

    def start(self, name: str) -> list[str]:
        """Begins a stage, anew if it was done: the parts that need not be measured again.

        Rows of before stay until there are new ones.
        """
        stage = self.stage(name)
        kept = [] if self.done(name) else [r["part"] for r in stage["rows"] if r["status"] == "ok"]
        stage.pop("log", None)
        stage["state"] = "interrupted"  # what it is if nothing ends it
        self.save()
        return kept

    def add(self, name: str, row: Row) -> None:
        """Keeps a row, on disk, in the place of an earlier one of its part."""
        stage = self.stage(name)
        stage["rows"] = [r for r in stage["rows"] if r["part"] != row["part"]] + [row]
        self.save()

    def end(self, name: str, state: str, seconds: float, log: str) -> None:
        """Says what became of a stage; the log of one that went well is not kept."""
        stage = self.stage(name)
        stage["state"] = state
        stage["seconds"] = round(stage["seconds"] + seconds, 1)
        if log and state != DONE:
            stage["log"] = log.splitlines()[-60:]
        self.save()

    def save(self) -> None:
        store.write(self.path, self.content)


def read(folder: Path) -> dict[str, Any]:
    """The content of a run's file."""
    return store.read(folder / NAME, WHAT)


def errors(content: dict[str, Any]) -> list[float]:
    """The errors of all results that were compared with float64."""
    return [e for row in rows(content, "paths").values() for e in row.get("errors", {}).values()]


def best(row: Row) -> tuple[Row, float] | None:
    """The fastest candidate of a tuning row, and its time over that of the parameters in use."""
    timed = [c for c in row["candidates"] if "median" in c]
    used = next((c for c in timed if c["in_use"]), None)
    return (timed[0], timed[0]["median"] / used["median"]) if used else None


def rows(content: dict[str, Any], stage: str) -> dict[str, Row]:
    """The rows of a stage that were measured, by their parts."""
    found = content["stages"].get(stage, {}).get("rows", [])
    return {row["part"]: row for row in found if row["status"] == "ok"}
