"""The table of PTX's floating-point instructions.

The core computes approximate instructions in float64, and `near` perturbs their results by a share
of the error that PTX's manual allows: see approximate.h.
"""

from __future__ import annotations

from collections.abc import Iterator

from bench.simulator.operation import Entry

ORDERED = {"eq": "==", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
SIGNS = {"add": "+", "sub": "-", "mul": "*"}


def entries() -> Iterator[Entry]:
    """Yield every instruction of this kind."""
    for kind in ("f32", "f64"):
        yield from _moves(kind)
        yield from _comparisons(kind)
        yield from _tests(kind)
    yield from _double()
    for flush in (False, True):
        yield from _single(flush)
        yield from _extremes(flush)
        yield from _approximate(flush)
        yield from _pairs(flush)
    yield "tanh.approx.f32", "f32", "f32", "near(std::tanh((double)a), 4096 * ulp)"
    for kind in ("f16", "bf16"):
        yield from _halves(kind)
        yield from _halves(kind, pairs=True)


def _moves(kind: str) -> Iterator[Entry]:
    yield f"mov.{kind}", kind, kind, "a"
    yield f"selp.{kind}", kind, f"{kind} {kind} pred", "c ? a : b"
    yield f"slct.{kind}.s32", kind, f"{kind} {kind} s32", "c >= 0 ? a : b"
    yield f"slct.{kind}.f32", kind, f"{kind} {kind} f32", "c >= 0 ? a : b"
    yield f"copysign.{kind}", kind, f"{kind} {kind}", "std::copysign(b, a)"


def _comparisons(kind: str) -> Iterator[Entry]:
    for flush in (False, True) if kind == "f32" else (False,):
        a, b = ("flushed(a)", "flushed(b)") if flush else ("a", "b")
        ending = f".ftz.{kind}" if flush else f".{kind}"
        operands = f"{kind} {kind}"
        for name, sign in ORDERED.items():
            yield f"setp.{name}{ending}", "pred", operands, f"{a} {sign} {b}"
            unordered = f"({a} {sign} {b}) | (a != a) | (b != b)"
            yield f"setp.{name}u{ending}", "pred", operands, unordered
        yield f"setp.ne{ending}", "pred", operands, f"({a} < {b}) | ({a} > {b})"
        yield f"setp.neu{ending}", "pred", operands, f"!({a} == {b})"
        yield f"setp.num{ending}", "pred", operands, "(a == a) & (b == b)"
        yield f"setp.nan{ending}", "pred", operands, "(a != a) | (b != b)"


def _tests(kind: str) -> Iterator[Entry]:
    limits = f"std::numeric_limits<{kind}>"
    finite = f"std::fabs(a) <= {limits}::max()"
    for name, test in (
        ("finite", finite),
        ("infinite", f"std::fabs(a) == {limits}::infinity()"),
        ("number", "a == a"),
        ("notanumber", "a != a"),
        ("normal", f"(std::fabs(a) >= {limits}::min()) & ({finite})"),
        ("subnormal", f"(a != 0) & (std::fabs(a) < {limits}::min())"),
    ):
        yield f"testp.{name}.{kind}", "pred", kind, test


def _double() -> Iterator[Entry]:
    for name, sign in SIGNS.items():
        for rounding in ("", ".rn"):
            yield f"{name}{rounding}.f64", "f64", "f64 f64", f"a {sign} b"
    yield "fma.rn.f64", "f64", "f64 f64 f64", "std::fma(a, b, c)"
    yield "div.rn.f64", "f64", "f64 f64", "a / b"
    yield "rcp.rn.f64", "f64", "f64", "1 / a"
    yield "sqrt.rn.f64", "f64", "f64", "std::sqrt(a)"
    yield "neg.f64", "f64", "f64", "-a"
    yield "abs.f64", "f64", "f64", "std::fabs(a)"
    yield "min.f64", "f64", "f64 f64", "smaller(a, b)"
    yield "max.f64", "f64", "f64 f64", "larger(a, b)"


def _single(flush: bool) -> Iterator[Entry]:
    z = ".ftz" if flush else ""
    a, b, c = (f"flushed({name})" if flush else name for name in "abc")

    def result(value: str) -> str:
        return f"flushed(canonical({value}))" if flush else f"canonical({value})"

    for saturation in ("", ".sat"):
        limit = "saturated_unit" if saturation else ""
        for name, sign in SIGNS.items():
            for rounding in ("", ".rn"):
                value = f"{limit}({result(f'{a} {sign} {b}')})"
                yield f"{name}{rounding}{z}{saturation}.f32", "f32", "f32 f32", value
        value = f"{limit}({result(f'std::fma({a}, {b}, {c})')})"
        yield f"fma.rn{z}{saturation}.f32", "f32", "f32 f32 f32", value
    yield f"div.rn{z}.f32", "f32", "f32 f32", result(f"{a} / {b}")
    yield f"rcp.rn{z}.f32", "f32", "f32", result(f"1 / {a}")
    yield f"sqrt.rn{z}.f32", "f32", "f32", result(f"std::sqrt({a})")
    # Only the sign changes, also that of NaN.
    yield f"neg{z}.f32", "f32", "f32", f"-{a}"
    yield f"abs{z}.f32", "f32", "f32", f"std::fabs({a})"


def _extremes(flush: bool) -> Iterator[Entry]:
    z = ".ftz" if flush else ""
    a, b, c = (f"flushed({name})" if flush else name for name in "abc")
    for name, function in (("min", "smaller"), ("max", "larger")):
        for ending, of in (("", function), (".NaN", f"{function}_or_nan")):
            yield f"{name}{z}{ending}.f32", "f32", "f32 f32", f"{of}({a}, {b})"
            three = f"{of}({of}({a}, {b}), {c})"
            yield f"{name}{z}{ending}.f32@3", "f32", "f32 f32 f32", three


def _approximate(flush: bool) -> Iterator[Entry]:
    z = ".ftz" if flush else ""
    a, b = (f"(double)flushed({name})" if flush else f"(double){name}" for name in "ab")

    def result(value: str, ulps: int) -> str:
        of = f"near({value}, {ulps} * ulp)"
        return f"flushed({of})" if flush else of

    quotient = result(f"{a} / {b}", 2)
    yield f"div.full{z}.f32", "f32", "f32 f32", quotient
    # By PTX's manual a divisor above 2^126 gives 0, or NaN for an infinite dividend.
    large = "std::fabs(b) > 0x1p126f && std::fabs(b) <= std::numeric_limits<f32>::max()"
    beyond = "canonical(std::copysign(a * 0.0f, sign_of(a) == sign_of(b) ? 1.0f : -1.0f))"
    yield f"div.approx{z}.f32", "f32", "f32 f32", f"{large} ? {beyond} : {quotient}"
    yield f"rcp.approx{z}.f32", "f32", "f32", result(f"1 / {a}", 1)
    yield f"rsqrt.approx{z}.f32", "f32", "f32", result(f"1 / std::sqrt({a})", 1)
    yield f"sqrt.approx{z}.f32", "f32", "f32", result(f"std::sqrt({a})", 1)
    yield f"ex2.approx{z}.f32", "f32", "f32", result(f"std::exp2({a})", 2)
    # The error of lg2 is absolute between 1/2 and 2, and that of sin and cos is everywhere.
    logarithm = f"near_log(std::log2({a}), ulp)"
    yield f"lg2.approx{z}.f32", "f32", "f32", f"flushed({logarithm})" if flush else logarithm
    for name in ("sin", "cos"):
        wave = f"off_by(std::{name}({a}), 0x1p-20 * ulp)"
        yield f"{name}.approx{z}.f32", "f32", "f32", f"flushed({wave})" if flush else wave


def _pairs(flush: bool) -> Iterator[Entry]:
    z = ".ftz" if flush else ""
    a, b, c = (f"flushed({name})" if flush else name for name in "abc")
    limit = "flushed" if flush else ""
    for name, sign in SIGNS.items():
        value = f"{limit}(canonical({a} {sign} {b}))"
        for rounding in ("", ".rn"):
            yield f"{name}{rounding}{z}.f32x2", "f32x2", "f32x2 f32x2", value
    value = f"{limit}(canonical(std::fma({a}, {b}, {c})))"
    yield f"fma.rn{z}.f32x2", "f32x2", "f32x2 f32x2 f32x2", value


def _halves(kind: str, pairs: bool = False) -> Iterator[Entry]:
    """Yield instructions that are computed in float32 and rounded once more.

    The second rounding changes no result but that of fma: a product of two halves has at most 22
    bits, and a sum rounded to 24 bits rounds to 11 like the exact sum. A fused product and sum may
    need more bits: `sum_to_odd` keeps a trace of the lost ones.
    """
    x2 = "x2" if pairs else ""
    whole = "u16x2" if pairs else "u16"
    a, b, c = (f"from_{kind}({name})" for name in "abc")
    for name, sign in SIGNS.items():
        for rounding in ("", ".rn"):
            value = f"to_{kind}({a} {sign} {b})"
            yield f"{name}{rounding}.{kind}{x2}", whole, f"{whole} {whole}", value
    fused = f"{kind}_rounded(sum_to_odd((double){a} * (double){b}, (double){c}))"
    yield f"fma.rn.{kind}{x2}", whole, f"{whole} {whole} {whole}", fused
    yield f"neg.{kind}{x2}", whole, whole, "a ^ 0x8000"
    yield f"abs.{kind}{x2}", whole, whole, "a & 0x7fff"
    for name, of in (("min", "smaller"), ("max", "larger")):
        value = f"to_{kind}({of}({a}, {b}))"
        yield f"{name}.{kind}{x2}", whole, f"{whole} {whole}", value
        value = f"to_{kind}({of}_or_nan({a}, {b}))"
        yield f"{name}.NaN.{kind}{x2}", whole, f"{whole} {whole}", value
    if pairs:
        return
    for name, sign in ORDERED.items():
        yield f"setp.{name}.{kind}", "pred", "u16 u16", f"{a} {sign} {b}"
    yield f"setp.neu.{kind}", "pred", "u16 u16", f"!({a} == {b})"
    yield f"setp.nan.{kind}", "pred", "u16 u16", f"({a} != {a}) | ({b} != {b})"
