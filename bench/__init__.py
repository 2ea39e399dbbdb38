"""Measurements of gaussreg_fast: `python -m bench --help`, from a checkout. Not in the wheel."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# Last on the path: a checkout before it would hide an installed package, which alone has the
# compiled module.
sys.path[:] = [
    *(entry for entry in sys.path if Path(entry or ".").resolve() != ROOT),
    str(ROOT),
]
