"""The command line: `python -m bench COMMAND`.

Exit codes: 0 fine, 1 a wrong result or a regression, 2 bad input, 130 interrupted.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

from bench.harness.errors import BadInput, Wrong
from bench.harness.options import number, positive, tolerance

# Commands with a module of their own, `main(arguments)`, which is imported when it is called: most
# need Triton. Those without a description are started by other commands.
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
    "readme": "bench.tools.readme",
}
FORWARDED = {
    "study": "one of the measurements that are made once and committed",
    "resources": "what the Triton kernels compile to, against the committed numbers",
    "launches": "kernel launches and bytes per call, against the committed numbers",
    "simulate": "execute the compiled Triton kernels on the CPU: numbers, races, bounds",
    "counters": "what executed kernels do, against the committed numbers; bounds on a GPU",
    "gpu": "everything that a GPU can say in ten minutes, in stages with a clock",
    "sanitize": "every kernel at small sizes, for compute-sanitizer",
    "sanitize-native": "the native backend's tests on a module built with sanitizers",
    "readme": "put the tables of results into README.md and docs/",
}


def main(given: list[str] | None = None) -> int:
    """Runs a command; what a user can mend is one line, never a traceback."""
    given = sys.argv[1:] if given is None else given
    try:
        if given and given[0] in MODULES:
            return int(importlib.import_module(MODULES[given[0]]).main(given[1:]))
        options = _parser().parse_args(given)
        return options.run(options)
    except BadInput as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Wrong as error:
        print(f"FAILED: a result is wrong, nothing was timed: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: {error.filename or 'output'}: {error.strerror or error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _report(commands)
    _profile(commands)
    _check(commands)
    _others(commands)
    for name, about in FORWARDED.items():
        commands.add_parser(name, help=about)
    return parser


def _threads(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--threads", type=positive, default=1, metavar="N", help="of torch on the CPU (default 1)"
    )


def _report(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("report", help="measure everything on this machine")
    parser.add_argument("--out", type=Path, default=Path("bench-out"), help="folder (bench-out)")
    parser.add_argument("--quick", action="store_true", help="fewer cases: under a minute")
    parser.add_argument("--only", default="", metavar="TEXT", help="parts whose name contains this")
    parser.add_argument("--minutes", type=number, default=0.0, help="instead of the usual budget")
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="resume an interrupted run")
    again.add_argument("--restart", action="store_true", help="measure anew what was interrupted")
    _threads(parser)

    def run(options: argparse.Namespace) -> int:
        from bench.report import run as report

        names = ("quick", "threads", "only", "resume", "restart", "minutes")
        return report.main(options.out, **{name: getattr(options, name) for name in names})

    parser.set_defaults(run=run)


def _profile(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("profile", help="where the time of one case goes")
    parser.add_argument("--case", required=True, help="LATENT-BATCH..., as in sd-16")
    parser.add_argument("--call", default="value_and_grad", help="which call of it")
    parser.add_argument("--out", type=Path, default=Path("bench-out"), help="folder (bench-out)")
    parser.add_argument("--bare", action="store_true", help="only run it, for an outer profiler")
    parser.add_argument("--repeats", type=positive, default=20, help="calls (default 20)")
    _threads(parser)

    def run(options: argparse.Namespace) -> int:
        from bench.report import profiling

        names = ("case", "call", "out", "bare", "repeats", "threads")
        return profiling.main(**{name: getattr(options, name) for name in names})

    parser.set_defaults(run=run)


def _check(commands: argparse._SubParsersAction) -> None:
    for name, about in (
        ("check", "compare with a baseline: exit code 1 for a regression"),
        ("record", "measure a baseline"),
        ("sample", argparse.SUPPRESS),
    ):
        parser = commands.add_parser(name, **({} if name == "sample" else {"help": about}))
        parser.add_argument("--suite", type=Path, help="a Python file with calls of your own")
        parser.add_argument("--only", default="", metavar="TEXT", help="calls whose name has this")
        parser.add_argument("--seconds", type=number, default=0.6, help="per call and process")
        _threads(parser)
        if name == "check":
            parser.add_argument("--baseline", type=Path, help="what `record` wrote")
            parser.add_argument("--tolerance", type=tolerance, default=0.1, help="10%% or 0.1")
            parser.add_argument(
                "--kernels", nargs="?", const="", metavar="TEXT",
                help="compare registers, instructions, launches (of names with this TEXT)",
            )  # fmt: skip
            parser.add_argument("--out", type=Path, help="write the comparison here, as JSON")
        elif name == "record":
            parser.add_argument("--out", type=Path, help="file (default: of this device)")
        if name == "sample":
            parser.add_argument("--turn", type=int, default=0)
            parser.add_argument("--verify", action="store_true")
            parser.add_argument("--exactly", action="append", default=[])
        else:
            parser.add_argument("--processes", type=positive, default=0, metavar="N")

        def run(options: argparse.Namespace, name: str = name) -> int:
            from bench.check import regression

            return regression.COMMANDS[name](options)

        parser.set_defaults(run=run)


def _others(commands: argparse._SubParsersAction) -> None:
    render = commands.add_parser("render", help="report.md and plots of a report.json")
    render.add_argument("folder", type=Path)

    def rendered(options: argparse.Namespace) -> int:
        from bench.harness import store
        from bench.report import tables

        content = store.read(options.folder / store.NAME, "report")
        for path in tables.write_all(content, options.folder):
            print(f"wrote {path}")
        return 0

    render.set_defaults(run=rendered)

    listing = commands.add_parser("cases", help="list the cases")

    def listed(_: argparse.Namespace) -> int:
        from bench.harness import machine
        from bench.subjects import cases

        for case in cases.listed(machine.device()):
            print(f"{case.name:24} {case.batch} x {case.dimension}")
        return 0

    listing.set_defaults(run=listed)

    prepare = commands.add_parser("prepare")
    prepare.add_argument("name")
    prepare.add_argument("--compile", action="store_true")
    prepare.add_argument("--rehearse", action="store_true")

    def prepared(options: argparse.Namespace) -> int:
        from bench.gpu import programs
        from bench.gpu.child import device
        from bench.subjects import prepare

        programs.end_with_parent()
        with device(options.rehearse):
            return prepare.case(options.name, options.compile)

    prepare.set_defaults(run=prepared)
