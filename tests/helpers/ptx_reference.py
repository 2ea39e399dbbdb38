"""PTX's arithmetic computed with whole numbers and fractions, for tests of the simulator."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable
from fractions import Fraction

import numpy as np

Reference = Callable[..., int]  # bits of the operands -> bits of the result

CANONICAL = {"f32": 0x7FFFFFFF, "f16": 0x7FFF, "bf16": 0x7FFF, "f64": 0x7FF8000000000000}
_FRACTION = {"f16": (10, 15), "bf16": (7, 127), "f32": (23, 127), "f64": (52, 1023)}
COMPARE = {
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
    "lo": operator.lt,
    "ls": operator.le,
    "hi": operator.gt,
    "hs": operator.ge,
}
ARITHMETIC = {"add": operator.add, "sub": operator.sub, "mul": operator.mul}
LOGIC = {"and": operator.and_, "or": operator.or_, "xor": operator.xor}


def bits_of(kind: str) -> int:
    return int(re.search(r"\d+", kind)[0]) if kind != "pred" else 1


def integer(bits: int, kind: str) -> int:
    width = bits_of(kind)
    bits &= (1 << width) - 1
    return bits - (1 << width) if kind[0] == "s" and bits >> (width - 1) else bits


def number(bits: int, kind: str) -> float:
    """The exact value, as a double."""
    fraction, bias = _FRACTION[kind]
    width = bits_of(kind)
    sign = -1.0 if bits >> (width - 1) & 1 else 1.0
    exponent = bits >> fraction & (2 * bias + 1)
    rest = bits & ((1 << fraction) - 1)
    if exponent == 2 * bias + 1:
        return math.nan if rest else sign * math.inf
    if exponent == 0:
        return sign * math.ldexp(rest, 1 - bias - fraction)
    return sign * math.ldexp((1 << fraction) + rest, exponent - bias - fraction)


def rounded(value: float | Fraction, kind: str) -> int:
    """The nearest number's bits, ties to even."""
    fraction, bias = _FRACTION[kind]
    width = bits_of(kind)
    infinity = (2 * bias + 1) << fraction
    if isinstance(value, float):
        if math.isnan(value):
            return CANONICAL[kind]
        sign = int(math.copysign(1, value) < 0) << (width - 1)
        if math.isinf(value):
            return sign | infinity
        if value == 0:
            return sign
        value = Fraction(value)
    sign = int(value < 0) << (width - 1)
    size = abs(value)
    exponent = size.numerator.bit_length() - size.denominator.bit_length()
    exponent -= size < Fraction(2) ** exponent
    exponent = max(exponent, 1 - bias)
    steps = round(size / Fraction(2) ** (exponent - fraction))
    return sign | min(infinity, steps + ((exponent + bias - 1) << fraction))


def flush(bits: int, kind: str) -> int:
    exponent = bits >> 23 & 255
    return bits & 0x80000000 if kind == "f32" and exponent == 0 else bits


def exact(name: str, *values: float) -> float | Fraction:
    """Sum, difference, product, quotient or fused product and sum, as exactly as need be."""
    with np.errstate(all="ignore"):
        a, b, *rest = (np.float64(v) for v in values)
        if name == "fma":
            double = a * b + rest[0]
        elif name == "div":
            double = a / b
        else:
            double = ARITHMETIC[name](a, b)
    whole = [Fraction(v) for v in values] if all(map(math.isfinite, values)) else None
    if whole is None or (name == "div" and values[1] == 0):
        return float(double)
    if name == "fma":
        fraction = whole[0] * whole[1] + whole[2]
    else:
        fraction = whole[0] / whole[1] if name == "div" else ARITHMETIC[name](*whole)
    return fraction if fraction else float(double)


def reference(mnemonic: str) -> Reference | None:
    """The reference of an instruction, or None: it is an approximation."""
    parts = mnemonic.split(".")
    head, kind = parts[0], re.split("[@>]", parts[-1])[0]
    if "approx" in parts or "full" in parts:
        return None
    if head == "mov":
        return lambda a: a
    if head == "selp":
        return lambda a, b, c: a if c else b
    if head == "slct":
        return lambda a, b, c: a if (number if kind == "f32" else integer)(c, kind) >= 0 else b
    if head == "cvt":
        return _conversion(parts, mnemonic)
    if kind == "pred":
        return (lambda a: 1 - a) if head == "not" else LOGIC[head]
    if kind.endswith("x2"):
        half = reference(mnemonic.removesuffix("x2"))
        width = bits_of(kind)
        mask = (1 << width) - 1
        return lambda *v: half(*(x & mask for x in v)) | half(*(x >> width for x in v)) << width
    if kind in CANONICAL:
        return _float(head, parts, kind)
    return _integer(head, parts, kind)


