"""The command line: `python -m bench COMMAND`.

Exit codes: 0 done; 1 a wrong result, a difference or a regression; 2 bad input; 3 the machine lacks
memory, disk or a device; 130 interrupted; 70 a mistake in the program.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.harness.errors import Wrong
from bench.harness.options import number, positive, tolerance
from gaussreg_fast._exit_codes import Exit, exit_code
from gaussreg_fast._files import user_path

# Commands with a module of their own, called as `main(arguments)`. It is imported late, because
# most need Triton. Those that `FORWARDED` does not describe are started by other commands.
MODULES = {
    "study": "bench.studies.run",
    "resources": "bench.compiled.kernel_resources",
    "launches": "bench.compiled.launches",
    "simulate": "bench.simulator.simulate",
    "counters": "bench.simulator.counters",
    "gpu": "bench.gpu.run",
    "gpu-stage": "bench.gpu.child",
    "gpu-compile": "bench.gpu.compile_ahead",
    "sanitize": "bench.tools.sanitize",
    "sanitize-native": "bench.tools.sanitize_native",
    "sanitize-threads": "bench.tools.sanitize_threads",
    "readme": "bench.tools.readme",
}
FORWARDED = {
    "study": "Run one of the measurements that are made once and committed.",
    "resources": "Compile the Triton kernels; compare registers and instructions with the record.",
    "launches": "Count kernel launches and bytes per call; compare them with the record.",
    "simulate": "Execute the compiled Triton kernels on the CPU: numbers, races, bounds.",
    "counters": "Count what the executed kernels do; compare with the record; bound it on a GPU.",
    "gpu": "Measure a GPU in ten minutes, in stages with a clock.",
    "sanitize": "Run every kernel at small sizes, for compute-sanitizer.",
    "sanitize-native": "Run the native backend's tests on a module built with sanitizers.",
    "sanitize-threads": "Run the native backend's threads under ThreadSanitizer.",
    "readme": "Write the tables of results into README.md and docs/.",
}


def main(given: list[str] | None = None) -> int:
    """Run a command. An error that a user can mend is one line, not a traceback."""
    words = sys.argv[1:] if given is None else given
    return exit_code(lambda: _run(words))


def _run(given: list[str]) -> int:
    try:
        if given and given[0] in MODULES:
            return int(importlib.import_module(MODULES[given[0]]).main(given[1:]))
        internal = bool(given) and given[0] in INTERNAL
        options = _parser(internal).parse_args(given)
        return int(options.run(options))
    except Wrong as error:
        print(f"FAILED: a result is wrong, nothing was timed: {error}", file=sys.stderr)
        return Exit.NO


def _parser(internal: bool = False) -> argparse.ArgumentParser:
    """Return the parser of the public commands, or of those that other commands start."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for add in (INTERNAL if internal else PUBLIC).values():
        add(commands)
    for name, about in FORWARDED.items():
        commands.add_parser(name, help=about)
    return parser


def _command(
    commands: argparse._SubParsersAction, name: str, about: str
) -> argparse.ArgumentParser:
    """Add a command, described alike in the list of commands and in its own help."""
    return commands.add_parser(name, help=about, description=about)


def _threads(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--threads",
        type=positive,
        default=1,
        metavar="N",
        help="Threads of torch on the CPU. Default: 1.",
    )


def _out_folder(parser: argparse.ArgumentParser) -> None:
    about = "Folder to write. Default: bench-out."
    parser.add_argument("--out", type=user_path, default=Path("bench-out"), help=about)


def _report(commands: argparse._SubParsersAction) -> None:
    parser = _command(commands, "report", "Measure everything on this machine.")
    add = parser.add_argument
    _out_folder(parser)
    add("--quick", action="store_true", help="Measure fewer cases, in under a minute.")
    add("--only", default="", metavar="TEXT", help="Measure only parts whose name contains TEXT.")
    add("--minutes", type=number, default=0.0, help="Time for everything, instead of the default.")
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="Resume an interrupted run.")
    again.add_argument("--restart", action="store_true", help="Replace an interrupted run.")
    _threads(parser)

    def run(options: argparse.Namespace) -> int:
        from bench.report import run as report

        names = ("quick", "threads", "only", "resume", "restart", "minutes")
        return report.main(options.out, **{name: getattr(options, name) for name in names})

    parser.set_defaults(run=run)


