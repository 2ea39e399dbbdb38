"""The entries of the tables of instructions."""

from __future__ import annotations

from dataclasses import dataclass

Entry = tuple[str, str, str, str]  # mnemonic, type of the result, types of the operands, C++


@dataclass(frozen=True)
class Operation:
    """An instruction that computes each lane's result from that lane's operands alone.

    `expression` is C++ and names the operands a, b, c, d. A type that ends in x2 is a register of
    two numbers, to each of which the expression applies.
    """

    result: str
    operands: tuple[str, ...]
    expression: str


SIZES = {
    "pred": 4,
    "u16": 2,
    "s16": 2,
    "u16x2": 4,
    "u32": 4,
    "s32": 4,
    "f32": 4,
    "u64": 8,
    "s64": 8,
    "f64": 8,
    "f32x2": 8,
}
