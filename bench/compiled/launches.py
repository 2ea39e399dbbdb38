"""Count a call's kernel launches, and the bytes and operations that these report.

The calls are made in front of a pretended device, where no kernel runs, so that their counts can be
recorded in a file and compared exactly:

    python -m bench launches --check      compare with the committed numbers; exit 1 if they differ
    python -m bench launches --out FILE   write them

Bytes and operations are the kernels' own launch metadata (kernels/metadata.py). torch's operators
are counted too, because on a device each is a launch and their results are a call's allocations;
the ones that make the call's own inputs are included. Drawing the seed and the mean over the batch
are not included, because they happen above `gaussreg_fast.backends.triton`.
"""

from __future__ import annotations

import argparse
import contextlib
import inspect
import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from unittest import mock

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from bench import ROOT
from bench.compiled.kernel_calls import KernelCall
from bench.compiled.kernel_resources import changes
from bench.compiled.pretended import ARCHS, pretended
from bench.harness import store
from bench.harness.text import columns
from gaussreg_fast._exit_codes import Exit
from gaussreg_fast._files import user_path

RECORD = ROOT / "bench" / "results" / "launches.json"
Table = dict[str, dict[str, dict[str, int]]]  # arch -> call -> numbers
SIZES = (1024, 4096, 16384, 32768, 36864, 65536, 131072, 262144)
# Calls with their batches, one for each kind: routes, pieces of a batch, tables per sample.
CALLS = (
    *((KernelCall(size), batch) for size in SIZES for batch in (1, 64)),
    *((KernelCall(size, task="value"), 1) for size in (16384, 36864, 65536, 262144)),
    *((KernelCall(size, permutation="per_sample"), 64) for size in (16384, 36864, 65536)),
    *((KernelCall(size, permutation="none"), 1) for size in (16384, 65536)),
    *((KernelCall(size, task="statistics"), 4) for size in (16384, 65536)),
    *((KernelCall(size, task="pullback"), 4) for size in (16384, 65536)),
    (KernelCall(16384, dtype="bfloat16"), 64),
    (KernelCall(16384, power_weight=0.0), 64),
    (KernelCall(16384, task="permutation"), 1),
    *((KernelCall(16384, task=task), 4) for task in ("path_value", "path_backward", "path_both")),
    *((KernelCall(16384, task=f"drift {task}"), 1) for task in ("value", "gradient", "accumulate")),
    *((KernelCall(size, task="projection"), 64) for size in (16384, 36864, 65536)),
    (KernelCall(16384, task="projection", dtype="bfloat16"), 1),
)


@dataclass(frozen=True)
class Launch:
    kernel: str
    bytes: int
    operations: int


@dataclass
class Recording(TorchDispatchMode):
    """The launches in order, torch's operators, and the bytes that these return."""

    launches: list[Launch] = field(default_factory=list)
    operators: Counter[str] = field(default_factory=Counter)
    allocated: int = 0

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.is_view or func._schema.name == "aten::detach":
            return result
        name = func._schema.name.partition("::")[2]
        if not name.startswith(("empty", "new_empty")):
            self.operators[name] += 1
        if isinstance(result, Tensor) and not name.endswith("_"):
            self.allocated += result.untyped_storage().nbytes()
        return result


@contextlib.contextmanager
def recorded(run: bool) -> Iterator[Recording]:
    """Record the launches and operators in the body; with `run` the kernels also run."""
    from triton.runtime.jit import JITFunction

    found = Recording()
    real = JITFunction.run

    def noted(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        bound = inspect.signature(self.fn).bind(
            *args, **{k: v for k, v in options.items() if k in self.arg_names}
        )
        bound.apply_defaults()
        whole = grid(bound.arguments) if callable(grid) else grid
        needs = self.launch_metadata and self.launch_metadata(
            whole, SimpleNamespace(name=self.fn.__name__), bound.arguments
        )
        needs = needs or {"bytes": 0, "flops32": 0}
        found.launches.append(Launch(self.fn.__name__, int(needs["bytes"]), needs["flops32"]))
        return real(self, *args, grid=grid, warmup=warmup, **options) if run else None

    with mock.patch.object(JITFunction, "run", noted), found:
        yield found


def counted(call: KernelCall, batch: int, arch: str) -> dict[str, int]:
    """Return the numbers of one call on an architecture, without the work of a first call."""
    with pretended(arch):
        with recorded(run=False):
            call.run(1)
        with recorded(run=False) as found:
            call.run(batch)
    numbers = {
        "launches": len(found.launches),
        "bytes": sum(launch.bytes for launch in found.launches),
        "operations": sum(launch.operations for launch in found.launches),
        "allocated": found.allocated,
    }
    kernels = Counter(launch.kernel for launch in found.launches)
    return {**numbers, **kernels, **{f"torch {k}": n for k, n in found.operators.items()}}


def calls_named(only: str = "") -> dict[str, tuple[KernelCall, int]]:
    """Return the calls whose name contains a text."""
    names = {f"{call} B={batch}": (call, batch) for call, batch in CALLS}
    return {name: pair for name, pair in names.items() if only in name}


def table(only: str = "") -> Table:
    chosen = calls_named(only)
    return {arch: {n: counted(*pair, arch) for n, pair in chosen.items()} for arch in ARCHS}


def compare(only: str = "") -> list[tuple[str, str, str, str, str]]:
    """Return (arch, call, number, recorded, now) for all that differ from the file."""
    recorded: Table = store.read(RECORD, "launches")["archs"]
    before = {a: {n: v for n, v in cases.items() if only in n} for a, cases in recorded.items()}
    return changes(before, table(only))


def main(given: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench launches",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--check", action="store_true", help=f"Compare with {RECORD.name}.")
    parser.add_argument("--out", type=user_path, help="File to write the numbers to.")
    options = parser.parse_args(given)
    os.environ.pop("TRITON_INTERPRET", None)  # the interpreter would leave nothing to record
    if options.out:
        about = store.header("launches")
        store.write(options.out, {**about, "archs": table()})
    if not options.check:
        if not options.out:
            found = [(a, c, json.dumps(n)) for a, cs in table().items() for c, n in cs.items()]
            print(columns(found))
        return 0
    if rows := compare():
        print(f"numbers differ from {RECORD.name}:")
        print(columns([("arch", "call", "", "recorded", "now"), *rows]))
        print("To accept them: make record-launches, and commit the file with the code.")
        return Exit.NO
    print(f"launches: {len(CALLS)} calls on {len(ARCHS)} architectures, as recorded")
    return 0
