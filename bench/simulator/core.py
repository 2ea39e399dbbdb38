"""Run a kernel's PTX on the CPU, with shadow memory and counters."""

from __future__ import annotations

import ctypes
import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench.simulator.build import CompilerMissing, built
from bench.simulator.findings import FINDING, Finding, describe, findings_of
from bench.simulator.kinds import Kind
from bench.simulator.program import INSTRUCTION, Program

__all__ = [
    "CompilerMissing",
    "Execution",
    "Finding",
    "Kind",
    "Region",
    "Schedule",
    "describe",
    "execute",
    "ready",
]

STEPS = 100_000_000  # instructions of a program's warps after which it counts as endless
COUNTERS = ("executed", "active", "wavefronts", "conflict_free", "sectors", "lines", "moved")
_REGION = np.dtype([("address", "u8"), ("size", "u8"), ("unwritten", "u8")])
_LAUNCH = np.dtype(
    [
        ("instructions", "u8"),
        ("instruction_count", "i8"),
        ("image", "u8"),
        ("image_bytes", "i8"),
        ("thread_slots", "i4", 3),
        ("program_slots", "i4", 3),
        ("warp_slot", "i4"),
        ("threads", "i4", 3),
        ("grid", "i8", 3),
        ("shared_bytes", "i8"),
        ("shared_cell", "i4"),
        ("global_cell", "i4"),
        ("regions", "u8"),
        ("region_count", "i8"),
        ("seed", "u8"),
        ("slice", "i8"),
        ("steps", "i8"),
        ("shuffled", "i4"),
        ("checked", "i4"),
        ("ulp", "f8"),
        *((name, "u8") for name in COUNTERS),
    ],
    align=True,
)
_STRUCTURES = {
    "Instruction": INSTRUCTION,
    "Region": _REGION,
    "Finding": FINDING,
    "Launch": _LAUNCH,
}


@dataclass(frozen=True)
class Schedule:
    """The order and exactness of a launch's execution.

    Attributes:
        seed: seed of all random numbers.
        slice: most instructions of a warp in a row; 0 runs a warp up to its next barrier.
        shuffled: whether programs and warps run in random order.
        ulp: largest error of approximate instructions, as a share of their documented error.
        checked: whether shadow memory finds races and reads of unwritten shared memory.
    """

    seed: int = 1
    slice: int = 0
    shuffled: bool = True
    ulp: float = 0.0
    checked: bool = True


@dataclass
class Region:
    """Memory that a kernel may use.

    Attributes:
        address: address of the first byte.
        size: size in bytes.
        unwritten: uint8 per byte, 1 if nothing has written it; updated in place. None means that
            all is written.
    """

    address: int
    size: int
    unwritten: np.ndarray | None = None


@dataclass
class Execution:
    """The findings and counters of a launch; arrays have a number per instruction of the program.

    Attributes:
        findings: errors and notes.
        barriers: number of barriers that all programs together passed.
        executed: number of warps that ran the instruction.
        active: lanes that took part.
        wavefronts: wavefronts of its accesses to shared memory.
        conflict_free: the wavefronts without bank conflicts.
        sectors: pieces of 32 bytes of global memory.
        lines: pieces of 128 bytes of global memory.
        moved: bytes that lanes read or wrote.
    """

    findings: list[Finding]
    barriers: int
    executed: np.ndarray
    active: np.ndarray
    wavefronts: np.ndarray
    conflict_free: np.ndarray
    sectors: np.ndarray
    lines: np.ndarray
    moved: np.ndarray


def execute(
    program: Program,
    grid: tuple[int, int, int],
    shared: int,
    arguments: Sequence[int | float],
    regions: Sequence[Region],
    schedule: Schedule,
) -> Execution:
    """Run all programs of a launch.

    Args:
        program: the kernel.
        grid: the number of programs along each axis.
        shared: bytes of a program's shared memory.
        arguments: values of the kernel's parameters, pointers as addresses. Missing ones at the
            end are 0, because Triton passes its scratch memory there.
        regions: all memory that the kernel may use, without overlaps.
        schedule: order and exactness of the execution.

    Raises:
        CompilerMissing: the interpreter has to be built, and there is no compiler.
        ValueError: arguments or regions do not fit the kernel.
    """
    core = _core()
    image, table = _image(program, grid, arguments), _table(regions)
    counters = {name: np.zeros(len(program.text), np.uint64) for name in COUNTERS}
    launch = _launch(program, grid, shared, image, table, schedule)
    for name, counter in counters.items():
        launch[name] = counter.ctypes.data
    machine = core.simulator_run(launch.ctypes.data)
    if not machine:
        raise MemoryError("the simulator's shadow memory does not fit")
    try:
        found = np.zeros(core.simulator_count(machine), FINDING)
        core.simulator_findings(machine, found.ctypes.data)
        barriers = core.simulator_barriers(machine)
    finally:
        core.simulator_free(machine)
    return Execution(findings_of(found), barriers, **counters)


