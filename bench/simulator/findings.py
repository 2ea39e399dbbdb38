"""The findings of a launch, and their description in a line."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bench.simulator.kinds import Kind
from bench.simulator.program import Program

# The fields of the structure of the same name in interpreter/layout.h.
FINDING = np.dtype(
    [
        *((name, "i4") for name in ("kind", "instruction", "other", "warp", "lane")),
        *((name, "i4") for name in ("other_warp", "other_lane", "bytes")),
        ("program", "i8"),
        *((name, "u8") for name in ("address", "count", "found", "written")),
    ],
    align=True,
)
_KINDS = tuple(Kind)
_WITH_VALUES = frozenset(
    kind for kind in Kind if kind.name.endswith(("WRITE_AFTER_WRITE", "ONE_STORE", "SAME_VALUE"))
)


@dataclass
class Finding:
    """A kind of finding at one pair of instructions: its number, and the first in detail.

    Attributes:
        kind: kind of finding.
        instruction: number of the instruction where it was found.
        other: number of the conflicting instruction, or -1.
        program: number of the program, counted along x first.
        warp: warp of the program.
        lane: lane of the warp.
        other_warp: warp that ran the other instruction, or -1.
        other_lane: lane that ran the other instruction, or -1.
        address: address in shared or global memory; for lanes that are not together, a mask of
            those that are.
        count: how often it occurred.
        found: the bits in memory before a write, if they matter.
        written: the written bits.
        bytes: size of both values.
    """

    kind: Kind
    instruction: int
    other: int
    program: int
    warp: int
    lane: int
    other_warp: int
    other_lane: int
    address: int
    count: int
    found: int | None
    written: int | None
    bytes: int


def findings_of(rows: np.ndarray) -> list[Finding]:
    """Convert the interpreter's findings."""
    found = []
    for row in rows:
        values = {name: int(row[name]) for name in FINDING.names or ()}
        kind = _KINDS[values.pop("kind")]
        if kind not in _WITH_VALUES:
            values |= {"found": None, "written": None}
        found.append(Finding(kind, **values))
    return found


def describe(
    finding: Finding,
    program: Program,
    name: str,
    grid: tuple[int, ...],
    where: str | None = None,
    floating: bool = True,
) -> str:
    """Describe a finding in one line: the kernel, the kind, the number, and both places.

    Args:
        finding: the finding.
        program: the kernel's program.
        name: the kernel's name.
        grid: the launch's grid.
        where: text for the place in memory; None gives the address.
        floating: whether the values there are floating-point numbers.
    """
    f = finding
    where = f"at {f.address:#x}" if where is None else where
    parts = [
        f"{name}{tuple(grid)}: {f.kind.text}, {f.count} time{'s' * (f.count != 1)}",
        f"first in program {f.program}, warp {f.warp}, lane {f.lane}" + (where and f", {where}"),
        _place(program, f.instruction),
    ]
    if f.other >= 0:
        parts.append(f"other: warp {f.other_warp}, lane {f.other_lane}, {_place(program, f.other)}")
    elif f.other_lane >= 0:
        parts.append(f"other lane {f.other_lane}")
    if f.found is not None and f.written is not None:
        found, written = (_value(bits, f.bytes, floating) for bits in (f.found, f.written))
        parts.append(f"found {found}, wrote {written}")
    return "; ".join(parts)


def _place(program: Program, instruction: int) -> str:
    if not 0 <= instruction < len(program.text):
        return "at the end of the kernel"
    chain = program.sources[instruction]
    lines = " from ".join(f"{path}:{line}" for path, line in reversed(chain))
    return f"{program.text[instruction]!r} ({lines or 'no source line'})"


def _value(bits: int, size: int, floating: bool) -> str:
    text = f"{bits:#0{2 * size + 2}x}"
    if not floating:
        return text
    if size == 4:
        text += f" ({np.uint32(bits).view(np.float32):.9g})"
    elif size == 8:
        text += f" ({np.uint64(bits).view(np.float64):.17g})"
    return text
