"""Execute compiled Triton kernels on the CPU, behind Triton's own launch path.

    with simulated() as simulation:
        gaussreg_fast.gaussianity_value_and_grad(x, backend="triton")
    for launch in simulation.launches:
        print(launch.name, launch.errors(), launch.execution.wavefronts.sum())

The package, Triton's binder, its checks and its compiler run as in front of a GPU; the driver
executes the PTX (bench/compiled/pretended.py). docs/internals/simulator.md says which errors this
finds, and which it cannot find.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from torch import Tensor

from bench.compiled.pretended import Call, Loaded, pretended
from bench.simulator.core import Execution, Finding, Kind, Schedule, describe, execute
from bench.simulator.memory import Memory, extent
from bench.simulator.reader import Program, Unsupported, read

__all__ = ["Launch", "Schedule", "Simulation", "Unsupported", "simulated"]

_FILE = re.compile(r'\.file\s+\d+\s+"([^"]+)"')
Edit = Callable[[str, str], str]  # (PTX, the kernel's name) -> PTX


@dataclass(frozen=True)
class Argument:
    """A tensor argument of a launch: its place in memory, from `begin` to before `end`."""

    name: str
    begin: int
    end: int
    width: int
    floating: bool

    def place(self, address: int) -> str:
        """Describe an address: an element of the tensor, or a number of bytes outside."""
        if address < self.begin:
            return f"{self.begin - address} bytes before {self.name}"
        if address >= self.end:
            past = f"{address - self.end} bytes past" if address > self.end else "at"
            return f"{past} the end of {self.name}"
        return f"at {self.name} + {(address - self.begin) // self.width}"

    def distance(self, address: int) -> int:
        """Return the distance of an address in bytes; 0 inside."""
        return max(self.begin - address, address - self.end + 1, 0)


@dataclass(frozen=True)
class Launch:
    """One executed launch."""

    kernel: Loaded
    program: Program
    grid: tuple[int, int, int]
    constants: dict[str, Any]
    tensors: tuple[Argument, ...]
    execution: Execution

    @property
    def name(self) -> str:
        """The kernel's name."""
        return self.kernel.name

    @property
    def programs(self) -> int:
        """Number of programs that ran."""
        x, y, z = self.grid
        return x * y * z

    def findings(self, severity: str) -> list[Finding]:
        """Return the findings of one severity: "error", "lockstep" or "same value"."""
        return [f for f in self.execution.findings if f.kind.severity == severity]

    def errors(self) -> dict[str, str]:
        """Return a line for each race, access out of bounds or read of unwritten memory.

        A finding has the same key under every schedule.
        """
        text = self.program.text
        return {
            f"{self.name}{self.grid} {f.kind.name} {text[f.instruction]} {f.other}": self._line(f)
            for f in self.findings("error")
        }

    def _line(self, finding: Finding) -> str:
        """Describe a finding in a line, its place by the argument that it is in or next to."""
        shared, memory = finding.kind.name.startswith("SHARED"), finding.kind.text.split(":")[0]
        where: str | None = f"at byte {finding.address} of shared memory"
        floating = True
        if not shared:
            where = "" if memory != "global" and finding.kind is not Kind.MISALIGNED else None
        if where is None and self.tensors:
            nearest = min(self.tensors, key=lambda a: a.distance(finding.address))
            where, floating = nearest.place(finding.address), nearest.floating
        return describe(finding, self.program, self.name, self.grid, where, floating)


@dataclass
class Simulation:
    """Launches in order, and the memory that they may touch."""

    schedule: Schedule
    edit: Edit | None = None
    launches: list[Launch] = field(default_factory=list)
    memory: Memory = field(default_factory=Memory)

    def execute(self, call: Call) -> None:
        """Run a launch in the driver's place, and keep its result."""
        text = _located(call.kernel.text("ptx"), Path(call.source))
        if self.edit is not None:
            text = self.edit(text, call.kernel.name)
        program = read(text)
        execution = execute(
            program,
            call.grid,
            call.kernel.shared,
            [_raw(value, name, call.kernel.name) for name, value in call.arguments.items()],
            self.memory.regions(call.arguments.values()),
            self.schedule,
        )
        tensors = tuple(
            Argument(name, *extent(x), x.element_size(), x.dtype.is_floating_point)
            for name, x in call.arguments.items()
            if isinstance(x, Tensor) and x.numel()
        )
        self.launches.append(
            Launch(call.kernel, program, call.grid, call.constants, tensors, execution)
        )


def _located(text: str, source: Path) -> str:
    """Replace the source files in PTX by those of this checkout and of the installed Triton."""
    import triton

    library = Path(triton.__file__).resolve().parent
    named = [Path(name) for name in _FILE.findall(text)]
    old = next((path.parent for path in named if path.name == source.name), source.parent)

    def moved(match: re.Match[str]) -> str:
        path = Path(match[1])
        if path.is_relative_to(old):
            path = source.parent / path.relative_to(old)
        elif "triton" in path.parts:
            inside = path.parts[len(path.parts) - path.parts[::-1].index("triton") :]
            path = library.joinpath(*inside)
        return match[0].replace(match[1], str(path))

    return _FILE.sub(moved, text)


def _raw(value: Any, name: str, kernel: str) -> int | float:
    """Convert an argument to an address or a number, like the binary gets it."""
    if isinstance(value, Tensor):
        if value.device.type != "cpu":
            raise Unsupported(f"{kernel}: argument {name!r} must be on the CPU, got {value.device}")
        return value.data_ptr()
    if value is None:
        return 0
    if isinstance(value, int | float):
        return value
    raise Unsupported(
        f"{kernel}: argument {name!r} must be a tensor or a number, got {type(value).__name__}"
    )


@contextlib.contextmanager
def simulated(
    schedule: Schedule | None = None, arch: str = "sm_90", edit: Edit | None = None
) -> Iterator[Simulation]:
    """Execute all launches of Triton kernels in the body on CPU tensors instead of a GPU.

    The package then accepts CPU tensors for `backend="triton"`.

    Args:
        schedule: order and exactness of the execution; by default in the order of barriers.
        arch: architecture to compile for.
        edit: changes PTX before it is read.

    Raises:
        Unsupported: the simulator does not know an instruction or an argument.
        CompilerMissing: there is no C++ compiler.
    """
    if os.environ.get("TRITON_INTERPRET", "0") not in ("", "0"):
        raise Unsupported("TRITON_INTERPRET must be unset, because with it Triton compiles nothing")
    from gaussreg_fast.backends import choice
    from gaussreg_fast.backends.triton import launch  # noqa: F401 - `pretended` answers for it

    simulation = Simulation(schedule or Schedule(), edit)
    with (
        mock.patch.object(choice, "interpreted", return_value=True),
        mock.patch.object(choice, "triton_state", return_value="available"),
        simulation.memory.watched(),
        pretended(arch, execute=simulation.execute),
    ):
        yield simulation