def _launch(
    program: Program,
    grid: tuple[int, int, int],
    shared: int,
    image: np.ndarray,
    table: np.ndarray,
    schedule: Schedule,
) -> np.ndarray:
    """Describe a launch to the interpreter. It gets addresses: the caller must keep the arrays."""
    launch = np.zeros(1, _LAUNCH)
    launch["instructions"] = program.instructions.ctypes.data
    launch["instruction_count"] = len(program.instructions)
    launch["image"], launch["image_bytes"] = image.ctypes.data, len(image)
    for name, special in (("thread_slots", "tid"), ("program_slots", "ctaid")):
        launch[name] = [program.special.get(f"%{special}.{axis}", -1) for axis in "xyz"]
    launch["warp_slot"] = program.special.get("%warpid", -1)
    launch["threads"], launch["grid"] = program.block, grid
    launch["shared_bytes"] = shared
    launch["shared_cell"], launch["global_cell"] = program.shared_cell, program.global_cell
    launch["regions"], launch["region_count"] = table.ctypes.data, len(table)
    launch["seed"], launch["slice"] = schedule.seed & (2**64 - 1), schedule.slice
    launch["steps"], launch["ulp"] = STEPS, schedule.ulp
    launch["shuffled"], launch["checked"] = schedule.shuffled, schedule.checked
    return launch


def ready() -> None:
    """Build the interpreter if needed, once, before several processes need it.

    Raises:
        CompilerMissing: there is no compiler, or it fails.
    """
    _core()


@functools.cache
def _core() -> ctypes.CDLL:
    """Return the interpreter, after a check that its structures are those of Python."""
    core = built(_fields())
    pointer = ctypes.c_void_p
    for name, result, arguments in (
        ("layout", ctypes.c_char_p, []),
        ("run", pointer, [pointer]),
        ("barriers", ctypes.c_uint64, [pointer]),
        ("count", ctypes.c_uint64, [pointer]),
        ("findings", None, [pointer, pointer]),
        ("free", None, [pointer]),
    ):
        function = getattr(core, f"simulator_{name}")
        function.restype, function.argtypes = result, arguments
    theirs, ours = core.simulator_layout().decode(), _layout()
    if theirs != ours:
        raise RuntimeError(
            f"the simulator's structures differ between Python and C++:\n{ours}{theirs}"
        )
    return core


def _fields() -> str:
    """Return the C++ that names the structures' fields: see interpreter/interface.cpp."""
    lines = []
    for name, dtype in _STRUCTURES.items():
        fields = "".join(f"FIELD({name}, {field});\n" for field in dtype.names or ())
        lines.append(f"STRUCTURE({name});\n{fields}END;\n")
    return "".join(lines)


def _layout() -> str:
    """Return the structures' sizes and their fields' offsets."""
    lines = []
    for name, dtype in _STRUCTURES.items():
        fields = "".join(f" {field} {place[1]}" for field, place in (dtype.fields or {}).items())
        lines.append(f"{name} {dtype.itemsize}:{fields}\n")
    return "".join(lines)


def _image(
    program: Program, grid: tuple[int, int, int], arguments: Sequence[int | float]
) -> np.ndarray:
    """Return a warp's registers at the start of this launch."""
    if min(grid) < 1 or len(grid) != 3:
        raise ValueError(f"grid must be three positive numbers, got {grid}")
    if len(arguments) > len(program.parameters):
        raise ValueError(
            f"{program.name}: {len(arguments)} arguments for {len(program.parameters)} parameters"
        )
    image = program.image.copy()

    def fill(slot: int, value: bytes) -> None:
        image[slot : slot + 32 * len(value)] = np.frombuffer(value * 32, np.uint8)

    values = [*arguments, *[0] * (len(program.parameters) - len(arguments))]
    for loaded in program.loaded:
        parameter = program.parameters[loaded.parameter]
        raw = _bytes(parameter.kind, parameter.bytes, values[loaded.parameter])
        part = raw[loaded.offset : loaded.offset + loaded.bytes]
        if len(part) != loaded.bytes:
            raise ValueError(f"{program.name}: a read beyond parameter {loaded.parameter}")
        number = int.from_bytes(part, "little", signed=loaded.is_signed)
        mask = (1 << (8 * loaded.width)) - 1
        fill(loaded.slot, (number & mask).to_bytes(loaded.width, "little"))
    for axis, count in zip("xyz", grid, strict=True):
        if (slot := program.special.get(f"%nctaid.{axis}")) is not None:
            fill(slot, int(count).to_bytes(4, "little"))
    return image


def _bytes(kind: str, size: int, value: int | float) -> bytes:
    if kind in ("f32", "f64"):
        return np.dtype(kind.replace("32", "4").replace("64", "8")).type(value).tobytes()
    if int(value) != value:
        raise ValueError(f"a parameter of type {kind} must be an integer, got {value!r}")
    return (int(value) & ((1 << (8 * size)) - 1)).to_bytes(size, "little")


def _table(regions: Sequence[Region]) -> np.ndarray:
    """Return the regions in the order of their addresses."""
    ordered = sorted((region for region in regions if region.size), key=lambda r: r.address)
    for left, right in itertools.pairwise(ordered):
        if left.address + left.size > right.address:
            raise ValueError(f"regions overlap at {right.address:#x}")
    table = np.zeros(len(ordered), _REGION)
    for row, region in zip(table, ordered, strict=True):
        row["address"], row["size"] = region.address, region.size
        if (bits := region.unwritten) is not None:
            if bits.dtype != np.uint8 or not bits.flags.c_contiguous or bits.size != region.size:
                raise ValueError("a region's unwritten must be contiguous uint8, one per byte")
            row["unwritten"] = bits.ctypes.data
    return table
