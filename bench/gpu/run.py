"""Measure a GPU in ten minutes, in stages with a clock.

    python -m bench gpu --seconds 540 --out DIR     measure everything, into DIR/<device>/run.json
    python -m bench gpu --stages routes,headline    measure some stages
    python -m bench gpu --resume                    measure what the run in --out lacks
    python -m bench gpu --resume OLD --out NEW      do the same if OLD cannot be written
    python -m bench gpu --rehearse                  go through everything without a GPU
    python -m bench gpu --show DIR/<device>         print the table of a run

A stage starts only if it fits into the remaining seconds. Every row is saved at once: a run that is
killed loses only the row that it was measuring. A stage that fails is recorded, and the next one
begins. The table is printed in any case.

Exit codes: 0 everything was measured and is right; 1 something failed, is wrong, or is missing
because time was up (the table says which; --resume measures it); 2 bad input; 3 there is no GPU, or
the disk is full; 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import ROOT
from bench.harness.errors import BadInput
from gaussreg_fast._exit_codes import Exit
from gaussreg_fast._files import user_path
from gaussreg_fast.errors import MachineError

if TYPE_CHECKING:
    from bench.gpu.record import Record
    from bench.gpu.stage import Stage

RESERVE = 6.0  # seconds at the end, to stop the last stage and print the table
FULL, SMALL = "bench.gpu.plan:FULL", "bench.gpu.plan:SMALL"
RESULTS = ROOT / "bench" / "results" / "gpu"

INSTALLED = "GAUSSREG_BENCH_INSTALLED"  # when the run began, and what `install` returned


def arguments(given: list[str]) -> argparse.Namespace:
    from bench.harness.options import positive

    parser = argparse.ArgumentParser(
        prog="python -m bench gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--seconds", type=positive, default=540, help="Time for everything. Default: 540.")
    add(
        "--out",
        type=user_path,
        help="Folder of results. Default: bench/results/gpu, or build with --rehearse.",
    )
    add(
        "--stages", default="", metavar="A,B", help="Measure only these stages, even finished ones."
    )
    again = parser.add_mutually_exclusive_group()
    again.add_argument(
        "--resume", type=user_path, nargs="?", const=Path(), metavar="DIR",
        help="Measure what the run in DIR lacks. Default: the run in --out.",
    )  # fmt: skip
    again.add_argument("--restart", action="store_true", help="Replace the run in --out.")
    add("--install", action="store_true", help="Install this checkout with pip first.")
    add("--rehearse", action="store_true", help="Go through it without a GPU, on small inputs.")
    add("--show", type=user_path, metavar="DIR", help="Print the table of a run and stop.")
    add(
        "--compile", action="store_true",
        help="Fill Triton's cache (TRITON_CACHE_DIR) with all kernels and stop. Needs no GPU.",
    )  # fmt: skip
    add(
        "--record", action="store_true",
        help="With --compile, use an empty cache and write results/compile_seconds.json.",
    )  # fmt: skip
    add("--plan", default="", help=argparse.SUPPRESS)
    return parser.parse_args(given)


def main(given: list[str]) -> int:
    begin = time.monotonic()
    options = arguments(given)
    if options.record and not options.compile:
        raise BadInput("--record needs --compile")
    names = [name for name in options.stages.split(",") if name]
    if options.stages and not names:
        raise BadInput(f"--stages must name at least one stage, got {options.stages!r}")
    if options.install and INSTALLED not in os.environ:
        # Start again: what this process has loaded is the checkout's package, without the kernels.
        os.environ[INSTALLED] = json.dumps([begin, install()])
        os.execv(sys.executable, [sys.executable, "-m", "bench", "gpu", *given])
    begin, installed = json.loads(os.environ.pop(INSTALLED, json.dumps([begin, None])))
    os.environ.pop("TRITON_INTERPRET", None)
    from bench.gpu import record, summary
    from bench.gpu.plan import chosen

    if options.show:
        print(summary.text(record.read(options.show)))
        return 0
    options.plan = options.plan or (SMALL if options.rehearse else FULL)
    options.out = options.out or (ROOT / "build" if options.rehearse else RESULTS)
    stages = chosen(options.plan, names)
    if options.compile:
        from bench.gpu import compile_ahead

        return compile_ahead.ahead(stages, options.record)
    facts = device_facts(options.rehearse)
    folder = options.out / record.slug(facts["device"])
    if options.resume is None:
        saved = record.Record.begin(folder, facts, options.restart)
    else:
        before = options.resume if options.resume != Path() else folder
        saved = record.Record.resume(before, folder, facts)
    if installed:
        saved.content["install"] = installed
    todo = [stage for stage in stages if names or not saved.done(stage.name)]
    with saved.locked():
        return measure(options, saved, facts, todo, begin + options.seconds)


def measure(
    options: argparse.Namespace,
    saved: Record,
    facts: dict[str, Any],
    todo: list[Stage],
    end: float,
) -> int:
    """Run the stages, print the table whatever happens, and return the exit code."""
    from bench.gpu import summary

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupted)
    run = Run(options, saved, facts, todo, end)
    code = Exit.INTERRUPTED
    try:
        for stage in todo:
            run.stage(stage)
        names = [stage.name for stage in todo]
        right = all(map(saved.done, names)) and not any(map(saved.failed, names))
        code = Exit.DONE if right else Exit.NO
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
    finally:
        run.close()
        print(summary.text(saved.content), flush=True)
        print(f"wrote {saved.path}")
    return code


def _interrupted(*_: Any) -> None:
    raise KeyboardInterrupt


def install() -> dict[str, Any]:
    """Build and install this checkout with installed tools; return its seconds and any failure.

    After a failure the Python sources and the kernels are copied into a folder instead, which is
    all that a GPU needs.
    """
    begin = time.monotonic()
    words = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "."]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    found: dict[str, Any] = {"seconds": round(time.monotonic() - begin, 1)}
    if done.returncode:
        found["failed"] = (done.stdout + done.stderr).strip()[-500:]
        print(f"install failed, Python sources are used without it: {found['failed']}")
        _copy_package(Path(tempfile.mkdtemp(prefix="gaussreg-fast-")))
    return found


def _copy_package(folder: Path) -> None:
    """Copy the package to a folder, first on the path of this process and of those it starts."""
    import shutil

    shutil.copytree(ROOT / "gaussreg_fast", folder / "gaussreg_fast")
    shutil.copytree(ROOT / "kernels", folder / "gaussreg_fast" / "kernels")
    sys.path.insert(0, str(folder))
    path = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = f"{folder}:{path}" if path else str(folder)


def device_facts(rehearse: bool) -> dict[str, Any]:
    """Return facts about the device and the machine.

    Raises:
        MachineError: there is no GPU, and this is no rehearsal.
    """
    import torch

    from bench.gpu.child import device
    from bench.harness import machine

    if not rehearse and not torch.cuda.is_available():
        raise MachineError(
            "gpu needs a GPU, but torch.cuda.is_available() is False; --rehearse goes through the "
            "run without one"
        )
    with device(rehearse):
        from gaussreg_fast.backends.triton import _device

        facts = machine.facts("cuda")
        here = "sm_90" if rehearse else _device.arch(torch.device("cuda", 0))
    return facts | {"arch": here}


class Run:
    """Runs the stages one after the other, each in a process, and compiles kernels beside them."""

    def __init__(
        self,
        options: argparse.Namespace,
        saved: Record,
        facts: dict[str, Any],
        todo: list[Stage],
        end: float,
    ) -> None:
        from bench.gpu import queue, record

        self.options, self.record, self.end = options, saved, end
        self.about = {"source": record.source(), "driver": facts["driver"]}
        self.interrupted = False
        names = [stage.name for stage in todo]
        self.compiling = queue.Background(options.plan, names, facts["arch"], options.rehearse)

    def close(self) -> None:
        """End the compiling process, and save its results."""
        found, before = self.compiling.report(), self.record.content.get("compiled", {})
        self.record.content["compiled"] = found | {
            "seconds": before.get("seconds", {}) | found["seconds"]
        }
        self.compiling.stop()
        self.record.save()

    def left(self) -> float:
        return self.end - RESERVE - time.monotonic()

    def stage(self, stage: Stage) -> None:
        """Run one stage, if it fits into the remaining time."""
        if stage.seconds > self.left():
            state = f"not started: {self.left():.0f} s left, {stage.seconds:.0f} s expected"
            if not self.record.stage(stage.name)["rows"]:
                self.record.end(stage.name, state, 0.0, "")
            print(f"{stage.name}: {state}", flush=True)
            return
        begin = time.monotonic()
        done = self.record.start(stage.name)
        end = begin + min(stage.at_most, self.left())
        waited = self.compiling.wait(stage.name, end - begin - stage.seconds)
        self.record.stage(stage.name)["waited_for_kernels"] = round(waited, 1)
        print(f"{stage.name}: {stage.title}", flush=True)
        state, log = "interrupted", ""
        if stage.quiet:
            self.compiling.pause()
        try:
            state, log = self._processes(stage.name, done, end)
        finally:
            self.compiling.resume()
            self.record.end(stage.name, state, time.monotonic() - begin, log)
        print(f"{stage.name}: {state}, {time.monotonic() - begin:.0f} s", flush=True)

    def _processes(self, stage: str, done: list[str], end: float) -> tuple[str, str]:
        """Run a stage to its end, in a new process after each failure; return its state and log."""
        from bench.gpu.process import Process

        log = ""
        while True:
            process = Process(self, stage, done, end)
            try:
                process.listen()
            except KeyboardInterrupt:
                self.interrupted = True
                raise
            finally:
                log += process.close()
            done = [*done, *process.ended]
            if process.parts is None:
                return f"FAILED: {process.how}, before its first part", log
            if not set(process.parts) - set(done):
                return self.record.state(stage), log
            if time.monotonic() > end:
                return "stopped: out of time", log
            if not process.ended:
                return f"FAILED: {process.how}, between its parts", log