def _profile(commands: argparse._SubParsersAction) -> None:
    parser = _command(commands, "profile", "Show where the time of one case goes.")
    add = parser.add_argument
    add("--case", required=True, help="Case LATENT-BATCH..., such as sd-16.")
    add("--call", default="value_and_grad", help="Call of the case. Default: value_and_grad.")
    _out_folder(parser)
    add("--bare", action="store_true", help="Only run the call, under an outer profiler.")
    add("--repeats", type=positive, default=20, help="Number of calls. Default: 20.")
    _threads(parser)

    def run(options: argparse.Namespace) -> int:
        from bench.report import profiling

        names = ("case", "call", "out", "bare", "repeats", "threads")
        return profiling.main(**{name: getattr(options, name) for name in names})

    parser.set_defaults(run=run)


def _check(commands: argparse._SubParsersAction) -> None:
    parser = _command(commands, "check", "Compare with a baseline; exit code 1 means a regression.")
    _timing_options(parser, "check")
    _processes(parser)
    _check_options(parser.add_argument)


def _record(commands: argparse._SubParsersAction) -> None:
    parser = _command(commands, "record", "Measure a baseline.")
    _timing_options(parser, "record")
    _processes(parser)
    about = "File to write. By default the one of this device."
    parser.add_argument("--out", type=user_path, help=about)


def _sample(commands: argparse._SubParsersAction) -> None:
    """Add the command that times the calls in one process, for `check` and `record`."""
    parser = commands.add_parser("sample")
    _timing_options(parser, "sample")
    parser.add_argument("--turn", type=int, default=0)
    parser.add_argument("--verify", action="store_true")
    parser.add_argument("--exactly", action="append", default=[])
    parser.add_argument("--answer", type=Path, required=True)


def _timing_options(parser: argparse.ArgumentParser, name: str) -> None:
    """Add the options of the commands that time a suite's calls, and run the named one."""
    add = parser.add_argument
    add("--suite", type=user_path, help="Python file with calls of your own.")
    add("--only", default="", metavar="TEXT", help="Time only calls whose name contains TEXT.")
    add("--seconds", type=number, default=0.6, help="Time per call and process. Default: 0.6.")
    _threads(parser)

    def run(options: argparse.Namespace) -> int:
        from bench.check import regression

        return regression.COMMANDS[name](options)

    parser.set_defaults(run=run)


def _processes(parser: argparse.ArgumentParser) -> None:
    about = "Number of processes. Default: 12 for a baseline, 6 for a comparison."
    parser.add_argument("--processes", type=positive, default=0, metavar="N", help=about)


def _check_options(add: Callable[..., Any]) -> None:
    add("--baseline", type=user_path, help="File that `record` wrote.")
    add(
        "--tolerance",
        type=tolerance,
        default=0.1,
        help="Slowdown that is allowed, such as 10%% or 0.1. Default: 10%%.",
    )
    add(
        "--kernels",
        nargs="?",
        const="",
        metavar="TEXT",
        help="Compare registers, instructions and launches, of names that contain TEXT.",
    )
    add("--out", type=user_path, help="JSON file to write the comparison to.")


def _render(commands: argparse._SubParsersAction) -> None:
    parser = _command(commands, "render", "Write report.md and plots from a report.json.")
    parser.add_argument("folder", type=user_path, help="Folder with the report.json.")

    def run(options: argparse.Namespace) -> int:
        from bench.harness import store
        from bench.report import tables

        content = store.read(options.folder / store.NAME, "report")
        for path in tables.write_all(content, options.folder):
            print(f"wrote {path}")
        return 0

    parser.set_defaults(run=run)


def _cases(commands: argparse._SubParsersAction) -> None:
    parser = _command(commands, "cases", "List the cases.")

    def run(_: argparse.Namespace) -> int:
        from bench.harness import machine
        from bench.subjects import cases

        for case in cases.of_report(machine.device()):
            print(f"{case.name:24} {case.batch} x {case.dimension}")
        return 0

    parser.set_defaults(run=run)


def _prepare(commands: argparse._SubParsersAction) -> None:
    """Add the command that fills compilers' caches, for `report` and `gpu`."""
    parser = commands.add_parser("prepare")
    parser.add_argument("name")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--rehearse", action="store_true")

    def run(options: argparse.Namespace) -> int:
        from bench.gpu import programs
        from bench.gpu.child import device
        from bench.subjects import prepare

        programs.end_with_parent()
        with device(options.rehearse):
            return prepare.case(options.name, options.compile)

    parser.set_defaults(run=run)


AddCommand = Callable[[argparse._SubParsersAction], None]
PUBLIC: dict[str, AddCommand] = {
    "report": _report,
    "profile": _profile,
    "check": _check,
    "record": _record,
    "render": _render,
    "cases": _cases,
}
# Started by other commands, so that neither the help nor an error lists them.
INTERNAL: dict[str, AddCommand] = {"sample": _sample, "prepare": _prepare}
