"""Check that this checkout's kernels are installed and that the interpreter can be built."""

from __future__ import annotations

from pathlib import Path

from bench import ROOT
from bench.harness.errors import BadInput
from bench.simulator.core import CompilerMissing, ready


def ready_to_run() -> None:
    """Build the interpreter if needed, and compare the installed kernels with the checkout's.

    Raises:
        BadInput: there is no compiler, or the installed kernels differ from the checkout's.
    """
    import gaussreg_fast.kernels

    folders = [Path(folder) for folder in gaussreg_fast.kernels.__path__]
    for path in sorted((ROOT / "kernels").glob("*.py")):
        here = path.read_bytes()
        if not any(
            (f / path.name).is_file() and (f / path.name).read_bytes() == here for f in folders
        ):
            raise BadInput(
                f"{path} differs from the installed package's ({folders[0] / path.name}): install "
                "this checkout with pip install --no-deps ."
            )
    try:
        ready()
    except CompilerMissing as error:
        raise BadInput(str(error)) from None
