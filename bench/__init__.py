"""Measurements of gaussreg_fast: `python -m bench --help`, from a checkout. Not in the wheel.

Each folder is a room; a room imports only from rooms above it in this list:

    harness        clocks, memory, the machine, processes, result files, text for the screen
    compiled       machine code and launches of the Triton kernels
    subjects       the cases, the calls of ours and its peers, and their correctness
    simulator      the compiled kernels executed on the CPU
    report         a report on one machine: tables, plots, profiles
    check          the regression check, for users' CI
    studies        measurements that are made once and committed
    pytest_suites  the calls of all cases for pytest-benchmark
    gpu            the staged run on a GPU, in ten minutes
    tools          tables of results for the pages, runs for sanitizers

A *case* is an input, known by its name, that a command measures or executes. A *suite* is a file of
calls that are timed together: a user's for `check`, ours for pytest-benchmark. A *guard* is a loss
that keeps a latent Gaussian.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# The checkout goes last on the path: earlier, it would hide an installed package, which alone has
# the compiled module.
sys.path[:] = [
    *(entry for entry in sys.path if Path(entry or ".").resolve() != ROOT),
    str(ROOT),
]
