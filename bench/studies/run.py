"""Run a study, a measurement that is made once and committed.

    python -m bench study --list
    python -m bench study NAME [--out FILE]

A study is a module of this folder. The first line of its docstring describes it; `run(options)`
prints what it finds and returns the result, or None if there is nothing to keep. `SECONDS` is the
default of --seconds; `add_options(parser)` adds options of its own.
"""

from __future__ import annotations

import argparse
import importlib
from typing import Any

from bench.harness import machine, store
from bench.harness.options import number
from gaussreg_fast._files import user_path

STUDIES = {
    "call_overhead": "the cost of a call beside its arithmetic",
    "cpu": "the CPU kernels by instruction set, by threads, and stage by stage",
    "cpu_limits": "the CPU kernels' instructions and bytes against the processor's limits",
    "drift": "parameter drift against users' code",
    "drift_memory": "the memory of the drift of 1e9 parameters; needs 8 GB",
    "path_kl": "path KL and surrogate rewards against users' code",
    "projection": "the white-noise projection against the loss and torch",
    "noise_injection": "the effect of MPGR's loss on noise and on checkerboards",
    "learning_rates": "every guard of the checkerboard experiment at every rate",
}
MACHINE = ("device", "instruction_set", "python", "torch")  # facts that are stored with a result


def main(given: list[str]) -> int:
    if given and given[0] in STUDIES:
        return run(given[0], given[1:])
    parser = argparse.ArgumentParser(
        prog="python -m bench study",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", metavar="NAME", nargs="?", choices=STUDIES, help="Study to run.")
    parser.add_argument("--list", action="store_true", help="List the studies.")
    if not parser.parse_args(given).list:
        parser.error("NAME is required; --list shows the studies")
    for name, about in STUDIES.items():
        print(f"{name:{max(map(len, STUDIES))}}  {about}")
    return 0


def run(name: str, given: list[str]) -> int:
    """Run a study and write its result with the date and the machine, whole or not at all."""
    study = importlib.import_module(f"bench.studies.{name}")
    options = _parser(name, study).parse_args(given)
    facts = machine.facts("cpu")
    print(machine.describe(facts))
    result = study.run(options)
    if result is not None and options.out:
        about = {"date": store.today(), **{key: facts[key] for key in MACHINE}}
        store.write(options.out, {**about, **result})
    return 0


def _parser(name: str, study: Any) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m bench study {name}", description=study.__doc__.splitlines()[0]
    )
    parser.add_argument("--out", type=user_path, help="JSON file to write the result to.")
    if hasattr(study, "SECONDS"):
        about = f"Time for each case and clock. Default: {study.SECONDS:g}."
        parser.add_argument("--seconds", type=number, default=study.SECONDS, help=about)
    if hasattr(study, "add_options"):
        study.add_options(parser)
    return parser
