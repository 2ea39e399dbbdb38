"""Assign slots to a warp's registers, constants and special registers."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from bench.simulator.program import Loaded

LANES = 32
_WIDTHS = {
    "pred": 4,
    **{f"{letter}16": 2 for letter in ("b", "u", "s", "f", "bf")},
    **{f"{letter}32": 4 for letter in ("b", "u", "s", "f")},
    **{f"{letter}64": 8 for letter in ("b", "u", "s", "f")},
    **{"f16x2": 4, "bf16x2": 4},
}
_PER_LANE = {
    "%laneid": lambda lane: lane,
    "%lanemask_eq": lambda lane: 1 << lane,
    "%lanemask_lt": lambda lane: (1 << lane) - 1,
    "%lanemask_le": lambda lane: (2 << lane) - 1,
    "%lanemask_gt": lambda lane: 0xFFFFFFFF & ~((2 << lane) - 1),
    "%lanemask_ge": lambda lane: 0xFFFFFFFF & ~((1 << lane) - 1),
}
# Special registers that are filled in when a program or its launch starts.
LATE = {f"%{name}.{axis}" for name in ("tid", "ctaid", "nctaid") for axis in "xyz"} | {"%warpid"}


class Unknown(Exception):
    """An instruction is unknown or malformed; the reader adds its text and place."""


@dataclass(frozen=True)
class Register:
    """A slot for 32 lanes' values of `width` bytes."""

    slot: int
    width: int
    predicate: bool


class Registers:
    """The slots of a kernel's registers, constants and special registers."""

    def __init__(self, block: tuple[int, int, int]):
        self.block = block
        self.size = 0
        self.special: dict[str, int] = {}
        self.loaded: dict[Loaded, None] = {}
        self._scopes: list[dict[str, Register]] = [{}]
        self._constants: dict[tuple[int, ...], tuple[int, int]] = {}

    def new(self, width: int) -> int:
        """Return a new slot."""
        self.size += width * LANES
        return self.size - width * LANES

    def open_scope(self) -> None:
        """Begin a block, which may declare registers of its own."""
        self._scopes.append({})

    def close_scope(self) -> None:
        """End a block, and forget its registers."""
        self._scopes.pop()

    def declare(self, statement: str) -> None:
        """Read a declaration such as `.reg .b32 %r<9>` or `.reg .pred p, q`."""
        match = re.fullmatch(r"\.reg\s+\.(\w+)\s+(.*)", statement, re.DOTALL)
        if not match or match[1] not in _WIDTHS:
            raise Unknown("registers of an unknown type")
        kind, names = match.groups()
        for name in (part.strip() for part in names.split(",")):
            if many := re.fullmatch(r"(.+)<(\d+)>", name):
                each = [f"{many[1]}{k}" for k in range(int(many[2]))]
            else:
                each = [name]
            for one in each:
                # -1 stands for no slot yet, because most declared registers are never used.
                self._scopes[-1][one] = Register(-1, _WIDTHS[kind], kind == "pred")

    def find(self, name: str) -> Register | None:
        """Return a declared register, or None."""
        for scope in reversed(self._scopes):
            if register := scope.get(name):
                if register.slot < 0:
                    slot = self.new(register.width)
                    register = Register(slot, register.width, register.predicate)
                    scope[name] = register
                return register
        return None

    def constant(self, value: int, width: int) -> int:
        """Return the slot of a number that is the same in all lanes."""
        return self._filled([value] * LANES, width)

    def special_register(self, name: str) -> int | None:
        """Return the slot of a special register of 32 bits, or None."""
        if name in _PER_LANE:
            return self._filled([_PER_LANE[name](lane) for lane in range(LANES)], 4)
        if name in ("%ntid.x", "%ntid.y", "%ntid.z"):
            return self.constant(self.block["xyz".index(name[-1])], 4)
        if name in LATE:
            if name not in self.special:
                self.special[name] = self.new(4)
            return self.special[name]
        return None

    def parameter(self, index: int, offset: int, size: int, width: int, is_signed: bool) -> int:
        """Return the slot of a parameter's bytes that ld.param reads."""
        for known in self.loaded:
            if (known.parameter, known.offset, known.bytes) == (index, offset, size) and (
                known.width,
                known.is_signed,
            ) == (width, is_signed):
                return known.slot
        loaded = Loaded(self.new(width), width, index, offset, size, is_signed)
        self.loaded[loaded] = None
        return loaded.slot

    def image(self) -> np.ndarray:
        """Return a warp's registers before the first instruction: constants, otherwise poison."""
        image = np.full(max(64, self.size), 0xAB, np.uint8)
        for values, (slot, width) in self._constants.items():
            raw = b"".join(value.to_bytes(width, "little") for value in values[1:])
            image[slot : slot + len(raw)] = np.frombuffer(raw, np.uint8)
        return image

    def _filled(self, values: list[int], width: int) -> int:
        mask = (1 << (8 * width)) - 1
        key = (width, *(value & mask for value in values))
        if key not in self._constants:
            self._constants[key] = (self.new(width), width)
        return self._constants[key][0]
