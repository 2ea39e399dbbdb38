"""The simulator's reader understands part of PTX, and refuses the rest."""

import re

import numpy as np
import pytest
from small_ptx import KERNEL, STORE, aligned, needs_compiler, program, run

from bench.simulator import core
from bench.simulator.core import Region, Schedule
from bench.simulator.instructions import NUMBERS, OPERATIONS, generated_cases
from bench.simulator.reader import Parameter, Unsupported, read


def kernel(body: str, threads: int = 32) -> str:
    return KERNEL.format(body=body, threads=threads)


@pytest.mark.parametrize(
    "instruction",
    [
        "atom.global.add.u32 %r2, [%rd1], 1;",
        "red.global.add.u32 [%rd1], 1;",
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%r2}, {%r3}, {%r4}, {%r5};",
        "wgmma.fence.sync.aligned;",
        "cp.async.wait_all;",
        "add.rz.f32 %r2, %r3, %r4;",
        "add.cc.u32 %r2, %r3, %r4;",
        "frobnicate.b32 %r2, %r3;",
        "setp.lt.and.s32 %p1, %r1, %r2, %p2;",
        "ld.acquire.gpu.global.b32 %r2, [%rd1];",
        "ld.b32 %r2, [%rd1];",
        "ld.local.b32 %r2, [%rd1];",
        "ld.const.b32 %r2, [%rd1];",
        "ld.global.v3.b32 {%r2, %r3, %r4}, [%rd1];",
        "ld.global.v2.b32 {%r2, %r3, %r4, %r5}, [%rd1];",
        "ld.global.v8.b64 {%rd3,%rd4,%rd5,%rd6,%rd7,%rd8,%rd9,%rd10}, [%rd1];",
        "ld.global.b32 %rs1, [%rd1];",
        "ld.global.b32 %r2, [%r3];",
        "ld.shared.b32 %r2, [%rd1];",
        "ld.shared.b32 %r2, [unknown];",
        "st.shared::cluster.b32 [%r2], %r3;",
        "add.s32 %r2, %r3;",
        "add.s32 %r2, %r3, %rd1;",
        "add.s32 %r2, %r3, %unknown;",
        "add.s32 %p1, %r3, %r4;",
        "add.s32 5, %r3, %r4;",
        "add.s32 %r2, %r3, 0d3FF0000000000000;",
        "add.f32 %r2, %r3, 1;",
        "mov.u32 %r2, %clock;",
        "mov.u32 %r2, %cluster_ctarank;",
        "mov.u64 %rd3, %tid.x;",
        "selp.b32 %r2, %r3, %r4, %r5;",
        "cvt.rz.f32.f64 %r2, %rd3;",
        "cvt.rn.satfinite.e4m3x2.f32 %rs1, %r2, %r3;",
        "bar.sync 1, 16;",
        "bar.sync %r2;",
        "bar.arrive 1, 32;",
        "shfl.bfly.b32 %r2, %r3, 1, 31;",
        "shfl.sync.bfly.b32 %rd3, %rd4, 1, 31, -1;",
        "ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%r2}, [%r3];",
        "ldmatrix.sync.aligned.m16n16.x1.trans.shared.b8 {%r2, %r3}, [%r3];",
        "mov.b64 {%r2, %r3, %r4}, %rd3;",
        "mov.b32 {%r2, %r3}, %rd3;",
        "call.uni (retval0), foo, (param0);",
        "brx.idx %r2, targets;",
        "bra $nowhere;",
        "@%r2 bra $nowhere;",
        "trap;",
        "fence.acq_rel.gpu;",
        ".local .align 4 .b8 depot[16];",
        ".reg .b128 %wide;",
        "ld.param.b32 %r2, [other_param_0];",
    ],
)
def test_the_unknown_is_refused(instruction):
    with pytest.raises(Unsupported) as caught:
        read(kernel(instruction))
    message = str(caught.value)
    assert "small" in message
    assert " ".join(instruction.rstrip(";").split()) in message
    assert "/where/small.py:7" in message


def test_a_call_chain_is_named():
    body = ".loc 1 20 5\n.loc 2 30 6, function_name $L__info0, inlined_at 1 20 5\nbad.b32 %r2, %r3;"
    with pytest.raises(Unsupported, match=r"other\.py:30, called at /where/small\.py:20"):
        read(kernel(body) + '.file 2 "/where/other.py"\n')


def test_source_lines():
    body = """.loc 1 20 5
        mov.b32 %r2, 1;
        .loc 2 30 6, function_name $L__info0, inlined_at 1 20 5
        mov.b32 %r2, 2;
        .loc 2 40 7, function_name $L__info1, inlined_at 2 30 6
        mov.b32 %r2, 3; mov.b32 %r2, 4;
        .loc 1 21 1
        mov.b32 %r2, 5;"""
    small = read(kernel(body) + '.file 2 "/where//other.py"\n')
    outer, inner = ("/where/small.py", 20), ("/where//other.py", 30)
    deepest = ("/where//other.py", 40)
    assert small.sources[3:8] == [
        (outer,),
        (outer, inner),
        (outer, inner, deepest),
        (outer, inner, deepest),
        (("/where/small.py", 21),),
    ]
    assert small.mnemonics[3] == "mov.b32"
    assert small.text[3] == "mov.b32 %r2, 1"
    assert len(small.text) == len(small.sources) == len(small.mnemonics) == len(small.instructions)


