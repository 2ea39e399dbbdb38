"""Encode a PTX instruction for the interpreter."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from bench.simulator import collectives, loads
from bench.simulator.instructions import NUMBERS, OPERATIONS
from bench.simulator.operands import Operands
from bench.simulator.operation import SIZES
from bench.simulator.registers import Registers, Unknown

_LATER = {
    "mma": "matrix products (tl.dot) are not simulated",
    "wgmma": "matrix products (tl.dot) are not simulated",
    "tcgen05": "matrix products (tl.dot) are not simulated",
    "wmma": "matrix products (tl.dot) are not simulated",
    "atom": "atomic operations are not simulated",
    "red": "atomic operations are not simulated",
    "cp": "asynchronous copies are not simulated",
    "mbarrier": "asynchronous copies are not simulated",
    "call": "calls of functions are not simulated",
    ".local": "memory of each thread (sin and cos of large numbers use it) is not simulated",
}


class Encoder:
    """Encodes a kernel's instructions one after the other."""

    def __init__(self, registers: Registers, parameters: list[str]):
        self.operands = Operands(registers)
        self.registers = registers
        self.parameters = parameters
        self.cells = {"shared": 4, "global": 4}

    @property
    def shared_cell(self) -> int:
        """Bytes of the narrowest access to shared memory."""
        return self.cells["shared"]

    @property
    def global_cell(self) -> int:
        """Bytes of the narrowest access to global memory."""
        return self.cells["global"]

    def encode(self, row: np.ndarray, mnemonic: str, given: list[str]) -> str | None:
        """Fill in a row. Return the label that the instruction jumps to, if any.

        Raises:
            Unknown: the instruction is unknown or malformed.
        """
        row["results"] = row["sources"] = -1
        row["pieces"] = 1
        if mnemonic in ("bra", "bra.uni"):
            self.number(row, "bra")
            row["variant"] = mnemonic == "bra.uni"
            if len(given) != 1:
                raise Unknown(f"a branch must have one label, got {len(given)}")
            return given[0]
        for pattern, method in _FORMS:
            if match := re.fullmatch(pattern, mnemonic):
                method(self, row, match, given)
                return None
        if mnemonic.startswith("mov.b") and any(part.startswith("{") for part in given):
            self.pieces(row, mnemonic, given)
        else:
            self.arithmetic(row, mnemonic, given)
        return None

    def number(self, row: np.ndarray, name: str) -> None:
        """Set the number of the instruction."""
        row["opcode"] = NUMBERS[name]

    def narrow(self, space: str, width: int) -> None:
        """Note the width of an access."""
        self.cells[space] = min(self.cells[space], width)

    def arithmetic(self, row: np.ndarray, mnemonic: str, given: list[str]) -> None:
        """Encode an instruction of the tables."""
        name = self.variant(mnemonic, given)
        operation = OPERATIONS.get(name)
        if operation is None:
            first = re.match(r"\.?\w*", mnemonic)[0]
            raise Unknown(_LATER.get(first, "an unknown PTX instruction"))
        kinds = (operation.result, *operation.operands)
        if len(given) != len(kinds):
            raise Unknown(f"must have {len(kinds)} operands, got {len(given)}")
        self.number(row, name)
        row["results"][0] = self.operands.result(given[0], kinds[0])
        for k, (kind, text) in enumerate(zip(kinds[1:], given[1:], strict=True)):
            row["sources"][k] = self.operands.source(text, SIZES[kind], kind)

    def variant(self, mnemonic: str, given: list[str]) -> str:
        """Return the name in the tables, which may depend on the number or width of operands."""
        if len(given) == 4 and re.match(r"(min|max)\b", mnemonic):
            return f"{mnemonic}@3"
        if not mnemonic.startswith("cvt.") or len(given) != 2 or mnemonic not in OPERATIONS:
            return mnemonic
        operation = OPERATIONS[mnemonic]
        source = self.registers.find(given[1])
        result = self.registers.find(given[0])
        if source and not source.predicate and source.width > SIZES[operation.operands[0]]:
            return f"{mnemonic}@{8 * source.width}"
        if result and result.width > SIZES[operation.result]:
            return f"{mnemonic}>{8 * result.width}"
        return mnemonic

    def pieces(self, row: np.ndarray, mnemonic: str, given: list[str]) -> None:
        """Encode mov between a register and its pieces."""
        if not re.fullmatch(r"mov\.b(32|64)", mnemonic) or len(given) != 2:
            raise Unknown("an unknown form of mov")
        taken_apart = given[0].startswith("{")
        many, one = given if taken_apart else reversed(given)
        parts, size = self.operands.vector(many), int(mnemonic[5:]) // 8
        width = size // len(parts)
        if len(parts) not in (2, 4) or width < 2:
            raise Unknown(f"mov must have two or four pieces of 16 bits or more, got {len(parts)}")
        self.number(row, "unpack" if taken_apart else "pack")
        row["pieces"], row["width"], row["register_bytes"] = len(parts), width, width
        if taken_apart:
            row["sources"][0] = self.operands.source(one, size)
        else:
            row["results"][0] = self.operands.result(one, f"u{8 * size}")
        for k, part in enumerate(parts):
            if not taken_apart:
                row["sources"][k] = self.operands.source(part, width)
            elif part != "_":
                row["results"][k] = self.operands.result(part, f"u{8 * width}")

    def barrier(self, row: np.ndarray, match: re.Match[str], given: list[str]) -> None:
        """Encode a barrier of all threads of the program."""
        x, y, z = self.registers.block
        if len(given) == 2 and given[1] == str(x * y * z):
            given = given[:1]
        if len(given) != 1 or not re.fullmatch(r"\d+", given[0]):
            raise Unknown("a barrier of only some threads is not simulated")
        self.number(row, "bar.sync")
        row["variant"] = int(given[0])

    def warp_barrier(self, row: np.ndarray, match: re.Match[str], given: list[str]) -> None:
        """Encode bar.warp.sync."""
        self.number(row, "bar.warp.sync")
        (members,) = self.operands.count(given, 1)
        row["sources"][0] = self.operands.source(members, 4)

    def end(self, row: np.ndarray, match: re.Match[str], given: list[str]) -> None:
        """Encode ret and exit."""
        self.operands.count(given, 0)
        self.number(row, "ret")

    def policy(self, row: np.ndarray, match: re.Match[str], given: list[str]) -> None:
        """Encode createpolicy as 0, because caches are not simulated."""
        self.number(row, "mov.b64")
        row["results"][0] = self.operands.result(given[0], "u64")
        row["sources"][0] = self.registers.constant(0, 8)

    def same_address(self, row: np.ndarray, match: re.Match[str], given: list[str]) -> None:
        """Encode cvta as a move, because global memory has the same generic addresses."""
        result, source = self.operands.count(given, 2)
        self.number(row, "mov.b64")
        row["results"][0] = self.operands.result(result, "u64")
        row["sources"][0] = self.operands.source(source, 8)


def operands_of(text: str) -> list[str]:
    """Split at commas outside brackets."""
    found, depth, now = [], 0, ""
    for letter in text:
        depth += (letter in "{[") - (letter in "}]")
        if letter == "," and depth == 0:
            found.append(now.strip())
            now = ""
        else:
            now += letter
    return [*found, now.strip()] if now.strip() else found


Method = Callable[[Encoder, np.ndarray, re.Match[str], list[str]], None]
_FORMS: tuple[tuple[str, Method], ...] = (
    (r"(bar|barrier|barrier\.cta)\.sync(\.aligned)?", Encoder.barrier),
    (r"bar\.warp\.sync", Encoder.warp_barrier),
    (r"(ret|exit)(\.uni)?", Encoder.end),
    (r"createpolicy\.fractional\..*\.b64", Encoder.policy),
    (r"cvta(\.to)?\.global\.u64", Encoder.same_address),
    *loads.FORMS,
    *collectives.FORMS,
)
