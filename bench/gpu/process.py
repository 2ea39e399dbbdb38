"""The run's handle on a stage's process: start it, take its rows, end it."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING, Any

from bench import ROOT
from bench.gpu import programs
from bench.gpu.child import timeout
from bench.gpu.summary import line
from bench.harness.child import describe_exit

if TYPE_CHECKING:
    from bench.gpu.run import Run
    from bench.gpu.stage import Row

GRACE = 5.0  # seconds beyond a part's time limit, which its own process should keep


class Process:
    """The run's handle on a stage's process."""

    def __init__(self, run: Run, stage: str, skip: list[str], end: float) -> None:
        self.run, self.stage, self.end = run, stage, end
        self.parts: list[str] | None = None
        self.ended: list[str] = []  # parts that have a row now
        self.now, self.until, self.begun = "", end, time.monotonic()
        self.how, self.late, self.cut = "", False, False
        read, write = os.pipe()
        words = ["--plan", run.options.plan, "--stage", stage, "--skip", json.dumps(skip)]
        words += ["--seconds", f"{end - time.monotonic():.1f}", "--pipe", str(write)]
        words += ["--finished", str(run.compiling.finished)]
        words += ["--rehearse"] if run.options.rehearse else []
        self.log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        self.process: subprocess.Popen[str] = subprocess.Popen(
            [sys.executable, "-m", "bench", "gpu-stage", *words],
            stdout=self.log, stderr=self.log, text=True, cwd=ROOT, pass_fds=(write,),
            start_new_session=True,
        )  # fmt: skip
        os.close(write)
        self.pipe = os.fdopen(read, "rb", buffering=0)
        self.rest = b""

    def listen(self) -> None:
        """Take rows until the process ends or has taken too long."""
        with selectors.DefaultSelector() as selector:
            selector.register(self.pipe, selectors.EVENT_READ)
            while True:
                wait = min(self.until, self.end) + GRACE - time.monotonic()
                if wait <= 0:
                    self.how = f"stopped after {time.monotonic() - self.begun:.0f} s"
                    self.late = True
                    break
                if not selector.select(wait):
                    continue
                data = self.pipe.read(1 << 16)
                if not data:
                    break
                *whole, self.rest = (self.rest + data).split(b"\n")
                for text in whole:
                    self._receive(json.loads(text))

    def _receive(self, message: dict[str, Any]) -> None:
        if "parts" in message:
            self.parts = message["parts"]
        elif "begin" in message:
            self.now, self.begun = message["begin"], time.monotonic()
            self.until, self.cut = self.begun + message["allowed"], message["cut"]
        else:
            self._add_row(message["row"])

    def _add_row(self, row: Row) -> None:
        self.ended.append(row["part"])
        self.now, self.until = "", self.end
        self.run.record.add(self.stage, row | self.run.about)
        print(f"  {line(self.stage, row)}", flush=True)

    def close(self) -> str:
        """End the process, add a row for an unfinished part, and return the printed text."""
        if not self.how and not self.run.interrupted:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(GRACE)
        for number in (signal.SIGTERM, signal.SIGKILL):
            programs.kill(self.process, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(2)
        self.how = self.how or describe_exit(self.process.returncode)
        if self.now:
            cut = (self.late and self.cut) or self.run.interrupted
            how = "the run was interrupted" if self.run.interrupted else self.how
            self._add_row({"part": self.now, **timeout(f"its process: {how}", cut)})
        self.pipe.close()
        self.log.seek(0)
        with self.log:
            return self.log.read()