def test_head():
    small = program("")
    assert (small.name, small.threads) == ("small", 32)
    assert small.parameters == [Parameter("u64", 8), Parameter("u64", 8)]
    text = kernel("")
    assert read(text.replace(".reqntid 32", ".maxntid 64, 2, 1")).threads == 128
    with pytest.raises(Unsupported, match=r"needs \.reqntid or \.maxntid"):
        read(text.replace(".reqntid 32", ""))
    with pytest.raises(Unsupported, match="threads must be 1 to 1024"):
        read(text.replace(".reqntid 32", ".reqntid 2048"))
    with pytest.raises(Unsupported, match="one kernel, got 2"):
        read(text + text)
    with pytest.raises(Unsupported, match="one kernel, got 0"):
        read(".version 8.7")
    array = text.replace(
        ".param .u64 .ptr .global .align 1 small_param_1", ".param .b8 small_param_1[128]"
    )
    with pytest.raises(Unsupported, match="a parameter must be a number"):
        read(array)
    with pytest.raises(Unsupported, match="ends within"):
        read(text[: text.index("ret;")])


def test_comments_are_no_instructions():
    body = "mov.b32 %r2, 1; // bad.b32 %r2;\n/* worse.b32 %r2;\n */ mov.b32 %r3, 2; // { }"
    assert program(body).mnemonics[3:] == ["mov.b32", "mov.b32", "ret"]


@needs_compiler
def test_blocks_have_their_own_registers():
    body = """mov.b32 %r2, 5;
        {
            .reg .b32 %r2, t<2>;
            mov.b32 %r2, 7;
            mov.b32 t1, %r2;
            add.s32 %r9, t1, 1;
        }
        add.s32 %r9, %r9, %r2;"""
    assert run(body + STORE).out[0] == 13
    with pytest.raises(Unsupported, match="t1"):
        program("{ .reg .b32 t<2>; mov.b32 t1, 1; } mov.b32 %r2, t1;")


@needs_compiler
@pytest.mark.parametrize(
    ("constant", "want"),
    [
        ("-1", -1),
        ("0x10", 16),
        ("0xFFFFFFFFU", -1),
        ("010", 8),
        ("0b101", 5),
        ("0f40490FDB", 0x40490FDB),
        ("WARP_SZ", 32),
        ("global_smem", 0),
        ("global_smem+24", 24),
    ],
)
def test_constants(constant, want):
    assert run(f"mov.b32 %r9, {constant}; {STORE}").out[0] == want


@needs_compiler
def test_modifiers_that_change_no_number():
    given = np.array([5, 6, 7, 8], np.int32)
    for load in (
        "ld.global.nc.L1::evict_last.L2::128B.b32 %r9, [%rd2+4]",
        "ld.volatile.global.b32 %r9, [%rd2+4]",
        "ld.global.cg.v2.b32 {_, %r9}, [%rd2]",
        "createpolicy.fractional.L2::evict_last.b64 %rd5, 1.0;"
        "ld.global.L1::evict_last.L2::cache_hint.b32 %r9, [%rd2+4], %rd5",
        "cvta.to.global.u64 %rd6, %rd2; ld.global.b32 %r9, [%rd6+4]",
    ):
        assert run(f"{load}; {STORE}", given=given).out[0] == 6


@needs_compiler
def test_barriers_of_all_threads():
    body = "bar.sync 0; barrier.sync.aligned 1; bar.sync 2, 64; barrier.cta.sync 0;"
    assert run(body, threads=64).execution.barriers == 4


@needs_compiler
def test_parameters():
    text = kernel(
        """ld.param.f32 %r2, [small_param_2]; st.global.b32 [%rd1], %r2;
        ld.param.s32 %rd3, [small_param_3]; st.global.b64 [%rd1+8], %rd3;
        ld.param.u16 %rs1, [small_param_4]; st.global.b16 [%rd1+16], %rs1;
        ld.param.b32 %r3, [small_param_5+4]; st.global.b32 [%rd1+20], %r3;
        ld.param.b32 %r4, [small_param_6]; st.global.b32 [%rd1+24], %r4;"""
    )
    more = (".f32", ".u32", ".u16", ".f64", ".u32")
    declared = "".join(f",\n.param {kind} small_param_{k}" for k, kind in enumerate(more, 2))
    text = re.sub(r"(small_param_1)(\n\))", rf"\1{declared}\2", text)
    out = aligned(32)
    at = out.ctypes.data
    region = Region(at, 32)
    core.execute(read(text), (1, 1, 1), 0, [at, 0, 1.5, -3, -2, 2.5], [region], Schedule())
    assert out[:4].view(np.float32)[0] == 1.5
    assert out[8:16].view(np.int64)[0] == -3
    assert out[16:18].view(np.int16)[0] == -2
    assert out[20:24].view(np.uint32)[0] == 0x40040000  # the upper half of 2.5
    assert out[24:28].view(np.uint32)[0] == 0  # left out


def test_each_instruction_has_a_case_of_its_own():
    cases = "".join(generated_cases(part, 3) for part in range(3))
    numbers = [int(n) for n in re.findall(r"^case (\d+):", cases, re.MULTILINE)]
    assert sorted(numbers) == sorted(NUMBERS[name] for name in OPERATIONS)
