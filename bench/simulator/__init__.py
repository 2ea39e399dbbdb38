"""Triton kernels as they are compiled, executed on the CPU behind Triton's own launch path.

    with simulated() as simulation:
        gaussreg_fast.gaussianity_value_and_grad(x, backend="triton")
    for launch in simulation.launches:
        print(launch.name, launch.errors(), launch.execution.wavefronts.sum())

The package, Triton's binder, its checks and its compiler run as before a GPU; the driver is one
that executes the PTX (bench/pretended.py). What this sees, and what it cannot see, is in
docs/simulator.md.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

from torch import Tensor

from bench.pretended import Call, Loaded, pretended
from bench.simulator.core import Execution, Finding, Schedule, describe, execute
from bench.simulator.memory import Memory
from bench.simulator.reader import Program, Unsupported, read

__all__ = ["Launch", "Schedule", "Simulation", "simulated"]

Edit = Callable[[str, str], str]  # (PTX, the kernel's name) -> PTX


@dataclass(frozen=True)
class Launch:
    """One launch that was executed."""

    kernel: Loaded
    program: Program
    grid: tuple[int, int, int]
    constants: dict[str, Any]
    execution: Execution

    @property
    def name(self) -> str:
        """The kernel's."""
        return self.kernel.name

    @property
    def programs(self) -> int:
        """How many programs ran."""
        x, y, z = self.grid
        return x * y * z

    def findings(self, severity: str) -> list[Finding]:
        """What was seen of one severity: "error", "lockstep" or "same value"."""
        return [f for f in self.execution.findings if f.kind.severity == severity]

    def errors(self) -> list[str]:
        """A line for each race, access out of bounds or read of what nobody wrote."""
        return [describe(f, self.program, self.name, self.grid) for f in self.findings("error")]


@dataclass
class Simulation:
    """Launches in order, and the memory that they may touch."""

    schedule: Schedule
    edit: Edit | None = None
    launches: list[Launch] = field(default_factory=list)
    memory: Memory = field(default_factory=Memory)

    def execute(self, call: Call) -> None:
        """Runs a launch as the driver is asked to."""
        text = call.kernel.text("ptx")
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
        self.launches.append(Launch(call.kernel, program, call.grid, call.constants, execution))


def _raw(value: Any, name: str, kernel: str) -> int | float:
    """An argument as the binary gets it: an address or a number."""
    if isinstance(value, Tensor):
        if value.device.type != "cpu":
            raise Unsupported(f"{kernel}: argument {name!r} is on {value.device}, not on the CPU")
        return value.data_ptr()
    if value is None:
        return 0
    if isinstance(value, int | float):
        return value
    raise Unsupported(f"{kernel}: argument {name!r} is a {type(value).__name__}")


@contextlib.contextmanager
def simulated(
    schedule: Schedule | None = None, arch: str = "sm_90", edit: Edit | None = None
) -> Iterator[Simulation]:
    """Executes all launches of Triton kernels within, on CPU tensors, instead of a GPU.

    The package takes CPU tensors for `backend="triton"` then. `edit` changes PTX before it is read.

    Raises:
        Unsupported: an instruction or an argument that the simulator does not know.
        CompilerMissing: there is no C++ compiler.
    """
    if os.environ.get("TRITON_INTERPRET", "0") not in ("", "0"):
        raise Unsupported("TRITON_INTERPRET is set: Triton compiles nothing")
    import gaussreg_fast.launch  # noqa: F401 - `pretended` answers its questions
    from gaussreg_fast import dispatch

    simulation = Simulation(schedule or Schedule(), edit)
    with (
        mock.patch.object(dispatch, "interpreted", return_value=True),
        mock.patch.object(dispatch, "triton_state", return_value="available"),
        simulation.memory.watched(),
        pretended(arch, execute=simulation.execute),
    ):
        yield simulation
