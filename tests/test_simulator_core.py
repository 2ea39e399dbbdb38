"""The simulator's memory, warps, counters and findings, on kernels written by hand."""

import numpy as np
import pytest
from small_ptx import STORE, aligned, needs_compiler, program, run

from bench.simulator import build, core
from bench.simulator.core import CompilerMissing, Kind, Region, Schedule, describe

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


# ---------------------------------------------------------------- barriers and races

SWAP = (
    "shl.b32 %r2, %r1, 2; xor.b32 %r3, %r2, {}; st.shared.b32 [%r2], %r1; {} "
    "ld.shared.b32 %r9, [%r3];" + STORE
)


def test_two_warps_need_a_barrier():
    ran = run(SWAP.format(128, ""), threads=64)
    races = {Kind.SHARED_READ_AFTER_WRITE, Kind.SHARED_WRITE_AFTER_READ, Kind.SHARED_UNWRITTEN}
    assert ran.kinds & races
    assert ran.kinds <= races
    ran = run(SWAP.format(128, "bar.sync 0;"), threads=64)
    assert not ran.kinds
    assert ran.execution.barriers == 1
    np.testing.assert_array_equal(ran.out[:64], np.arange(64) ^ 32)


def test_one_warp_needs_a_warp_barrier():
    assert run(SWAP.format(4, "")).kinds == {Kind.SHARED_STEP_READ_AFTER_WRITE}
    assert Kind.SHARED_STEP_READ_AFTER_WRITE.severity == "lockstep"
    assert not run(SWAP.format(4, "bar.warp.sync -1;")).kinds
    shuffled = run(SWAP.format(4, "shfl.sync.bfly.b32 %r7, %r1, 1, 31, -1;"))
    assert shuffled.kinds == {Kind.SHARED_ORDERED_READ_AFTER_WRITE}


def test_a_later_write_needs_a_barrier_too():
    write = "bar.sync 0; ld.shared.b32 %r9, [%r3]; {} st.shared.b32 [%r2], %r9;"
    body = "shl.b32 %r2, %r1, 2; xor.b32 %r3, %r2, 128; st.shared.b32 [%r2], %r1;" + write
    kinds = {
        f
        for seed in range(4)
        for f in run(body.format(""), threads=64, schedule=Schedule(seed)).kinds
    }
    assert kinds & {Kind.SHARED_WRITE_AFTER_READ, Kind.SHARED_READ_AFTER_WRITE}
    assert not run(body.format("bar.sync 0;"), threads=64).kinds


def test_writes_to_one_place():
    place = "mov.b32 %r2, 0; st.shared.b32 [%r2], {};"
    ran = run(place.format("%r1"))
    assert ran.kinds == {Kind.SHARED_ONE_STORE}
    assert not run(place.format("7")).kinds
    assert run(place.format("7"), threads=64).kinds == {Kind.SHARED_SAME_VALUE}
    assert Kind.SHARED_SAME_VALUE.severity == "same value"
    ran = run("mov.u32 %r3, %warpid; " + place.format("%r3"), threads=64)
    assert ran.kinds == {Kind.SHARED_WRITE_AFTER_WRITE}
    (finding,) = ran.execution.findings
    assert {finding.found, finding.written} == {0, 1}
    assert finding.bytes == 4
    assert (finding.instruction, finding.other) == (5, 5)


def test_global_memory_within_a_program():
    body = "mul.wide.u32 %rd20, %r1, 4; add.s64 %rd21, %rd1, %rd20; st.global.b32 [%rd21], %r1; {}"
    body += "xor.b32 %r2, %r1, 32; mul.wide.u32 %rd22, %r2, 4; add.s64 %rd23, %rd1, %rd22;"
    body += "ld.global.b32 %r9, [%rd23];"
    kinds = run(body.format(""), threads=64).kinds
    assert kinds & {Kind.GLOBAL_READ_AFTER_WRITE, Kind.GLOBAL_WRITE_AFTER_READ}
    assert not run(body.format("bar.sync 0;"), threads=64).kinds


def test_two_programs():
    same = "st.global.b32 [%rd1], 5;"
    assert run(same, programs=2).kinds == {Kind.PROGRAMS_SAME_VALUE}
    own = "mov.u32 %r2, %ctaid.x; st.global.b32 [%rd1], %r2;"
    assert run(own, programs=2).kinds == {Kind.PROGRAMS_WRITE_AFTER_WRITE}
    apart = "mov.u32 %r2, %ctaid.x; mul.wide.u32 %rd3, %r2, 4; add.s64 %rd4, %rd1, %rd3;"
    apart += "st.global.b32 [%rd4], %r2; {}"
    assert not run(apart.format(""), programs=2).kinds
    reads = "xor.b32 %r3, %r2, 1; mul.wide.u32 %rd5, %r3, 4; add.s64 %rd6, %rd1, %rd5;"
    reads += "ld.global.b32 %r9, [%rd6];"
    kinds = run(apart.format(reads), programs=2, unwritten=False).kinds
    assert kinds == {Kind.PROGRAMS_READ_AFTER_WRITE, Kind.PROGRAMS_WRITE_AFTER_READ}


