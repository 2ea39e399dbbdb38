"""The options of both `simulate` and `counters`, and the choice of cases."""

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
    """Return a parser with --only, --kernel, --triton and --jobs."""
    result = argparse.ArgumentParser(
        prog=f"python -m bench {command}",
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # because `other_triton` finds --triton by its full name
    )
    add = result.add_argument
    add("--only", default="", metavar="REGEX", help="Run only cases whose name matches.")
    add(
        "--kernel", metavar="MODULE:FUNCTION", help="Run a function of yours that launches kernels."
    )
    other_triton.add_option(result)
    add(
        "--jobs",
        type=positive,
        default=os.cpu_count() or 1,
        metavar="N",
        help="Number of processes. By default one for each processor.",
    )
    return result


def chosen(cases: Iterable[Case], only: str) -> list[Case]:
    """Return the cases whose name matches.

    Raises:
        BadInput: no name matches, or `only` is no regular expression.
    """
    try:
        found = [case for case in cases if re.search(only, str(case))]
    except re.error as error:
        raise BadInput(f"--only must be a regular expression, got {only!r}: {error}") from None
    if not found:
        raise BadInput(f"--only: no case matches {only!r}; simulate --list shows the cases")
    return found
