"""Read the PTX that Triton emits, with the source lines of each instruction."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator

import numpy as np

from bench.simulator.encoding import Encoder, operands_of
from bench.simulator.program import INSTRUCTION, Chain, Parameter, Program, Unsupported
from bench.simulator.registers import Registers, Unknown

__all__ = ["Parameter", "Program", "Unsupported", "read"]

_SIZES = {f"{letter}{bits}": bits // 8 for letter in "busf" for bits in (8, 16, 32, 64)}
# Matches comments, and strings too, because a path in a string may have two slashes.
_COMMENT = re.compile(r'"(?:[^"\\]|\\.)*"|//[^\n]*|/\*.*?\*/', re.DOTALL)
_ENTRY = re.compile(r"\.entry\s+([\w$%.]+)\s*(?:\((.*?)\))?([^{;]*)\{", re.DOTALL)
_PARAMETER = re.compile(r"\.param\s+\.(\w+)\s+(?:\.ptr\b[\s\w.]*\s)?([\w$%]+)(\s*\[)?\s*$")
_LOC = re.compile(r"\.loc\s+(\d+)\s+(\d+)\s+(\d+)([^\n]*)")
_INLINED = re.compile(r"inlined_at\s+(\d+)\s+(\d+)\s+(\d+)")
# LLVM adds a line for each line of inline assembler, so that only the first place is right.
_INLINE = re.compile(r"// begin inline asm.*?// end inline asm", re.DOTALL)
_SOMETHING = re.compile(r"\S")
_LABEL = re.compile(r"([\w$%.]+)\s*:(?!:)")
_GUARD = re.compile(r"@\s*(!?)\s*([\w$%]+)\s+(.*)", re.DOTALL)


@functools.lru_cache(maxsize=256)
def read(text: str) -> Program:
    """Read a module with one kernel.

    Raises:
        Unsupported: the module has an unknown part; nothing is guessed.
    """
    stripped = _COMMENT.sub(_without_comment, _INLINE.sub(_with_one_place, text))
    entries = list(_ENTRY.finditer(stripped))
    if len(entries) != 1:
        raise Unsupported(f"a PTX module must have one kernel, got {len(entries)}")
    return _Reader(stripped, entries[0]).program()


def _with_one_place(match: re.Match[str]) -> str:
    places = list(_LOC.finditer(block := match.group()))
    if len(places) < 2:
        return block
    first = places[0].end()
    return block[:first] + _LOC.sub("", block[first:])


def _without_comment(match: re.Match[str]) -> str:
    found = match.group()
    return found if found.startswith('"') else " " + "\n" * found.count("\n")


class _Reader:
    """The state of reading one kernel."""

    def __init__(self, text: str, entry: re.Match[str]):
        self.text, self.start = text, entry.end()
        self.name = entry[1]
        self.chain: Chain = ()
        self.files = {int(k): path for k, path in re.findall(r'\.file\s+(\d+)\s+"([^"]*)"', text)}
        self.places: dict[tuple[str, ...], Chain] = {}
        self.names: list[str] = []
        self.parameters = [self.parameter(part) for part in _parts(entry[2] or "")]
        self.registers = Registers(self.block(entry[3]))
        self.encoder = Encoder(self.registers, self.names)
        self.labels: dict[str, int] = {}
        self.scopes: list[dict[str, str]] = [{}]
        self.rows: list[np.ndarray] = []
        self.targets: dict[int, tuple[str, str, Chain]] = {}
        self.texts: list[str] = []
        self.mnemonics: list[str] = []
        self.sources: list[Chain] = []

    def error(self, statement: str, reason: object, chain: Chain | None = None) -> Unsupported:
        chain = self.chain if chain is None else chain
        place = ", called at ".join(f"{path}:{line}" for path, line in reversed(chain))
        where = f" ({place})" if place else ""
        return Unsupported(f"{self.name}: {_one_line(statement)!r}{where}: {reason}")

    def parameter(self, declared: str) -> Parameter:
        match = _PARAMETER.search(declared)
        if not match or match[3] or match[1] not in _SIZES:
            raise self.error(declared, "a parameter must be a number or a pointer")
        self.names.append(match[2])
        return Parameter(match[1], _SIZES[match[1]])

    def block(self, directives: str) -> tuple[int, int, int]:
        for name in ("reqntid", "maxntid"):  # launches have all the threads of either
            if match := re.search(rf"\.{name}\s+([\d\s,]+)", directives):
                sizes = [int(part) for part in match[1].split(",")]
                x, y, z = (*sizes, 1, 1)[:3]
                if not 0 < x * y * z <= 1024:
                    raise self.error(directives, "the number of threads must be 1 to 1024")
                return x, y, z
        raise Unsupported(f"{self.name}: needs .reqntid or .maxntid for the number of threads")

    def program(self) -> Program:
        for statement in self.statements():
            try:
                self.statement(statement)
            except Unknown as error:
                raise self.error(statement, error) from None
        for row, (label, statement, chain) in self.targets.items():
            if label not in self.labels:
                raise self.error(statement, "no such label", chain)
            self.rows[row]["target"] = self.labels[label]
        encoder, registers = self.encoder, self.registers
        x, y, z = registers.block
        instructions = np.array(self.rows, INSTRUCTION)
        return Program(
            name=self.name,
            threads=x * y * z,
            parameters=self.parameters,
            instructions=instructions,
            text=self.texts,
            mnemonics=self.mnemonics,
            sources=self.sources,
            block=registers.block,
            image=registers.image(),
            loaded=list(registers.loaded),
            special=registers.special,
            shared_cell=encoder.shared_cell,
            global_cell=encoder.global_cell,
        )

    def statements(self) -> Iterator[str]:
        """Yield the statements of the kernel's body, and note places and labels."""
        text, at, depth = self.text, self.start, 1
        while True:
            match = _SOMETHING.search(text, at)
            if match is None:
                raise Unsupported(f"{self.name}: the PTX ends within the kernel")
            at = match.start()
            if text[at] == "{":
                depth += 1
                self.registers.open_scope()
                at += 1
            elif text[at] == "}":
                depth -= 1
                if depth == 0:
                    return
                self.registers.close_scope()
                at += 1
            elif text[at] == ";":
                at += 1
            elif match := _LOC.match(text, at):
                self.loc(match)
                at = match.end()
            elif match := _LABEL.match(text, at):
                self.labels[match[1]] = len(self.rows)
                at = match.end()
            else:
                end = text.find(";", at)
                if end < 0:
                    raise Unsupported(f"{self.name}: the PTX ends within the kernel")
                yield text[at:end].strip()
                at = end + 1

    def loc(self, match: re.Match[str]) -> None:
        file, line, column, rest = match.groups()
        inlined = _INLINED.search(rest)
        outer: Chain = ()
        if inlined:
            # The call's own place was noted before the places inlined there.
            call = (self.files.get(int(inlined[1]), "?"), int(inlined[2]))
            outer = self.places.get(inlined.groups(), (call,))
        self.chain = (*outer, (self.files.get(int(file), "?"), int(line)))
        self.places[file, line, column] = self.chain

    def statement(self, statement: str) -> None:
        if statement.startswith(".reg"):
            self.registers.declare(statement)
            return
        if statement.startswith(".pragma"):
            return
        row = np.zeros((), INSTRUCTION)
        row["predicate"] = -1
        instruction = statement
        if match := _GUARD.fullmatch(statement):
            register = self.registers.find(match[2])
            if register is None or not register.predicate:
                raise Unknown("its condition is no predicate")
            row["predicate"], row["negated"] = register.slot, match[1] == "!"
            instruction = match[3]
        mnemonic, _, rest = _one_line(instruction).partition(" ")
        label = self.encoder.encode(row, mnemonic, operands_of(rest))
        if label is not None:
            self.targets[len(self.rows)] = (label, statement, self.chain)
        self.rows.append(row)
        self.texts.append(_one_line(statement))
        self.mnemonics.append(mnemonic)
        self.sources.append(tuple(place for place in self.chain if place[1]))


def _parts(declared: str) -> list[str]:
    return [part for part in (p.strip() for p in declared.split(",")) if part]


def _one_line(text: str) -> str:
    return " ".join(text.split())