def test_barriers_that_not_all_reach():
    part = "setp.lt.u32 %p1, %r1, {}; @%p1 bra $A; {} $A: {}"
    ran = run(part.format(32, "bar.sync 0;", ""), threads=64)
    assert ran.kinds == {Kind.BARRIER_EXITED}
    ran = run(part.format(16, "bar.sync 0;", "bar.sync 0;"))
    assert Kind.BARRIER_APART in ran.kinds
    ran = run(part.format(32, "bar.sync 0; bra $B;", "bar.sync 0; $B:"), threads=64)
    assert ran.kinds == {Kind.BARRIERS_DIFFER}
    assert not run("setp.lt.u32 %p1, %r1, 0; @%p1 bar.sync 0;", threads=64).kinds


# ---------------------------------------------------------------- memory


def test_out_of_bounds():
    assert run("st.shared.b32 [%r1+1024], 1;".replace("%r1", "%r2"), shared=64).kinds >= {
        Kind.SHARED_OUTSIDE
    }
    ran = run("st.global.b32 [%rd1+4096], 1;", words=1024)
    assert ran.kinds == {Kind.GLOBAL_OUTSIDE}
    assert run("ld.global.b32 %r9, [%rd1+-4];", words=1024).kinds == {Kind.GLOBAL_OUTSIDE}
    # Half of the access is outside.
    assert run("st.global.b64 [%rd1+8], %rd1;", words=3).kinds == {Kind.GLOBAL_OUTSIDE}


def test_what_lies_outside_is_not_touched():
    ran = run("mov.b32 %r9, 1; ld.global.b32 %r9, [%rd1+64]; st.global.b32 [%rd1], %r9;", words=8)
    assert ran.kinds == {Kind.GLOBAL_OUTSIDE}
    assert ran.out[0] == -1


def test_misaligned():
    assert run("mov.b32 %r2, 2; st.shared.b32 [%r2], 1;").kinds == {Kind.MISALIGNED}
    load = "ld.global.v4.b32 {%r2, %r3, %r4, %r5}, [%rd2+4];"
    assert run(load, given=np.zeros(16, np.int32)).kinds == {Kind.MISALIGNED}
    row = "mov.b32 %r2, 4; ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r3}, [%r2];"
    assert Kind.MISALIGNED in run(row).kinds


def test_reads_of_what_nobody_wrote():
    assert run("mov.b32 %r2, 0; ld.shared.b32 %r9, [%r2];").kinds == {Kind.SHARED_UNWRITTEN}
    assert run("ld.global.b32 %r9, [%rd1];").kinds == {Kind.GLOBAL_UNWRITTEN}
    assert not run("st.global.b32 [%rd1], 1; bar.sync 0; ld.global.b32 %r9, [%rd1];").kinds
    # Shared memory starts anew in each program.
    once = "mov.u32 %r3, %ctaid.x; setp.eq.s32 %p1, %r3, 0; mov.b32 %r2, 0;"
    once += "@%p1 st.shared.b32 [%r2], 1; bar.sync 0; ld.shared.b32 %r9, [%r2];"
    assert run(once, programs=2, schedule=Schedule(shuffled=False)).kinds == {Kind.SHARED_UNWRITTEN}


def test_stores_are_noted_as_written():
    out, bits = aligned(64), np.ones(64, np.uint8)
    regions = [Region(out.ctypes.data, 64, bits)]
    small = program("st.global.b16 [%rd1+2], 7;")
    core.execute(small, (1, 1, 1), 0, [out.ctypes.data], regions, Schedule())
    assert list(np.flatnonzero(bits == 0)) == [2, 3]


def test_narrow_loads_are_extended():
    given = np.array([-2, 1], np.int16)
    for kind, want in (("s16", -2), ("u16", 0xFFFE), ("s8", -2), ("u8", 0xFE)):
        load = f"ld.global.{kind} %r9, [%rd2]; st.global.b32 [%rd1], %r9;"
        assert run(load, given=given).out[0] == want


