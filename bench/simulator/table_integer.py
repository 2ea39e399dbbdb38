"""The table of PTX's integer, bit and predicate instructions."""

from __future__ import annotations

from collections.abc import Iterator

from bench.simulator.operation import Entry

INTEGERS = ("s16", "u16", "s32", "u32", "s64", "u64")
COMPARISONS = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
UNSIGNED_COMPARISONS = {"lo": "<", "ls": "<=", "hi": ">", "hs": ">="}
WIDER = {"s16": "s32", "u16": "u32", "s32": "s64", "u32": "u64"}


def entries() -> Iterator[Entry]:
    """Yield every instruction of this kind."""
    for kind in INTEGERS:
        yield from _arithmetic(kind)
        yield from _division(kind)
    for kind in WIDER:
        yield from _wide(kind)
    for kind in ("s32", "u32"):
        yield from _products_of_24_bits(kind)
    for bits in (16, 32, 64):
        yield from _logic(bits)
        yield from _comparison(bits)
    for bits in (32, 64):
        yield from _fields(bits)
    yield from _words()
    yield from _predicates()


def _arithmetic(kind: str) -> Iterator[Entry]:
    # Unsigned, because 16-bit products would be ints, whose overflow C++ leaves undefined.
    whole = "u64" if kind.endswith("64") else "u32"
    a, b, c = (f"({whole}){name}" for name in "abc")
    yield f"add.{kind}", kind, f"{kind} {kind}", f"{a} + {b}"
    yield f"sub.{kind}", kind, f"{kind} {kind}", f"{a} - {b}"
    yield f"mul.lo.{kind}", kind, f"{kind} {kind}", f"{a} * {b}"
    yield f"mad.lo.{kind}", kind, f"{kind} {kind} {kind}", f"{a} * {b} + {c}"
    yield f"mul.hi.{kind}", kind, f"{kind} {kind}", "high(a, b)"
    yield f"mad.hi.{kind}", kind, f"{kind} {kind} {kind}", f"({whole})high(a, b) + {c}"
    yield f"min.{kind}", kind, f"{kind} {kind}", "a < b ? a : b"
    yield f"max.{kind}", kind, f"{kind} {kind}", "a > b ? a : b"
    yield f"sad.{kind}", kind, f"{kind} {kind} {kind}", f"{c} + (a < b ? {b} - {a} : {a} - {b})"
    if kind.startswith("s"):
        yield f"neg.{kind}", kind, kind, f"0 - {a}"
        yield f"abs.{kind}", kind, kind, f"a < 0 ? 0 - {a} : {a}"


def _division(kind: str) -> Iterator[Entry]:
    # PTX does not define division by zero; GPUs give all ones, and the dividend as remainder.
    yield f"div.{kind}", kind, f"{kind} {kind}", "quotient(a, b)"
    yield f"rem.{kind}", kind, f"{kind} {kind}", "remainder_of(a, b)"


def _wide(kind: str) -> Iterator[Entry]:
    wide = WIDER[kind]
    product = f"({wide})a * ({wide})b"
    yield f"mul.wide.{kind}", wide, f"{kind} {kind}", product
    total = f"(u64)({product}) + (u64)c"
    yield f"mad.wide.{kind}", wide, f"{kind} {kind} {wide}", total


def _products_of_24_bits(kind: str) -> Iterator[Entry]:
    yield f"mul24.lo.{kind}", kind, f"{kind} {kind}", "low_24(a) * low_24(b)"
    yield f"mad24.lo.{kind}", kind, f"{kind} {kind} {kind}", "low_24(a) * low_24(b) + (u64)c"
    yield f"mul24.hi.{kind}", kind, f"{kind} {kind}", "(low_24(a) * low_24(b)) >> 16"


