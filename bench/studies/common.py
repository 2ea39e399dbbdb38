"""What the smaller measurements share: the command line, the result file, the best of a call."""

from __future__ import annotations

import argparse
import math
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from bench.harness import store
from bench.harness.timing import CpuClock


def parser(doc: str | None) -> argparse.ArgumentParser:
    """A command line with --out, described by the first line of a module's docstring."""
    result = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    result.add_argument("--out", type=Path, help="write JSON here")
    return result


def save(out: Path | None, **content: Any) -> None:
    """Writes a result with its date, device and versions, whole or not at all."""
    if out is None:
        return
    about = {
        "date": store.today(),
        "device": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    store.write(out, {**about, **content})


def best_times(calls: dict[str, Callable[[], Any]], seconds: float) -> dict[str, float]:
    """Microseconds a call, the best sample of each; the calls take turns."""
    indexed = {name: lambda _, call=call: call() for name, call in calls.items()}
    samples = CpuClock.timed(indexed, 1, seconds, patience=math.inf).samples
    return {name: min(each) for name, each in samples.items()}
