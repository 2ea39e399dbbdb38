"""Every arithmetic instruction of the simulator against references of whole numbers."""

import math
import re
from collections import defaultdict

import numpy as np
import pytest
from ptx_reference import CANONICAL, bits_of, number, reference
from small_ptx import needs_compiler, run

from bench.simulator.core import Schedule
from bench.simulator.instructions import OPERATIONS

pytestmark = needs_compiler

THREADS = 128
# Instruction type -> how its register is named and moved.
REGISTER = {2: "%rs", 4: "%r", 8: "%rd"}
WIDTH = {"u16": 2, "s16": 2, "u16x2": 4, "u32": 4, "s32": 4, "f32": 4}
APPROXIMATE = {
    "div.full": lambda a, b: a / b,
    "div.approx": lambda a, b: a / b,
    "rcp.approx": lambda a: 1 / a,
    "rsqrt.approx": lambda a: 1 / math.sqrt(a),
    "sqrt.approx": math.sqrt,
    "ex2.approx": lambda a: 2.0**a,
    "lg2.approx": math.log2,
    "sin.approx": math.sin,
    "cos.approx": math.cos,
    "tanh.approx": math.tanh,
}


# Bits of floating-point numbers: ones, infinities, NaNs, the largest, subnormals, ties, limits.
FLOATS = {
    16: (
        "3C00 BC00 7C00 FC00 7E01 FFFF 7BFF 0400 03FF 3F80 7F7F 7F80 FF80 7FC1 C248 4248 "
        "3E00 3FC0 4020"
    ),
    32: (
        "3F800000 BF800000 7F800000 FF800000 7FC00001 FFC00000 7F7FFFFF 00800000 007FFFFF "
        "3F808000 3F818000 3F801000 3F803000 477FF000 477FEFFF 7F7F8000 3F000000 3FC00000 "
        "40200000 C0200000 4F000000 CF000000 4F800000 5F000000 5F800000 33000000 33000001 42FE0000"
    ),
    64: (
        "3FF0000000000000 BFF0000000000000 7FF0000000000000 FFF0000000000000 7FF8000000000001 "
        "3FE0000000000000 3FF8000000000000 41E0000000000000 C1E0000000200000 43E0000000000000 "
        "43F0000000000000 0010000000000000 40EFFC0000000000 40EFFE0000000000 3FF0010000000000 "
        "47EFFFFFF0000000"
    ),
}


def plain(name: str) -> str:
    return re.split("[@>]", name)[0]


def width(kind: str) -> int:
    return WIDTH.get(kind, 8)


def by_signature() -> dict[tuple[str, ...], list[str]]:
    found = defaultdict(list)
    for name, operation in OPERATIONS.items():
        found[(operation.result, *operation.operands)].append(name)
    return found


def kernel(signature: tuple[str, ...], names: list[str]) -> str:
    """Loads each thread's operands from 8 bytes each, and stores results to 8 bytes each."""
    lines = ["mul.wide.u32 %rd20, %r1, 32; add.s64 %rd21, %rd2, %rd20;"]
    registers = []
    for k, kind in enumerate(signature[1:]):
        if kind == "pred":
            lines.append(f"ld.global.b32 %r3{k}, [%rd21+{8 * k}]; setp.ne.b32 %p{k}, %r3{k}, 0;")
            registers.append(f"%p{k}")
        else:
            registers.append(f"{REGISTER[width(kind)]}{10 + k}")
            lines.append(f"ld.global.b{8 * width(kind)} {registers[-1]}, [%rd21+{8 * k}];")
    lines.append(f"mul.wide.u32 %rd22, %r1, {8 * len(names)}; add.s64 %rd23, %rd1, %rd22;")
    for k, name in enumerate(names):
        sources = ", ".join(registers)
        if signature[0] == "pred":
            lines.append(f"{plain(name)} %p9, {sources}; selp.b32 %r9, 1, 0, %p9;")
            lines.append(f"st.global.b32 [%rd23+{8 * k}], %r9;")
        else:
            result = f"{REGISTER[width(signature[0])]}9"
            lines.append(f"{plain(name)} {result}, {sources};")
            lines.append(f"st.global.b{8 * width(signature[0])} [%rd23+{8 * k}], {result};")
    return "\n".join(lines)


