"""What the measurements share: the command line, the result file, and taking turns."""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gaussreg_fast.latent.files import atomic_path, json_text


def parser(doc: str | None) -> argparse.ArgumentParser:
    """A command line with --out, described by the first line of a module's docstring."""
    result = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    result.add_argument("--out", type=Path, help="write JSON here")
    return result


def save(out: Path | None, **content: Any) -> None:
    """Writes a result with its date, device and versions, whole or not at all."""
    if out is None:
        return
    result = {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "device": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        **content,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(out) as temporary:
        temporary.write_text(json_text(result) + "\n", encoding="utf-8")


def best_times(calls: dict[str, Callable[[], Any]], rounds: int, repeats: int) -> dict[str, float]:
    """Microseconds a call, best round; the calls take turns so that noise hits all alike."""
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(rounds):
        for name, call in calls.items():
            for _ in range(min(20, repeats)):
                call()
            begin = time.perf_counter()
            for _ in range(repeats):
                call()
            best[name] = min(best[name], (time.perf_counter() - begin) / repeats * 1e6)
    return best


def with_backward(loss: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[], None]:
    """A call of the loss and its backward, from no gradient."""

    def call() -> None:
        x.grad = None
        loss(x).sum().backward()

    return call
