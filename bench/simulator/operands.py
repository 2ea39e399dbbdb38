"""Resolve the operands of PTX instructions."""

from __future__ import annotations

import re

from bench.simulator.operation import SIZES
from bench.simulator.registers import Registers, Unknown

_FLOAT = {4: re.compile(r"0[fF]([0-9A-Fa-f]{8})"), 8: re.compile(r"0[dD]([0-9A-Fa-f]{16})")}
_INTEGER = re.compile(r"(-?)(0[xX][0-9a-fA-F]+|0[bB][01]+|\d+)U?")
_ADDRESS = re.compile(r"\[\s*([\w$%.]+)\s*(?:\+\s*(-?\w+)\s*)?\]")
SHARED = "global_smem"  # Triton's name of a program's shared memory, whose addresses start at 0


class Operands:
    """Finds the slots of an instruction's operands."""

    def __init__(self, registers: Registers):
        self.registers = registers

    def count(self, given: list[str], number: int) -> list[str]:
        """Return the operands; raise Unknown if their number is wrong."""
        if len(given) != number:
            raise Unknown(f"must have {number} operands, got {len(given)}")
        return given

    def result(self, text: str, kind: str) -> int:
        """Return the slot of a register that is written."""
        register = self.registers.find(text)
        if register is None:
            if text == "_":
                return self.registers.new(SIZES[kind])
            raise Unknown(f"{text} is no register")
        if register.width != SIZES[kind] or register.predicate != (kind == "pred"):
            raise Unknown(f"{text} is no register of type {kind}")
        return register.slot

    def source(self, text: str, width: int, kind: str = "") -> int:
        """Return the slot of a register, constant or special register of `width` bytes."""
        predicate = kind == "pred"
        if register := self.registers.find(text):
            if register.width != width or register.predicate != predicate:
                kind = "a predicate" if predicate else f"a register of {8 * width} bits"
                raise Unknown(f"{text} must be {kind}")
            return register.slot
        slot = self.registers.special_register(text)
        if slot is not None:
            if width != 4 or predicate:
                raise Unknown(f"{text} has 32 bits, but {8 * width} bits or a predicate are needed")
            return slot
        if kind.startswith("f") and _INTEGER.fullmatch(text):
            raise Unknown(f"{text} is no floating-point number")
        value = number(text, width)
        return self.registers.constant(int(value != 0) if predicate else value, width)

    def vector(self, text: str) -> list[str]:
        """Return the operands in braces, or the one operand."""
        if not text.startswith("{"):
            return [text]
        return [part.strip() for part in text[1:-1].split(",")]

    def address(self, text: str, width: int) -> tuple[int, int]:
        """Return the slot of an address's base, and the offset."""
        base, offset = split_address(text)
        return self.source(base, width), offset


def split_address(text: str) -> tuple[str, int]:
    """Return the base of `[base+offset]`, and the offset."""
    match = _ADDRESS.fullmatch(text)
    if not match:
        raise Unknown(f"{text} is no address")
    return match[1], number(match[2], 8) if match[2] else 0


def number(text: str, width: int) -> int:
    """Return the bits of a constant of `width` bytes."""
    if text == "WARP_SZ":
        return 32
    if match := re.fullmatch(rf"{SHARED}(?:\s*\+\s*(\d+))?", text):
        return int(match[1] or 0)
    if match := _INTEGER.fullmatch(text):
        digits = match[2]
        octal = re.fullmatch(r"0[0-7]+", digits)
        value = int(digits, 8) if octal else int(digits, 0)
        return -value if match[1] else value
    if width in _FLOAT and (match := _FLOAT[width].fullmatch(text)):
        return int(match[1], 16)
    raise Unknown(f"{text} is no register and no number of {8 * width} bits")
