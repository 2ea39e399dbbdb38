"""A kernel's encoded PTX for the interpreter."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# The fields of the structure of the same name in interpreter/layout.h.
INSTRUCTION = np.dtype(
    [
        *((name, "i4") for name in ("opcode", "predicate", "negated", "pieces", "width")),
        *((name, "i4") for name in ("register_bytes", "is_signed", "variant", "target", "address")),
        ("offset", "i8"),
        ("results", "i4", 8),
        ("sources", "i4", 8),
    ],
    align=True,
)

Chain = tuple[tuple[str, int], ...]


class Unsupported(Exception):
    """The simulator does not know some PTX, so that its numbers cannot be trusted."""


@dataclass
class Parameter:
    """A kernel's parameter: its type in PTX, and its bytes."""

    kind: str
    bytes: int


@dataclass(frozen=True)
class Loaded:
    """A register that holds a parameter, or a part of it, before the first instruction."""

    slot: int
    width: int
    parameter: int
    offset: int
    bytes: int
    is_signed: bool


@dataclass
class Program:
    """A kernel. The lists have an entry for each instruction."""

    name: str
    threads: int
    parameters: list[Parameter]
    instructions: np.ndarray
    text: list[str]
    mnemonics: list[str]
    sources: list[Chain]  # (full path, line) of each inlined call, outermost first
    block: tuple[int, int, int]
    image: np.ndarray  # a warp's registers at the start
    loaded: list[Loaded]
    special: dict[str, int]  # special register -> slot
    shared_cell: int = 4  # bytes of the narrowest access
    global_cell: int = 4
