"""Encode loads and stores: of parameters, global and shared memory, and matrices."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from bench.simulator.operands import split_address
from bench.simulator.operation import SIZES
from bench.simulator.registers import Unknown

if TYPE_CHECKING:
    from bench.simulator.encoding import Encoder

_TYPE = r"\.(?P<kind>[busf])(?P<bits>8|16|32|64)"
# Cache hints, which change no number. Orders of memory between threads (acquire, release) are not
# among them, because ignoring them would report races that do not exist.
_CACHE = (
    r"(?:\.(?:ca|cg|cs|lu|cv|wb|wt|nc|weak|volatile|L1::evict_\w+|L1::no_allocate"
    r"|L2::evict_\w+|L2::\d+B|L2::cache_hint))*"
)
_SHARED = r"shared(?:::cta)?"


def parameter(encoder: Encoder, row: np.ndarray, match: re.Match[str], given: list[str]) -> None:
    """Encode ld.param; its register is filled before the first instruction."""
    result, place = encoder.operands.count(given, 2)
    name, offset = split_address(place)
    if name not in encoder.parameters:
        raise Unknown(f"there is no parameter {name}")
    register = encoder.registers.find(result)
    size = int(match["bits"]) // 8
    if register is None or register.predicate or register.width < size:
        raise Unknown(f"the register {result} is too narrow or a predicate")
    encoder.number(row, f"mov.b{8 * register.width}")
    row["results"][0] = register.slot
    row["sources"][0] = encoder.registers.parameter(
        encoder.parameters.index(name), offset, size, register.width, match["kind"] == "s"
    )


def memory(encoder: Encoder, row: np.ndarray, match: re.Match[str], given: list[str]) -> None:
    """Encode ld and st of global and shared memory."""
    load, space = match["way"] == "ld", match["space"].split("::")[0]
    if "L2::cache_hint" in match[0]:
        given = given[:-1]  # the policy
    encoder.operands.count(given, 2)
    values, place = given if load else reversed(given)
    width, pieces = int(match["bits"]) // 8, int(match["vector"] or 1)
    parts = encoder.operands.vector(values)
    if len(parts) != pieces or pieces * width > 32:
        raise Unknown(f"must have {pieces} registers and 32 bytes at most, got {len(parts)}")
    encoder.number(row, f"{match['way']}.{space}")
    encoder.narrow(space, width)
    row["pieces"], row["width"] = pieces, width
    row["is_signed"] = match["kind"] == "s"
    row["address"], row["offset"] = encoder.operands.address(place, 8 if space == "global" else 4)
    widths = {r.width for part in parts if (r := encoder.registers.find(part))}
    held = max(widths, default=max(2, width))
    if len(widths) > 1 or held < width:
        raise Unknown(f"registers must all have one width of at least {8 * width} bits")
    row["register_bytes"] = held
    for k, part in enumerate(parts):
        if not load:
            row["sources"][k] = encoder.operands.source(part, held)
        elif part != "_":
            row["results"][k] = encoder.operands.result(part, f"u{8 * held}")


def matrix(encoder: Encoder, row: np.ndarray, match: re.Match[str], given: list[str]) -> None:
    """Encode ldmatrix and stmatrix."""
    load = match["way"] == "ld"
    encoder.operands.count(given, 2)
    values, place = given if load else reversed(given)
    parts = encoder.operands.vector(values)
    if len(parts) != int(match["count"]):
        raise Unknown(f"must have {match['count']} registers, got {len(parts)}")
    encoder.number(row, f"{match['way']}matrix")
    encoder.narrow("shared", 2 if match["trans"] else 4)
    row["pieces"], row["variant"] = len(parts), bool(match["trans"])
    row["address"], row["offset"] = encoder.operands.address(place, 4)
    for k, part in enumerate(parts):
        if load:
            row["results"][k] = encoder.operands.result(part, "u32")
        else:
            row["sources"][k] = encoder.operands.source(part, SIZES["u32"])


FORMS = (
    (rf"ld\.param{_TYPE}", parameter),
    (
        rf"(?P<way>ld|st)(?:\.volatile)?\.(?P<space>global|{_SHARED}){_CACHE}"
        rf"(?:\.v(?P<vector>2|4|8))?{_TYPE}",
        memory,
    ),
    (
        rf"(?P<way>ld|st)matrix\.sync\.aligned\.m8n8\.x(?P<count>1|2|4)(?P<trans>\.trans)?"
        rf"\.{_SHARED}\.b16",
        matrix,
    ),
)
