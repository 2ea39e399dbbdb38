"""One staged run on a GPU, with a clock: `python -m bench gpu`.

    python -m bench gpu --seconds 540 --out DIR     everything, in DIR/<device>/run.json
    python -m bench gpu --stages paths,headline     some stages
    python -m bench gpu --resume DIR                go on with the run in DIR, also in another --out
    python -m bench gpu --rehearse                  all of it without a GPU
    python -m bench gpu --show DIR                  the table of a run that is there

No stage starts that does not fit into what is left of the seconds. Rows are written as they come,
so a run that is cut off loses what it was just doing and no more. A stage that fails is recorded,
and the next begins. Exit codes: 0 all is right, 1 something failed or is wrong, 2 bad input, 130
interrupted; the table is printed in any case.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench import ROOT
from bench.errors import BadInput
from bench.gpu import programs

RESERVE = 6.0  # seconds at the end: the last stage is stopped, the table printed
GRACE = 5.0  # beyond a part's time, which its own process should keep
INSTALL_SECONDS = 150.0
FULL, SMALL = "bench.gpu.plan:FULL", "bench.gpu.plan:SMALL"


def arguments(given: list[str]) -> argparse.Namespace:
    from bench.cli import positive

    parser = argparse.ArgumentParser(
        prog="python -m bench gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    default = ROOT / "bench" / "results" / "gpu"
    parser.add_argument("--seconds", type=positive, default=540, help="for everything (540)")
    parser.add_argument("--out", type=Path, default=default, help="folder (bench/results/gpu)")
    parser.add_argument("--stages", default="", metavar="A,B", help="these stages only")
    parser.add_argument(
        "--resume", type=Path, nargs="?", const=Path(), metavar="DIR",
        help="go on with the run in DIR (in --out); a stage named by --stages is done anew",
    )  # fmt: skip
    parser.add_argument("--install", action="store_true", help="first pip install this checkout")
    parser.add_argument("--rehearse", action="store_true", help="without a GPU, on small inputs")
    parser.add_argument("--show", type=Path, metavar="DIR", help="print the table of a run")
    parser.add_argument(
        "--compile", action="store_true",
        help="only fill Triton's cache (TRITON_CACHE_DIR) with the kernels, which needs no GPU",
    )  # fmt: skip
    parser.add_argument(
        "--record",
        action="store_true",
        help="with --compile: an empty cache, and the seconds go to results/compile_seconds.json",
    )
    parser.add_argument("--plan", default="", help=argparse.SUPPRESS)
    return parser.parse_args(given)


def main(given: list[str]) -> int:
    end = time.monotonic()
    options = arguments(given)
    end += options.seconds
    if options.install:
        install()
    os.environ.pop("TRITON_INTERPRET", None)
    from bench.gpu import record, summary

    if options.show:
        print(summary.text(record.read(options.show)))
        return 0
    from bench.gpu.plan import chosen

    options.plan = options.plan or (SMALL if options.rehearse else FULL)
    names = [name for name in options.stages.split(",") if name]
    stages = chosen(options.plan, names)
    if options.compile or options.record:
        from bench.gpu import queue

        return queue.ahead(stages, options.record)
    facts = device_facts(options.rehearse)
    folder = options.out / record.slug(facts["device"])
    if options.resume is None:
        kept = record.Record.begin(folder, facts)
    else:
        before = options.resume if options.resume != Path() else folder
        kept = record.Record.resume(before, folder, facts)
    todo = [stage for stage in stages if names or not kept.done(stage.name)]
    signal.signal(signal.SIGTERM, _interrupted)
    run = Run(options, kept, facts, todo, end)
    code = 130
    try:
        for stage in todo:
            run.stage(stage)
        code = 1 if any(map(kept.failed, (stage.name for stage in stages))) else 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
    finally:
        run.close()
        print(summary.text(kept.content), flush=True)
        print(f"wrote {kept.path}")
    return code


def _interrupted(*_: Any) -> None:
    raise KeyboardInterrupt


def install() -> None:
    """Builds and installs this checkout with what is there."""
    words = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "."]
    try:
        programs.output(words, INSTALL_SECONDS)
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        raise BadInput(f"--install: {error}") from None


def device_facts(rehearse: bool) -> dict[str, Any]:
    """What is measured on.

    Raises:
        BadInput: there is no GPU, and this is no rehearsal.
    """
    import torch

    from bench import machine
    from bench.gpu.child import device

    if not rehearse and not torch.cuda.is_available():
        raise BadInput(
            "gpu measures on a GPU: torch.cuda.is_available() is False; "
            "--rehearse goes through it without one"
        )
    with device(rehearse):
        from gaussreg_fast.launch._device import arch

        facts = machine.facts("cuda")
        here = "sm_90" if rehearse else arch(torch.device("cuda", 0))
    return facts | {"arch": here}


class Run:
    """The stages one after the other, each in a process; kernels are compiled beside them."""

    def __init__(
        self,
        options: argparse.Namespace,
        kept: Any,
        facts: dict[str, Any],
        todo: list[Any],
        end: float,
    ) -> None:
        from bench.gpu import queue

        self.options, self.record, self.facts, self.end = options, kept, facts, end
        names = [stage.name for stage in todo]
        self.compiling = queue.Background(options.plan, names, facts["arch"], options.rehearse)

    def close(self) -> None:
        """Ends what runs beside, and keeps what it has done."""
        self.record.content["compiled"] = self.compiling.report()
        self.compiling.stop()
        self.record.save()

    def left(self) -> float:
        return self.end - RESERVE - time.monotonic()

    def stage(self, stage: Any) -> None:
        """One stage, if it fits into what is left."""
        from bench import store
        from bench.gpu import record

        begin = time.monotonic()
        done = self.record.start(stage.name)
        kept = self.record.stage(stage.name)
        if stage.seconds > self.left():
            state = f"not started: {self.left():.0f} s left, {stage.seconds:.0f} s expected"
            self.record.end(stage.name, state, 0.0, "")
            print(f"{stage.name}: {state}", flush=True)
            return
        kept |= {"date": store.today(), "source": record.source(), "driver": self.facts["driver"]}
        waited = self.compiling.wait(
            stage.name, min(stage.at_most / 2, self.left() - stage.seconds)
        )
        kept["waited_for_kernels"] = round(waited, 1)
        print(f"{stage.name}: {stage.title}", flush=True)
        if stage.quiet:
            self.compiling.pause()
        try:
            state, log = self._processes(stage, done, min(stage.at_most, self.left()))
        finally:
            self.compiling.go_on()
        self.record.end(stage.name, state, time.monotonic() - begin, log)
        print(f"{stage.name}: {state}, {time.monotonic() - begin:.0f} s", flush=True)

    def _processes(self, stage: Any, done: list[str], seconds: float) -> tuple[str, str]:
        """Runs a stage to its end, in a new process wherever one fails: its state and its log."""
        end, log = time.monotonic() + seconds, ""
        while True:
            process = Process(self, stage.name, done, end)
            try:
                process.listen()
            finally:
                text = process.close()
            log += text
            before, done = done, [*done, *process.ended]
            if process.parts is None or (process.parts != before and not process.ended):
                return f"FAILED: {process.how}, before its first part", log
            left = [name for name in process.parts if name not in done]
            if not left:
                return self.record.state(stage.name), log
            if time.monotonic() > end:
                return "stopped: out of time", log


class Process:
    """A stage's process, as the run sees it."""

    def __init__(self, run: Run, stage: str, skip: list[str], end: float) -> None:
        self.run, self.stage, self.end = run, stage, end
        self.parts: list[str] | None = None
        self.ended: list[str] = []  # parts of which there is a row now
        self.now, self.until, self.begun = "", end, 0.0
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
        """Takes its rows until it ends, or has taken too long."""
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
                for line in whole:
                    self._heard(json.loads(line))

    def _heard(self, message: dict[str, Any]) -> None:
        if "parts" in message:
            self.parts = message["parts"]
        elif "begin" in message:
            self.now, self.begun = message["begin"], time.monotonic()
            self.until, self.cut = self.begun + message["allowed"], message["cut"]
        else:
            self._row(message["row"])

    def _row(self, row: dict[str, Any]) -> None:
        from bench.gpu.summary import line

        self.ended.append(row["part"])
        self.now, self.until = "", self.end
        self.run.record.add(self.stage, row)
        print(f"  {line(self.stage, row)}", flush=True)

    def close(self) -> str:
        """Ends it; a part that was not finished gets its row. Returns what it printed."""
        from bench.gpu.child import late

        if not self.how:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(GRACE)
        for number in (signal.SIGTERM, signal.SIGKILL):
            programs.kill(self.process, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(2)
        self.how = self.how or programs.ending(self.process.returncode)
        if self.now:
            row = late(f"its process: {self.how}", self.late and self.cut)
            self._row({"part": self.now, **row})
        self.pipe.close()
        self.log.seek(0)
        with self.log:
            return self.log.read()