def _float(head: str, parts: list[str], kind: str) -> Reference:
    width, ftz, sat = bits_of(kind), "ftz" in parts, "sat" in parts
    top = 1 << (width - 1)

    def operands(values: tuple[int, ...]) -> list[float]:
        return [number(flush(v, kind) if ftz else v, kind) for v in values]

    def finish(value: float | Fraction) -> int:
        bits = rounded(value, kind)
        bits = flush(bits, kind) if ftz else bits
        if sat:
            value = number(bits, kind)
            bits = rounded(min(max(value, 0.0), 1.0) if value > 0 else 0.0, kind)
        return bits

    if head in ("add", "sub", "mul", "div", "fma"):
        return lambda *v: finish(exact(head, *operands(v)))
    if head == "rcp":
        return lambda a: finish(exact("div", 1.0, *operands((a,))))
    if head == "sqrt":
        dtype = np.float32 if kind == "f32" else np.float64

        def root(a: int) -> int:
            with np.errstate(all="ignore"):
                return finish(float(np.sqrt(dtype(operands((a,))[0]))))

        return root
    if head == "neg":
        return lambda a: (flush(a, kind) if ftz else a) ^ top
    if head == "abs":
        return lambda a: (flush(a, kind) if ftz else a) & ~top
    if head == "copysign":
        return lambda a, b: (b & ~top) | (a & top)
    if head in ("min", "max"):
        return lambda *v: finish(_extreme(head, operands(v), "NaN" in parts))
    if head == "testp":
        return lambda a: int(_test(parts[1], number(a, kind), kind))
    if head == "setp":
        return lambda *v: int(_compared(parts[1], *operands(v)))
    raise KeyError(".".join(parts))


def _extreme(head: str, values: list[float], strict: bool) -> float:
    there = [v for v in values if not math.isnan(v)]
    if not there or (strict and len(there) < len(values)):
        return math.nan
    order = [(v, math.copysign(1, v)) for v in there]  # -0 is below 0
    return (min if head == "min" else max)(order)[0]


def _test(name: str, value: float, kind: str) -> bool:
    least = 2.0 ** (-126 if kind == "f32" else -1022)
    return {
        "finite": math.isfinite(value),
        "infinite": math.isinf(value),
        "number": not math.isnan(value),
        "notanumber": math.isnan(value),
        "normal": math.isfinite(value) and abs(value) >= least,
        "subnormal": 0 < abs(value) < least,
    }[name]


def _compared(name: str, a: float, b: float) -> bool:
    unordered = math.isnan(a) or math.isnan(b)
    if name in ("num", "nan"):
        return unordered == (name == "nan")
    if name in COMPARE:
        return not unordered and COMPARE[name](a, b)
    return unordered or COMPARE[name.removesuffix("u")](a, b)


def _integer(head: str, parts: list[str], kind: str) -> Reference:
    width = bits_of(kind)
    mask = (1 << width) - 1

    def by_value(function: Callable[..., int]) -> Reference:
        return lambda *v: function(*(integer(x, kind) for x in v)) & mask

    part = parts[1]
    if head in ("mul", "mad") and part == "wide":
        wide = (1 << (2 * width)) - 1
        return lambda a, b, c=0: (integer(a, kind) * integer(b, kind) + c) & wide
    if head in ("mul", "mad"):
        shift = width if part == "hi" else 0
        return by_value(lambda a, b, c=0: (a * b >> shift) + c)
    if head in ("mul24", "mad24"):
        low, shift = kind[0] + "24", 16 if part == "hi" else 0
        return lambda a, b, c=0: ((integer(a, low) * integer(b, low) >> shift) + c) & mask
    if head in ARITHMETIC:
        return by_value(ARITHMETIC[head])
    if head in LOGIC:
        return LOGIC[head]
    if head == "setp":
        return lambda a, b: int(COMPARE[part](integer(a, kind), integer(b, kind)))
    if head in ("div", "rem"):
        return by_value(lambda a, b: _divided(head, a, b, mask))
    if head in ("shl", "shr"):
        return by_value_and_shift(head, kind, mask)
    simple: dict[str, Callable[..., int]] = {
        "min": min,
        "max": max,
        "neg": lambda a: -a,
        "abs": abs,
        "not": lambda a: ~a,
        "cnot": lambda a: int(a == 0),
        "sad": lambda a, b, c: c + abs(a - b),
    }
    if head in simple:
        return by_value(simple[head])
    return _of_bits(head, parts, kind, width, mask)