def edges(kind: str) -> list[int]:
    """Bits of numbers at which arithmetic goes wrong, those of floats for every width."""
    if kind == "pred":
        return [0, 1]
    bits = 8 * width(kind)
    mask = (1 << bits) - 1
    whole = [0, 1, 2, 3, 5, 7, 8, 15, 16, 31, 32, 33, 63, 64, 127, 128, 255, 256, mask, mask - 1]
    whole += [1 << (bits - 1), (1 << (bits - 1)) - 1, 1 << (bits // 2), mask >> (bits // 2)]
    return whole + [int(digits, 16) for digits in FLOATS[bits].split()]


def sampled(kind: str, rng: np.random.Generator) -> list[int]:
    if kind == "pred":
        return [int(v) for v in rng.integers(0, 2, THREADS)]
    bits = 8 * width(kind)
    chosen = edges(kind)
    values = chosen + [int(v) for v in rng.integers(0, 2**bits, THREADS, dtype=np.uint64)]
    if bits == 64:
        values[len(chosen) :] = [int.from_bytes(rng.bytes(8), "little") for _ in range(THREADS)]
        if kind.endswith("x2"):
            parts = edges("f32")
            values = [int(rng.choice(parts)) | int(rng.choice(parts)) << 32 for _ in values]
    if kind == "u16x2":
        parts = edges("u16")
        values[::2] = [int(rng.choice(parts)) | int(rng.choice(parts)) << 16 for _ in values[::2]]
    return [values[int(k)] for k in rng.permutation(len(values))[:THREADS]]


def results(signature: tuple[str, ...], names: list[str], rng: np.random.Generator, **options):
    """(operands of each thread, results of each thread and instruction)."""
    operands = np.zeros((THREADS, 4), np.uint64)
    for k, kind in enumerate(signature[1:]):
        operands[:, k] = sampled(kind, rng)
    words = 2 * THREADS * len(names)
    body = kernel(signature, names)
    ran = run(body, threads=THREADS, given=operands, words=words, unwritten=False, **options)
    assert not ran.execution.findings
    given = [[int(v) for v in row[: len(signature) - 1]] for row in operands]
    return given, ran.out.view(np.uint64).reshape(THREADS, len(names))


def same(name: str, got: int, want: int, kind: str) -> bool:
    """Whether bits are equal; PTX leaves open which NaN a float64 or a widened bfloat16 is."""
    if got == want:
        return True
    free = kind == "f64" or name.startswith("cvt.f32.bf16")
    return free and math.isnan(number(got, kind)) and math.isnan(number(want, kind))


@pytest.mark.parametrize("signature", by_signature(), ids=" ".join)
def test_as_whole_numbers_say(signature):
    names = by_signature()[signature]
    exact = [name for name in names if reference(plain_key(name)) is not None]
    rng = np.random.default_rng(len(names))
    for _ in range(2):
        if not exact:
            break
        given, got = results(signature, exact, rng)
        for k, name in enumerate(exact):
            of = reference(plain_key(name))
            for operands, row in zip(given, got, strict=True):
                want = of(*operands)
                assert same(name, int(row[k]), want, signature[0]), (
                    f"{name} of {[hex(v) for v in operands]}: {int(row[k]):#x}, not {want:#x}"
                )


def plain_key(name: str) -> str:
    """min and max of three are those of two, applied twice."""
    return name.removesuffix("@3")


def test_only_approximations_have_no_reference():
    without = {name for name in OPERATIONS if reference(plain_key(name)) is None}
    assert without == {n for n in OPERATIONS if ".approx" in n or ".full" in n}
    assert {re.sub(r"(\.ftz)?\.f32", "", name) for name in without} == set(APPROXIMATE)


@pytest.mark.parametrize("name", [n for n in OPERATIONS if ".approx" in n or ".full" in n])
def test_approximations(name):
    operation = OPERATIONS[name]
    function = APPROXIMATE[re.sub(r"(\.ftz)?\.f32", "", name)]
    # Powers of two, and numbers from -40 to 40: no result is subnormal.
    values = np.concatenate([2.0 ** np.arange(-30, 34), np.linspace(-40, 40, 64)])
    values = values[np.abs(values) > 1e-10].astype(np.float32)
    values = np.resize(values, THREADS)
    operands = np.zeros((THREADS, 4), np.uint64)
    operands[:, 0] = values.view(np.uint32)
    operands[:, 1] = values[::-1].copy().view(np.uint32)
    body = kernel((operation.result, *operation.operands), [name])
    found = {}
    for ulp in (0.0, 1.0):
        ran = run(
            body, threads=THREADS, given=operands, unwritten=False, schedule=Schedule(ulp=ulp)
        )
        found[ulp] = ran.out.view(np.float32)[: 2 * THREADS : 2].astype(np.float64)
    for k, value in enumerate(values.astype(np.float64)):
        try:
            want = function(*(float(value), float(values[::-1][k]))[: len(operation.operands)])
        except OverflowError:
            want = math.inf
        except ValueError:  # roots and logarithms of negative numbers
            assert math.isnan(found[0.0][k])
            continue
        if want > 3e38:
            assert found[0.0][k] == math.inf
        elif abs(want) > 1e-37:
            np.testing.assert_allclose(found[0.0][k], want, rtol=2**-24)
            absolute = 2**-20 if "sin" in name or "cos" in name or "lg2" in name else 0
            wide = 2**-11 if "tanh" in name else 2**-21
            np.testing.assert_allclose(found[1.0][k], want, rtol=wide, atol=absolute)
    assert (found[0.0] != found[1.0]).any()


def one(instruction: str, *operands: str) -> int:
    """The result of one instruction with constants for operands, as 32 bits."""
    ran = run(f"{instruction} %r9, {', '.join(operands)}; st.global.b32 [%rd1], %r9;")
    return int(ran.out[0]) & 0xFFFFFFFF


def as_float(value: float) -> str:
    return f"0f{np.float32(value).view(np.uint32):08X}"


@pytest.mark.parametrize(
    ("instruction", "value", "want"),
    [
        ("cvt.rzi.s32.f32", math.nan, 0),
        ("cvt.rzi.s32.f32", 3e9, 0x7FFFFFFF),
        ("cvt.rzi.s32.f32", -3e9, 0x80000000),
        ("cvt.rzi.u32.f32", -1.0, 0),
        ("cvt.rzi.u32.f32", 5e9, 0xFFFFFFFF),
        ("cvt.rni.s32.f32", 2.5, 2),
        ("cvt.rni.s32.f32", 3.5, 4),
        ("cvt.rmi.s32.f32", -1.5, 0xFFFFFFFE),
        ("cvt.rpi.s32.f32", -1.5, 0xFFFFFFFF),
        ("sqrt.rn.f32", -1.0, 0x7FFFFFFF),
        ("neg.f32", 0.0, 0x80000000),
    ],
)
def test_conversions_saturate(instruction, value, want):
    assert one(instruction, as_float(value)) == want


def test_zeros_have_an_order():
    zero, minus = as_float(0.0), as_float(-0.0)
    assert one("min.f32", zero, minus) == one("min.f32", minus, zero) == 0x80000000
    assert one("max.f32", zero, minus) == one("max.f32", minus, zero) == 0
    assert one("min.f32", as_float(math.nan), as_float(1.0)) == 0x3F800000
    assert one("min.NaN.f32", as_float(math.nan), as_float(1.0)) == CANONICAL["f32"]


def test_approximate_division_by_large_numbers_is_zero():
    large = as_float(2.0**127)
    assert one("div.approx.f32", as_float(2.0**127), large) == 0
    assert one("div.approx.f32", as_float(-(2.0**127)), large) == 0x80000000
    assert one("div.approx.f32", as_float(math.inf), large) == CANONICAL["f32"]
    assert one("div.full.f32", as_float(2.0**127), large) == 0x3F800000


def test_shifts_stop_at_the_width():
    assert one("shl.b32", "1", "32") == one("shl.b32", "1", "1000") == 0
    assert one("shr.s32", "-8", "40") == 0xFFFFFFFF
    assert one("shr.u32", "-8", "40") == 0


def test_halves_as_torch_rounds():
    import torch

    rng = np.random.default_rng(3)
    values = np.concatenate(
        [
            rng.integers(0, 2**32, 2000, dtype=np.uint64).astype(np.uint32),
            (rng.integers(0, 2**16, 48).astype(np.uint32) << 16) | 0x8000,  # ties of bfloat16
        ]
    )
    body = "\n".join(
        f"add.s32 %r2, %r1, {start}; mul.wide.u32 %rd20, %r2, 4; add.s64 %rd21, %rd2, %rd20;"
        "ld.global.b32 %r3, [%rd21]; cvt.rn.{kind}.f32 %rs1, %r3; cvt.u32.u16 %r9, %rs1;"
        "add.s64 %rd22, %rd1, %rd20; st.global.b32 [%rd22], %r9;"
        for start in (0, 1024)
    )
    floats = torch.from_numpy(values.view(np.float32).copy())
    for kind, dtype in (("f16", torch.float16), ("bf16", torch.bfloat16)):
        ran = run(body.replace("{kind}", kind), threads=1024, given=values)
        want = floats.to(dtype).view(torch.int16).numpy().astype(np.int32) & 0xFFFF
        there = ~np.isnan(values.view(np.float32))
        np.testing.assert_array_equal(ran.out[there], want[there])
        assert (ran.out[~there] == 0x7FFF).all()
        assert bits_of(kind) == 16
