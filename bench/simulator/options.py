"""What the commands `simulate` and `counters` share: options, and the cases that they choose."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterable

from bench.harness.errors import BadInput
from bench.harness.options import positive
from bench.simulator import other_triton
from bench.simulator.cases import Case


def parser(command: str, doc: str | None) -> argparse.ArgumentParser:
    """A command line with --only, --kernel, --triton and --jobs."""
    result = argparse.ArgumentParser(
        prog=f"python -m bench {command}",
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # --triton must be found by its name: see `other_triton`
    )
    result.add_argument("--only", default="", metavar="REGEX", help="cases whose name matches")
    result.add_argument("--kernel", metavar="MODULE:FUNCTION", help="a function that launches")
    other_triton.add_option(result)
    result.add_argument("--jobs", type=positive, default=os.cpu_count() or 1, help="processes")
    return result


def chosen(cases: Iterable[Case], only: str) -> list[Case]:
    """The cases whose name matches.

    Raises:
        BadInput: none does, or `only` is no regular expression.
    """
    try:
        found = [case for case in cases if re.search(only, str(case))]
    except re.error as error:
        raise BadInput(f"--only: {only!r} is no regular expression: {error}") from None
    if not found:
        raise BadInput(f"--only: no case matches {only!r}; simulate --list shows the cases")
    return found
