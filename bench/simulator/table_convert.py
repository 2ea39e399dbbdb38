"""The table of PTX's conversions.

A register may be wider than the type that cvt names: then the low part of a source counts, and a
result is extended. Instructions with such a source have the name "name@bits of the register".
"""

from __future__ import annotations

from collections.abc import Iterator

from bench.simulator.operation import Entry

INTEGERS = ("u8", "s8", "u16", "s16", "u32", "s32", "u64", "s64")
ROUNDED = {
    "rni": "std::nearbyint",
    "rzi": "std::trunc",
    "rmi": "std::floor",
    "rpi": "std::ceil",
}


def entries() -> Iterator[Entry]:
    """Yield every instruction of this kind."""
    for source in INTEGERS:
        for register in (16, 32, 64):
            if register >= bits(source):
                yield from _from_integer(source, register)
    for flush in (False, True):
        yield from _from_single(".ftz" if flush else "", "flushed(a)" if flush else "a")
    yield from _from_double()
    for kind in ("f16", "bf16"):
        yield from _from_half(kind)


def bits(kind: str) -> int:
    """Return the width in a type's name."""
    return int(kind.lstrip("usbf"))


def held(kind: str) -> str:
    """Return the type of a type's register, which has at least 16 bits."""
    return kind[0] + "16" if bits(kind) == 8 else kind


def _from_integer(source: str, register: int) -> Iterator[Entry]:
    natural = register == max(16, bits(source))
    mark = "" if natural else f"@{register}"
    operand, value = f"u{register}", f"({source})a"
    for result in INTEGERS:
        yield f"cvt.{result}.{source}{mark}", held(result), operand, f"({result}){value}"
        if natural and bits(result) == 8:  # in a register of 32 bits
            wide = result[0] + "32"
            yield f"cvt.{result}.{source}>32", wide, operand, f"({result}){value}"
        if natural:
            limited = f"limited<{result}>({value})"
            yield f"cvt.sat.{result}.{source}", held(result), operand, limited
    for result in ("f32", "f64"):
        yield f"cvt.rn.{result}.{source}{mark}", result, operand, f"({result}){value}"
    if bits(source) <= 32 and natural:  # a double holds it exactly, so that it is rounded once
        for result in ("f16", "bf16"):
            rounded = f"{result}_rounded((double){value})"
            yield f"cvt.rn.{result}.{source}", "u16", operand, rounded


def _to_integers(source: str, z: str, operand: str, value: str) -> Iterator[Entry]:
    for rounding, function in ROUNDED.items():
        for result in INTEGERS:
            # By PTX's manual NaN becomes 0; the highest bit alone for 64 bits and from f64.
            large = source == "f64" or bits(result) == 64
            nan = f"({result})(1ull << {bits(result) - 1})" if large else "0"
            whole = f"whole<{result}>({function}({value}), {nan})"
            for saturation in ("", ".sat"):
                name = f"cvt.{rounding}{z}{saturation}.{result}.{source}"
                yield name, held(result), operand, whole


def _from_single(z: str, a: str) -> Iterator[Entry]:
    yield from _to_integers("f32", z, "f32", a)
    for rounding, function in ROUNDED.items():
        yield f"cvt.{rounding}{z}.f32.f32", "f32", "f32", f"canonical({function}({a}))"
    yield f"cvt{z}.f64.f32", "f64", "f32", f"(f64){a}"
    yield f"cvt{z}.f32.f32", "f32", "f32", f"canonical({a})"
    yield f"cvt{z}.sat.f32.f32", "f32", "f32", f"saturated_unit({a})"
    yield f"cvt.rn{z}.f32.f64", "f32", "f64", f"{'flushed' if z else ''}(canonical((f32)a))"
    if z:
        return
    for kind in ("f16", "bf16"):
        yield f"cvt.rn.{kind}.f32", "u16", "f32", f"to_{kind}(a)"
        both = f"((u32)to_{kind}(a) << 16) | to_{kind}(b)"
        yield f"cvt.rn.{kind}x2.f32", "u32", "f32 f32", both


def _from_double() -> Iterator[Entry]:
    yield from _to_integers("f64", "", "f64", "a")
    for rounding, function in ROUNDED.items():
        yield f"cvt.{rounding}.f64.f64", "f64", "f64", f"{function}(a)"
    yield "cvt.rn.f16.f64", "u16", "f64", "f16_rounded(a)"


def _from_half(kind: str) -> Iterator[Entry]:
    value = f"from_{kind}(a)"
    yield from _to_integers(kind, "", "u16", value)
    yield f"cvt.f32.{kind}", "f32", "u16", value
    yield f"cvt.f32.{kind}@32", "f32", "u32", f"from_{kind}((u16)a)"
    yield f"cvt.f64.{kind}", "f64", "u16", f"(f64){value}"
    other = "bf16" if kind == "f16" else "f16"
    yield f"cvt.rn.{other}.{kind}", "u16", "u16", f"to_{other}({value})"
    for rounding, function in ROUNDED.items():
        yield f"cvt.{rounding}.{kind}.{kind}", "u16", "u16", f"to_{kind}({function}({value}))"
