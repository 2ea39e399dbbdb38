"""Encode the instructions in which lanes of a warp exchange values."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from bench.simulator.instructions import REDUCTIONS

if TYPE_CHECKING:
    from bench.simulator.encoding import Encoder


def _two_results(encoder: Encoder, row: np.ndarray, text: str) -> None:
    """Encode `d|p`: a register of 32 bits, and a predicate that may be missing."""
    first, bar, second = (part.strip() for part in text.partition("|"))
    if first != "_":
        row["results"][0] = encoder.operands.result(first, "u32")
    else:
        row["results"][0] = encoder.registers.new(4)
    if bar and second != "_":
        row["results"][1] = encoder.operands.result(second, "pred")


def shuffle(encoder: Encoder, row: np.ndarray, match: re.Match[str], given: list[str]) -> None:
    """Encode shfl.sync."""
    result, *sources = encoder.operands.count(given, 5)
    encoder.number(row, f"shfl.{match[1]}")
    _two_results(encoder, row, result)
    for k, source in enumerate(sources):
        row["sources"][k] = encoder.operands.source(source, 4)


def vote(encoder: Encoder, row: np.ndarray, match: re.Match[str], given: list[str]) -> None:
    """Encode vote.sync."""
    result, predicate, members = encoder.operands.count(given, 3)
    encoder.number(row, f"vote.{match[1]}")
    kind = "u32" if match[1] == "ballot" else "pred"
    row["results"][0] = encoder.operands.result(result, kind)
    row["variant"] = predicate.startswith("!")
    row["sources"][0] = encoder.operands.source(predicate.lstrip("! "), 4, "pred")
    row["sources"][1] = encoder.operands.source(members, 4)


def active(encoder: Encoder, row: np.ndarray, match: re.Match[str], given: list[str]) -> None:
    """Encode activemask."""
    (result,) = encoder.operands.count(given, 1)
    encoder.number(row, "activemask")
    row["results"][0] = encoder.operands.result(result, "u32")


def matching(encoder: Encoder, row: np.ndarray, match: re.Match[str], given: list[str]) -> None:
    """Encode match.sync."""
    result, value, members = encoder.operands.count(given, 3)
    encoder.number(row, f"match.{match[1]}.{match[2]}")
    _two_results(encoder, row, result)
    row["sources"][0] = encoder.operands.source(value, int(match[2]) // 8)
    row["sources"][1] = encoder.operands.source(members, 4)


def elect(encoder: Encoder, row: np.ndarray, match: re.Match[str], given: list[str]) -> None:
    """Encode elect.sync."""
    result, members = encoder.operands.count(given, 2)
    encoder.number(row, "elect")
    _two_results(encoder, row, result)
    if row["results"][1] < 0:
        row["results"][1] = encoder.registers.new(4)
    row["sources"][0] = encoder.operands.source(members, 4)


def reduction(encoder: Encoder, row: np.ndarray, match: re.Match[str], given: list[str]) -> None:
    """Encode redux.sync."""
    result, value, members = encoder.operands.count(given, 3)
    encoder.number(row, f"redux.{match[1]}")
    row["results"][0] = encoder.operands.result(result, "u32")
    row["sources"][0] = encoder.operands.source(value, 4)
    row["sources"][1] = encoder.operands.source(members, 4)


_REDUCED = "|".join(re.escape(name.removeprefix("redux.")) for name in REDUCTIONS)
FORMS = (
    (r"shfl\.sync\.(bfly|idx|up|down)\.b32", shuffle),
    (r"vote\.sync\.(all|any|uni)\.pred", vote),
    (r"vote\.sync\.(ballot)\.b32", vote),
    (r"activemask\.b32", active),
    (r"match\.(any|all)\.sync\.b(32|64)", matching),
    (r"elect\.sync", elect),
    (rf"redux\.sync\.({_REDUCED})", reduction),
)
