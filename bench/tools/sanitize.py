"""Run every kernel once or twice at small sizes, for compute-sanitizer: see `make sanitize`.

python -m bench sanitize [--rehearse] [D ...]
"""

from __future__ import annotations

import argparse
import os

import torch

from bench.harness.errors import Wrong
from bench.subjects.every_kernel import DIMENSIONS, every_call
from gaussreg_fast._exit_codes import Exit
from gaussreg_fast.errors import MachineError


def _check(dimension: int, results: list[torch.Tensor]) -> None:
    """Raise Wrong if a number is not finite."""
    if not all(bool(tensor.cpu().isfinite().all()) for tensor in results):
        raise Wrong(f"D = {dimension}: not finite")


def rehearse(dimensions: list[int]) -> int:
    """Run in the simulator, which finds the same kinds of errors; return the exit code."""
    from bench.gpu.rehearsal import rehearsed

    errors: list[str] = []
    for dimension in dimensions:
        with rehearsed() as device:
            _check(dimension, every_call(dimension))
        errors += device.errors()
        print(f"D = {dimension}: {device.launches} launches", flush=True)
    print("\n".join(errors))
    return Exit.NO if errors else Exit.DONE


def main(given: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench sanitize", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument(
        "dimensions", type=int, nargs="*", default=list(DIMENSIONS), metavar="D",
        help="Sizes of a sample. By default one of each kind.",
    )  # fmt: skip
    parser.add_argument(
        "--rehearse", action="store_true", help="Run in the simulator, without a GPU."
    )
    options = parser.parse_args(given)
    os.environ.pop("TRITON_INTERPRET", None)
    if options.rehearse:
        return rehearse(options.dimensions)
    if not torch.cuda.is_available():
        raise MachineError("sanitize needs a GPU, but torch.cuda.is_available() is False")
    for dimension in options.dimensions:
        _check(dimension, every_call(dimension))
        torch.cuda.synchronize()
        print(f"D = {dimension}: ran", flush=True)
    return 0