def test_registers_are_taken_apart_and_put_together():
    body = "mov.b64 %rd3, {%r1, 7}; mov.b64 {%r2, %r3}, %rd3; mov.b32 {%rs1, _}, %r3;"
    body += "cvt.u32.u16 %r4, %rs1; add.s32 %r9, %r2, %r4;"
    np.testing.assert_array_equal(run(body + STORE).out[:32], LANES + 7)


def test_256_bits_at_once():
    given = np.arange(8, dtype=np.int32)
    registers = ", ".join(f"%r{k}" for k in range(2, 10))
    body = f"ld.global.v8.b32 {{{registers}}}, [%rd2]; st.global.v8.b32 [%rd1], {{{registers}}};"
    ran = run(body, given=given)
    np.testing.assert_array_equal(ran.out[:8], given)


# ---------------------------------------------------------------- launches


def test_endless_loops_are_stopped(monkeypatch):
    monkeypatch.setattr(core, "STEPS", 10_000)
    ran = run("$L: bra $L;", threads=64, programs=3)
    (finding,) = ran.execution.findings
    assert finding.kind is Kind.ENDLESS
    assert finding.count == 1
    assert 9_000 < ran.execution.executed.sum() < 11_000


def test_the_seed_decides():
    body = SWAP.format(128, "")

    def found(seed: int) -> list[core.Finding]:
        return run(body, threads=256, schedule=Schedule(seed, slice=3)).execution.findings

    assert found(5) == found(5)
    assert any(found(5) != found(seed) for seed in range(6, 10))


def test_slices_change_no_result():
    body = SWAP.format(128, "bar.sync 0;")
    for size in (0, 1, 7):
        ran = run(body, threads=128, schedule=Schedule(3, slice=size))
        assert not ran.kinds
        np.testing.assert_array_equal(ran.out[:128], np.arange(128) ^ 32)


def test_unchecked_runs_find_no_races():
    ran = run(SWAP.format(128, ""), threads=64, schedule=Schedule(checked=False))
    assert not ran.kinds


def test_a_finding_in_words():
    ran = run("mov.u32 %r3, %warpid; mov.b32 %r2, 0; st.shared.b32 [%r2], %r3;", threads=64)
    (finding,) = ran.execution.findings
    line = describe(finding, ran.program, "small", (1, 1, 1))
    assert "\n" not in line
    for part in (
        "small(1, 1, 1)",
        Kind.SHARED_WRITE_AFTER_WRITE.text,
        "/where/small.py:7",
        "wrote",
    ):
        assert part in line
    assert line.count("st.shared.b32 [%r2], %r3") == 2


def test_arguments_and_regions_are_checked():
    small = program("mov.b32 %r2, 1;")
    out = aligned(64)
    at = out.ctypes.data

    def launch(arguments=(), regions=(), grid=(1, 1, 1)):
        core.execute(small, grid, 0, arguments, regions, Schedule())

    launch()
    with pytest.raises(ValueError, match="3 arguments for 2 parameters"):
        launch([1, 2, 3])
    with pytest.raises(ValueError, match="overlap"):
        launch(regions=[Region(at, 64), Region(at + 32, 8)])
    with pytest.raises(ValueError, match="unwritten"):
        launch(regions=[Region(at, 64, np.zeros(3, np.uint8))])
    with pytest.raises(ValueError, match="grid"):
        launch(grid=(0, 1, 1))
    with pytest.raises(ValueError, match=r"1\.5"):
        launch([1.5])


def test_structures_that_differ_are_refused(monkeypatch):
    monkeypatch.setattr(core, "_layout", lambda: "Instruction 1\n")
    core._core.cache_clear()
    with pytest.raises(RuntimeError, match="differ between Python and C"):
        core.ready()
    monkeypatch.undo()
    core._core.cache_clear()
    core.ready()


# ---------------------------------------------------------------- the build


def test_without_a_compiler(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(CompilerMissing, match=r"needs a C\+\+ compiler"):
        build.built("")


def test_a_compiler_that_fails(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(CompilerMissing, match="cannot build"):
        build.built("")
    assert not list(tmp_path.rglob("*.so"))


def test_a_library_is_kept_for_each_processor_and_compiler(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    seen = []

    def pretended(compiler, flags, texts, path):
        seen.append(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    monkeypatch.setattr(build, "_build", pretended)
    monkeypatch.setattr(build.ctypes, "CDLL", lambda path: path)
    build.built("")
    build.built("")
    assert len(seen) == 1
    monkeypatch.setattr(build, "_processor", lambda: "another processor")
    build.built("")
    monkeypatch.setattr(build, "_version", lambda compiler: "another compiler")
    build.built("")
    assert len(set(seen)) == len(seen) == 3
