"""The simulator's counters, and how it runs warps, on kernels written by hand."""

import numpy as np
import pytest
from small_ptx import STORE, needs_compiler, run

from bench.simulator.core import Kind

pytestmark = needs_compiler

LANES = np.arange(32)


def offset(shift: int, access: str) -> str:
    """An access of each lane at its number times a power of two."""
    return f"shl.b32 %r2, %r1, {shift};\n{access};"


WORD = "st.shared.b32 [%r2], %r1"
TWO = "st.shared.v2.b32 [%r2], {%r1, %r1}"
FOUR = "st.shared.v4.b32 [%r2], {%r1, %r1, %r1, %r1}"
MATRICES = "stmatrix.sync.aligned.m8n8.x4.shared.b16 [%r2], {%r1, %r1, %r1, %r1}"


@pytest.mark.parametrize(
    ("body", "wavefronts", "least"),
    [
        (offset(2, WORD), 1, 1),
        (offset(3, WORD), 2, 1),
        (offset(4, WORD), 4, 1),
        (offset(7, WORD), 32, 1),
        (offset(1, "st.shared.b16 [%r2], %rs1"), 1, 1),
        (offset(3, TWO), 2, 2),
        (offset(4, TWO), 4, 2),
        (offset(4, FOUR), 4, 4),
        (offset(5, FOUR), 8, 4),
        (offset(4, MATRICES), 4, 4),
        (offset(7, MATRICES), 32, 4),
        ("mov.b32 %r2, 0; ld.shared.b32 %r3, [%r2];", 1, 1),
        ("mad.lo.s32 %r2, %r1, 132, 0; st.shared.b32 [%r2], %r1;", 1, 1),
        ("setp.lt.u32 %p1, %r1, 8; shl.b32 %r2, %r1, 7; @%p1 st.shared.b32 [%r2], %r1;", 8, 1),
        ("setp.lt.u32 %p1, %r1, 8; shl.b32 %r2, %r1, 4; @%p1 " + FOUR + ";", 1, 1),
    ],
)
def test_wavefronts(body, wavefronts, least):
    ran = run(body)
    assert (ran.total("wavefronts"), ran.total("conflict_free")) == (wavefronts, least)


@pytest.mark.parametrize(
    ("access", "stride", "sectors", "lines", "moved"),
    [
        ("ld.global.b32 %r9, [%rd4]", 4, 4, 1, 128),
        ("ld.global.b32 %r9, [%rd4]", 8, 8, 2, 128),
        ("ld.global.b32 %r9, [%rd4]", 128, 32, 32, 128),
        ("ld.global.b32 %r9, [%rd4]", 0, 1, 1, 128),
        ("ld.global.b16 %rs1, [%rd4]", 2, 2, 1, 64),
        ("ld.global.v4.b32 {%r3, %r4, %r5, %r6}, [%rd4]", 16, 16, 4, 512),
    ],
)
def test_sectors_and_lines(access, stride, sectors, lines, moved):
    body = f"mul.wide.u32 %rd3, %r1, {stride}; add.s64 %rd4, %rd2, %rd3; {access};"
    ran = run(body, given=np.zeros(1024, np.int32))
    found = [ran.total(name) for name in ("sectors", "lines", "moved")]
    assert found == [sectors, lines, moved]
    assert not ran.kinds


def test_executions_and_lanes_are_counted():
    ran = run("setp.lt.u32 %p1, %r1, 40; @%p1 add.s32 %r9, %r1, 1;", threads=64, programs=3)
    at = ran.program.mnemonics.index("add.s32")
    assert ran.execution.executed[at] == 6
    assert ran.execution.active[at] == 3 * 40


def test_stmatrix_and_ldmatrix_hold_what_the_manual_says():
    # Numbers 2 i and 2 i + 1 in lane i are in order in memory: row i / 4, columns 2 (i % 4), + 1.
    pair = "mul.lo.s32 %r4, %r1, 131074; add.s32 %r4, %r4, 65536;"
    store = "stmatrix.sync.aligned.m8n8.x1.shared.b16 [%r2], {%r4}; bar.warp.sync -1;"
    back = "shl.b32 %r5, %r1, 2; ld.shared.b32 %r9, [%r5];"
    ran = run(f"shl.b32 %r2, %r1, 4; {pair} {store} {back} {STORE}")
    want = (2 * LANES + 1) << 16 | 2 * LANES
    np.testing.assert_array_equal(ran.out[:32], want)
    load = "ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r9}, [%r2];"
    np.testing.assert_array_equal(
        run(f"shl.b32 %r2, %r1, 4; {pair} {store} {load} {STORE}").out[:32], want
    )