def by_value_and_shift(head: str, kind: str, mask: int) -> Reference:
    if head == "shl":
        return lambda a, b: a << min(b, 200) & mask
    return lambda a, b: integer(a, kind) >> min(b, 200) & mask


def _divided(head: str, a: int, b: int, mask: int) -> int:
    if b == 0:
        return mask if head == "div" else a
    quotient = abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)
    return quotient if head == "div" else a - quotient * b


def _of_bits(head: str, parts: list[str], kind: str, width: int, mask: int) -> Reference:
    def text(a: int) -> str:
        return f"{a:0{width}b}"

    def top(a: int) -> int:
        value = integer(a, kind)
        return (~value if value < 0 else value).bit_length() - 1

    if head == "popc":
        return lambda a: text(a).count("1")
    if head == "clz":
        return lambda a: width - a.bit_length()
    if head == "brev":
        return lambda a: int(text(a)[::-1], 2)
    if head == "bfind" and "shiftamt" in parts:
        return lambda a: (width - 1 - top(a) if top(a) >= 0 else -1) & 0xFFFFFFFF
    if head == "bfind":
        return lambda a: top(a) & 0xFFFFFFFF
    if head == "bfe":
        return lambda a, b, c: _field(a, b & 255, c & 255, width, kind[0] == "s")
    if head == "bfi":
        return lambda a, b, c, d: sum(
            (a >> (k - (c & 255)) if 0 <= k - (c & 255) < (d & 255) else b >> k) % 2 << k
            for k in range(width)
        )
    if head == "prmt":
        return lambda a, b, c: int.from_bytes(
            bytes(_byte((a | b << 32).to_bytes(8, "little"), c >> 4 * k & 15) for k in range(4)),
            "little",
        )
    if head == "lop3":
        return lambda a, b, c, d: sum(
            (d >> (4 * (a >> k & 1) + 2 * (b >> k & 1) + (c >> k & 1)) & 1) << k for k in range(32)
        )
    if head == "shf":

        def funnel(a: int, b: int, c: int) -> int:
            by = c & 31 if parts[2] == "wrap" else min(c, 32)
            both = b << 32 | a
            return (both << by >> 32 if parts[1] == "l" else both >> by) & mask

        return funnel
    raise KeyError(".".join(parts))


def _byte(of: bytes, nibble: int) -> int:
    byte = of[nibble & 7]
    return (255 if byte & 128 else 0) if nibble & 8 else byte


def _field(a: int, start: int, length: int, width: int, signed: bool) -> int:
    sign = a >> min(start + length - 1, width - 1) & 1 if signed and length else 0
    bits = (
        (a >> (start + k) & 1) if k < length and start + k < width else sign for k in range(width)
    )
    return sum(bit << k for k, bit in enumerate(bits))


ROUND: dict[str, Callable[[float], int]] = {
    "rni": round,
    "rzi": math.trunc,
    "rmi": math.floor,
    "rpi": math.ceil,
}


def _conversion(parts: list[str], mnemonic: str) -> Reference:
    result, source = parts[-2], re.split("[@>]", parts[-1])[0]
    held = int(mnemonic.split(">")[1]) if ">" in mnemonic else max(16, bits_of(result))
    ftz, sat = "ftz" in parts, "sat" in parts
    way = next((ROUND[p] for p in parts if p in ROUND), None)
    if result.endswith("x2"):
        single = result.removesuffix("x2")
        return lambda a, b: (
            rounded(number(a, source), single) << 16 | rounded(number(b, source), single)
        )

    def store(value: int) -> int:
        low, high = (
            (-(1 << (bits_of(result) - 1)), (1 << (bits_of(result) - 1)) - 1)
            if result[0] == "s"
            else (0, (1 << bits_of(result)) - 1)
        )
        limited = min(max(value, low), high) if sat or source in CANONICAL else value
        return integer(limited, result) & ((1 << held) - 1)

    def convert(a: int) -> int:
        if source not in CANONICAL:
            value = integer(a, source)
            if result in CANONICAL:
                return rounded(Fraction(value) if value else 0.0, result)
            return store(value)
        value = number(flush(a, source) if ftz else a, source)
        if result in CANONICAL:
            if way and math.isfinite(value):
                value = math.copysign(float(way(value)), value)
            if sat:
                value = min(value, 1.0) if value > 0 else 0.0
            bits = rounded(value, result)
            return flush(bits, result) if ftz else bits
        if math.isnan(value):
            large = source == "f64" or bits_of(result) == 64
            return (integer(1 << (bits_of(result) - 1), result) if large else 0) & ((1 << held) - 1)
        if math.isinf(value):
            return store(1 << 80 if value > 0 else -(1 << 80))
        assert way
        return store(way(value))

    return convert
