"""What a launch was found to do wrong, and the line that says so."""

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
    """A kind of finding at one pair of instructions: how often, and the first in detail.

    Attributes:
        kind: what it is.
        instruction: number of the instruction that it was found at.
        other: number of the one that it is in conflict with, or -1.
        program: of the launch, counted along x first.
        warp: of the program.
        lane: of the warp.
        other_warp: that ran the other instruction, or -1.
        other_lane: that ran the other instruction, or -1.
        address: in shared or global memory. Of lanes that are not together: those that are.
        count: how often.
        found: the bits that memory held before a write, where that matters.
        written: the bits that were written.
        bytes: of the two.
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
    """Returns what the interpreter found."""
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
    """Returns one line: the kernel, what was found and how often, and both places.

    `where` says which memory it is, instead of its address; `floating` whether the values there
    are floating-point numbers.
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