def test_transposed_matrices():
    pair = "mul.lo.s32 %r4, %r1, 131074; add.s32 %r4, %r4, 65536; shl.b32 %r2, %r1, 4;"
    store = "stmatrix.sync.aligned.m8n8.x1{}.shared.b16 [%r2], {{%r4}}; bar.warp.sync -1;"
    load = "ldmatrix.sync.aligned.m8n8.x1{}.shared.b16 {{%r9}}, [%r2];"
    matrix = np.arange(64).reshape(8, 8)
    want = matrix.T.reshape(32, 2)
    for trans in (("", ".trans"), (".trans", "")):
        ran = run(pair + store.format(trans[0]) + load.format(trans[1]) + STORE)
        halves = ran.out[:32].view(np.int16).reshape(32, 2)
        np.testing.assert_array_equal(halves, want)
    ran = run(pair + store.format(".trans") + load.format(".trans") + STORE)
    np.testing.assert_array_equal(ran.out[:32].view(np.int16).reshape(8, 8), matrix)


def test_several_matrices():
    rows = (
        "shl.b32 %r2, %r1, 4; add.s32 %r3, %r1, 100; add.s32 %r4, %r1, 200; add.s32 %r5, %r1, 300;"
    )
    store = (
        "stmatrix.sync.aligned.m8n8.x4.shared.b16 [%r2], {%r1, %r3, %r4, %r5}; bar.warp.sync -1;"
    )
    load = "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r6, %r7, %r8, %r9}, [%r2];"
    np.testing.assert_array_equal(run(rows + store + load + STORE).out[:32], LANES + 300)


# ---------------------------------------------------------------- warps


def test_lanes_that_part_meet_again():
    ran = run(
        f"""setp.lt.u32 %p1, %r1, 7;
        @%p1 bra $A;
        add.s32 %r3, %r1, 100;
        bra.uni $B;
        $A:
        add.s32 %r3, %r1, 1000;
        $B:
        shfl.sync.bfly.b32 %r9, %r3, 16, 31, -1;
        {STORE}"""
    )
    other = LANES ^ 16
    np.testing.assert_array_equal(ran.out[:32], other + np.where(other < 7, 1000, 100))
    assert not ran.kinds


def test_loops_of_different_length():
    body = f"""mov.b32 %r9, 0; mov.b32 %r2, 0;
        $L: add.s32 %r9, %r9, 3; add.s32 %r2, %r2, 1;
        setp.le.u32 %p1, %r2, %r1; @%p1 bra $L;
        {STORE}"""
    np.testing.assert_array_equal(run(body, threads=64).out[:64], 3 * np.arange(1, 65))


def test_some_lanes_return_early():
    ran = run(f"setp.ge.u32 %p1, %r1, 20; add.s32 %r9, %r1, 1; @%p1 ret; {STORE}")
    np.testing.assert_array_equal(ran.out[:32], np.where(LANES < 20, LANES + 1, 0))


