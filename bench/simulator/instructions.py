"""All instructions that the simulator executes, and the C++ that is generated from them."""

from __future__ import annotations

from bench.simulator import table_convert, table_float, table_integer
from bench.simulator.kinds import Kind
from bench.simulator.operation import SIZES, Operation

OPERATIONS: dict[str, Operation] = {}
for _table in (table_integer, table_float, table_convert):
    for _name, _result, _operands, _expression in _table.entries():
        if _name in OPERATIONS:
            raise RuntimeError(f"{_name} is in the tables of instructions twice")
        OPERATIONS[_name] = Operation(_result, tuple(_operands.split()), _expression)

REDUCTIONS = (
    *(f"redux.{name}.{kind}" for name in ("add", "min", "max") for kind in ("s32", "u32")),
    *(f"redux.{name}.b32" for name in ("and", "or", "xor")),
    *(f"redux.{name}{mark}.f32" for name in ("min", "max") for mark in ("", ".abs")),
    *(f"redux.{name}{mark}.NaN.f32" for name in ("min", "max") for mark in ("", ".abs")),
)
# Instructions beyond a lane's arithmetic. The interpreter's files have their names in capitals.
SPECIAL = (
    *("nop", "bra", "ret", "bar.sync", "bar.warp.sync", "pack", "unpack"),
    *("ld.global", "st.global", "ld.shared", "st.shared", "ldmatrix", "stmatrix"),
    *("shfl.bfly", "shfl.idx", "shfl.up", "shfl.down"),
    *("vote.all", "vote.any", "vote.uni", "vote.ballot", "activemask", "elect"),
    *("match.any.32", "match.any.64", "match.all.32", "match.all.64"),
    *REDUCTIONS,
)
# Arithmetic comes last, so that every number beyond the special ones is arithmetic.
NUMBERS = {name: number for number, name in enumerate((*SPECIAL, *OPERATIONS))}


def generated_header() -> str:
    """Return C++ enums of the special instructions and of the kinds of findings."""
    codes = [f"  {name.replace('.', '_').upper()} = {NUMBERS[name]}," for name in SPECIAL]
    codes.append(f"  LAST_SPECIAL = {len(SPECIAL) - 1},")
    kinds = [f"  {kind.name} = {kind.number}," for kind in Kind]
    return "\n".join(
        ["#pragma once", "enum Opcode {", *codes, "};", "enum FindingKind {", *kinds, "};", ""]
    )


def generated_cases(part: int, parts: int) -> str:
    """Return one part of the cases of the switch over arithmetic instructions.

    Several parts compile in parallel, and faster than the whole.
    """
    chosen = list(OPERATIONS.items())[part::parts]
    return "\n".join(_case(name, operation) for name, operation in chosen) + "\n"


def _case(name: str, operation: Operation) -> str:
    def ctype(kind: str) -> str:
        return {"pred": "u32", "f32x2": "f32", "u16x2": "u16"}.get(kind, kind)

    pair = operation.result.endswith("x2")
    # Pointers are read before the loop, because stores in the loop might alias their memory.
    pointers, loads = "", ""
    for k, (kind, letter) in enumerate(zip(operation.operands, "abcd", strict=False)):
        of = ctype(kind)
        pointers += f"  const {of}* at_{letter} = source<{of}>(in, registers, {k});\n"
        loads += f"const {of} {letter} = at_{letter}[i]; "
    result, size = ctype(operation.result), SIZES[operation.result]
    head = f"case {NUMBERS[name]}: {{ // {name}"
    body = f"EACH({result}, {64 if pair else 32}, {loads}, {operation.expression})"
    return f"{head}\n{pointers}  {body}\n  return {size};\n}}"