def _logic(bits: int) -> Iterator[Entry]:
    kind, signed = f"u{bits}", f"s{bits}"
    for name, sign in (("and", "&"), ("or", "|"), ("xor", "^")):
        yield f"{name}.b{bits}", kind, f"{kind} {kind}", f"a {sign} b"
    yield f"not.b{bits}", kind, kind, "~a"
    yield f"cnot.b{bits}", kind, kind, "a == 0"
    # PTX limits shifts to the width, from which on C++ leaves them undefined.
    yield f"shl.b{bits}", kind, f"{kind} u32", f"b >= {bits} ? 0 : ({kind})(a << (b % {bits}))"
    for letter in "ub":
        right = f"b >= {bits} ? 0 : ({kind})(a >> (b % {bits}))"
        yield f"shr.{letter}{bits}", kind, f"{kind} u32", right
    yield f"shr.s{bits}", signed, f"{signed} u32", f"a >> (b >= {bits} ? {bits - 1} : b)"
    for letter, of in (("b", kind), ("u", kind), ("s", signed)):
        yield f"mov.{letter}{bits}", of, of, "a"
        yield f"selp.{letter}{bits}", of, f"{of} {of} pred", "c ? a : b"
        yield f"slct.{letter}{bits}.s32", of, f"{of} {of} s32", "c >= 0 ? a : b"
        yield f"slct.{letter}{bits}.f32", of, f"{of} {of} f32", "c >= 0 ? a : b"


def _comparison(bits: int) -> Iterator[Entry]:
    for name, sign in COMPARISONS.items():
        letters = "bsu" if name in ("eq", "ne") else "su"
        for letter in letters:
            kind = f"{'s' if letter == 's' else 'u'}{bits}"
            yield f"setp.{name}.{letter}{bits}", "pred", f"{kind} {kind}", f"a {sign} b"
    for name, sign in UNSIGNED_COMPARISONS.items():
        yield f"setp.{name}.u{bits}", "pred", f"u{bits} u{bits}", f"a {sign} b"


def _fields(bits: int) -> Iterator[Entry]:
    kind, signed = f"u{bits}", f"s{bits}"
    yield f"bfe.u{bits}", kind, f"{kind} u32 u32", "field(a, b, c, false)"
    yield f"bfe.s{bits}", signed, f"{signed} u32 u32", f"field(({kind})a, b, c, true)"
    yield f"bfi.b{bits}", kind, f"{kind} {kind} u32 u32", "inserted(a, b, c, d)"
    yield f"brev.b{bits}", kind, kind, "reversed(a)"
    yield f"popc.b{bits}", "u32", kind, "ones(a)"
    yield f"clz.b{bits}", "u32", kind, f"{bits - 1} - top_bit(a)"
    for letter, of, value in (("u", kind, "a"), ("s", signed, f"({kind})(a < 0 ? ~a : a)")):
        yield f"bfind.{letter}{bits}", "u32", of, f"top_bit({value})"
        shift = f"({value}) ? {bits - 1} - top_bit({value}) : ~0u"
        yield f"bfind.shiftamt.{letter}{bits}", "u32", of, shift


def _words() -> Iterator[Entry]:
    yield "prmt.b32", "u32", "u32 u32 u32", "permuted(a, b, c)"
    yield "lop3.b32", "u32", "u32 u32 u32 u32", "looked_up(a, b, c, d)"
    for mode, shift in (("wrap", "(c & 31)"), ("clamp", "(c < 32 ? c : 32)")):
        both = "(((u64)b << 32) | a)"
        yield f"shf.l.{mode}.b32", "u32", "u32 u32 u32", f"({both} << {shift}) >> 32"
        yield f"shf.r.{mode}.b32", "u32", "u32 u32 u32", f"{both} >> {shift}"


def _predicates() -> Iterator[Entry]:
    for name, sign in (("and", "&"), ("or", "|"), ("xor", "^")):
        yield f"{name}.pred", "pred", "pred pred", f"a {sign} b"
    yield "not.pred", "pred", "pred", "a ^ 1"
    yield "mov.pred", "pred", "pred", "a"