@pytest.mark.parametrize(
    ("form", "want"),
    [
        ("bfly.b32 %r9, %r1, 5, 31, -1", LANES ^ 5),
        ("idx.b32 %r9, %r1, 3, 31, -1", np.full(32, 3)),
        ("up.b32 %r9, %r1, 2, 0, -1", np.maximum(LANES - 2, np.where(LANES < 2, LANES, 0))),
        ("down.b32 %r9, %r1, 2, 31, -1", np.where(LANES < 30, LANES + 2, LANES)),
        # segments of 8 lanes: clamp 31, mask 24
        ("idx.b32 %r9, %r1, 3, 6175, -1", LANES // 8 * 8 + 3),
        ("down.b32 %r9, %r1, 2, 6175, -1", np.where(LANES % 8 < 6, LANES + 2, LANES)),
        ("up.b32 %r9, %r1, 1, 6144, -1", np.where(LANES % 8 > 0, LANES - 1, LANES)),
    ],
)
def test_shuffles(form, want):
    ran = run(f"shfl.sync.{form}; {STORE}")
    np.testing.assert_array_equal(ran.out[:32], want)
    assert not ran.kinds


def test_a_shuffle_says_whether_its_lane_is_there():
    ran = run(f"shfl.sync.down.b32 %r2|%p1, %r1, 4, 31, -1; selp.b32 %r9, 1, 0, %p1; {STORE}")
    np.testing.assert_array_equal(ran.out[:32], LANES < 28)


def test_a_shuffle_from_an_absent_lane():
    ran = run(
        f"setp.lt.u32 %p1, %r1, 16; @%p1 shfl.sync.bfly.b32 %r9, %r1, 16, 31, 0xffff; {STORE}"
    )
    assert ran.kinds == {Kind.ABSENT_LANE}
    ran = run(f"setp.lt.u32 %p1, %r1, 16; @%p1 shfl.sync.bfly.b32 %r9, %r1, 1, 31, -1; {STORE}")
    assert ran.kinds == {Kind.APART}


@pytest.mark.parametrize(
    ("body", "want"),
    [
        ("redux.sync.max.s32 %r9, %r1, -1;", 31),
        ("redux.sync.min.u32 %r9, %r1, -1;", 0),
        ("redux.sync.add.s32 %r9, %r1, -1;", 496),
        ("redux.sync.xor.b32 %r9, %r1, -1;", 0),
        ("redux.sync.or.b32 %r9, %r1, -1;", 31),
        ("redux.sync.and.b32 %r9, %r1, -1;", 0),
        ("neg.s32 %r2, %r1; redux.sync.min.s32 %r9, %r2, -1;", -31),
        ("neg.s32 %r2, %r1; redux.sync.max.u32 %r9, %r2, -1;", -1),
        ("cvt.rn.f32.s32 %r2, %r1; redux.sync.max.f32 %r9, %r2, -1;", 0x41F80000),
        (
            "cvt.rn.f32.s32 %r2, %r1; neg.f32 %r2, %r2; redux.sync.max.abs.f32 %r9, %r2, -1;",
            0x41F80000,
        ),
        ("vote.sync.ballot.b32 %r9, %p1, -1;", 0x7F),
        ("vote.sync.ballot.b32 %r9, !%p1, -1;", ~0x7F),
        ("vote.sync.any.pred %p2, %p1, -1; selp.b32 %r9, 1, 0, %p2;", 1),
        ("vote.sync.all.pred %p2, %p1, -1; selp.b32 %r9, 1, 0, %p2;", 0),
        ("vote.sync.uni.pred %p2, %p1, -1; selp.b32 %r9, 1, 0, %p2;", 0),
        ("activemask.b32 %r9;", -1),
        ("match.any.sync.b32 %r9, 7, -1;", -1),
        ("match.all.sync.b32 %r9|%p2, %r1, -1;", 0),
        ("elect.sync %r9|%p2, -1;", 0),
    ],
)
def test_collectives(body, want):
    ran = run(f"setp.lt.u32 %p1, %r1, 7; {body} {STORE}")
    np.testing.assert_array_equal(ran.out[:32], np.full(32, want).astype(np.int64).astype(np.int32))


def test_match_and_elect_tell_lanes_apart():
    ran = run(f"and.b32 %r2, %r1, 1; match.any.sync.b32 %r9, %r2, -1; {STORE}")
    want = np.where(LANES % 2, 0xAAAAAAAA, 0x55555555)
    np.testing.assert_array_equal(ran.out[:32].view(np.uint32), want)
    ran = run(f"elect.sync _|%p1, -1; selp.b32 %r9, 1, 0, %p1; {STORE}")
    np.testing.assert_array_equal(ran.out[:32], LANES == 0)


def test_special_registers():
    for name, want in (
        ("%laneid", np.arange(64) % 32),
        ("%warpid", np.arange(64) // 32),
        ("%ntid.x", np.full(64, 64)),
        ("%tid.y", np.zeros(64)),
        ("%nctaid.x", np.full(64, 1)),
        ("%lanemask_lt", (1 << np.arange(64) % 32) - 1),
    ):
        np.testing.assert_array_equal(
            run(f"mov.u32 %r9, {name}; {STORE}", threads=64).out[:64], want
        )
