"""Races, accesses out of bounds and the rest of what the simulator finds, by hand; its build."""

import numpy as np
import pytest
from small_ptx import STORE, aligned, needs_compiler, program, run

from bench.simulator import build, core
from bench.simulator.core import CompilerMissing, Kind, Region, Schedule, describe

pytestmark = needs_compiler

LANES = np.arange(32)


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
