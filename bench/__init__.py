"""Measurements of gaussreg_fast: `python -m bench --help`, from a checkout. Not in the wheel.

Each folder is a room; a room imports only from rooms above it in this list:

    harness        clocks, memory, the machine, result files, text for the screen
    compiled       what the Triton kernels compile to and launch
    subjects       what is measured: cases, ours and its peers, and whether they are right
    simulator      the compiled kernels executed on the CPU
    report         a whole machine measured: tables, plots, profiles
    check          the regression check, for users' CI
    studies        the measurements that are made once and committed
    pytest_suites  the calls of all cases for pytest-benchmark
    gpu            all that a GPU can say in ten minutes
    tools          pages made of results, sanitizers

A *case* is what a command measures or executes, found by its name. A *suite* is a file of calls
that are timed together: a user's for `check`, ours for pytest-benchmark. A *guard* is a loss that
keeps a latent Gaussian.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# Last on the path: a checkout before it would hide an installed package, which alone has the
# compiled module.
sys.path[:] = [
    *(entry for entry in sys.path if Path(entry or ".").resolve() != ROOT),
    str(ROOT),
]
