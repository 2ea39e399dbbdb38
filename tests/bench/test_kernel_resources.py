"""Machine code of some Triton kernels, compared exactly; `make resources` compares all."""

import os
import subprocess
import sys

import pytest

from bench import ROOT
from bench.compiled import kernel_resources as resources
from bench.compiled.machine_code import CUDA, HIP


def variant(**changed):
    fields = {
        "name": "gradient D=4096: fused",
        "arch": "sm_90",
        "module": "gaussreg_fast.kernels.loss_fused",
        "kernel": "fused",
        "dimension": 4096,
        "signature": {},
        "constants": {},
        "attributes": {},
        "options": {},
    }
    return resources.Variant(**{**fields, **changed})


def test_quick_variants_compile_to_the_recorded_numbers(tmp_path):
    """The smallest D, all kernels that one call launches, all architectures."""
    pytest.importorskip("triton", reason="there is no triton here")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TRITON_")}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    command = [sys.executable, "-m", "bench", "resources", "--check", "--only", "D=64:"]
    command += ["--jobs", "1"]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=300, cwd=ROOT
    )
    if done.returncode == 2:
        pytest.skip(done.stdout + done.stderr)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 8 variants" in done.stdout


def test_every_recorded_release_has_every_architecture():
    record = resources.read(resources.RECORD)
    assert record
    for release, table in record.items():
        assert list(table) == list(resources.ARCHS), release
        for arch, variants in table.items():
            assert all({"registers", "stack", "total"} <= set(n) for n in variants.values()), arch


# ---------------------------------------------------------------- what must hold


@pytest.mark.parametrize("what", ["registers", "stack", "shared", "total", "FFMA", "LDL"])
def test_a_changed_number_is_found_and_named(what):
    numbers = {"registers": 40, "stack": 0, "shared": 64, "total": 300, "FFMA": 7}
    recorded = {"sm_90": {"a": numbers, "b": numbers}, "sm_80": {"a": numbers}}
    assert resources.changes(recorded, recorded) == []
    old = numbers.get(what, 0)
    now = {**recorded, "sm_90": {"a": numbers, "b": {**numbers, what: old + 1}}}
    assert resources.changes(recorded, now) == [("sm_90", "b", what, str(old), str(old + 1))]
    assert resources.changes(now, recorded) == [("sm_90", "b", what, str(old + 1), str(old))]


def test_new_and_lost_variants_are_found():
    one, both = {"sm_90": {"a": {}}}, {"sm_90": {"a": {}, "b": {}}}
    assert resources.changes(one, both) == [("sm_90", "b", "variant", "-", "new")]
    assert resources.changes(both, one) == [("sm_90", "b", "variant", "recorded", "gone")]
    assert resources.changes(one, {}) == [("sm_90", "a", "variant", "recorded", "gone")]


@pytest.mark.parametrize("spill", [{"stack": 8}, {"LDL": 1}, {"STL": 1}])
def test_a_spill_fails_where_there_must_be_none(spill):
    def broken(**changed):
        return resources.broken_limits(variant(**changed), {"stack": 0, **spill})

    assert "spills" in broken()[0]
    assert "spills" in broken(module="gaussreg_fast.kernels.loss_large_rows", dimension=2**20)[0]
    assert not broken(dimension=32768)
    assert not broken(arch="sm_80")
    assert not broken(module="gaussreg_fast.kernels.loss_general")


def test_too_much_shared_memory_and_no_code_fail_everywhere():
    for arch, (_, limit) in resources.ARCHS.items():
        one = variant(arch=arch)
        assert resources.broken_limits(one, {"stack": 0, "shared": limit}) == []
        assert "shared memory" in resources.broken_limits(one, {"stack": 0, "shared": limit + 1})[0]
        assert "does not compile" in resources.broken_limits(one, {"failed": 1})[0]


def test_the_file_has_one_line_per_variant_and_releases_in_order(tmp_path):
    path = tmp_path / "record.json"
    table = {"sm_90": {"a": {"stack": 0, "FFMA": 3}, "b": {"stack": 8}}}
    resources.write(path, {"3.10.0": table, "3.9.0": table})
    assert list(resources.read(path).items()) == [("3.9.0", table), ("3.10.0", table)]
    assert sum("stack" in line for line in path.read_text().splitlines()) == 4


# ---------------------------------------------------------------- reading code


def test_instructions_are_read_from_a_listing():
    listing = """
        /*0000*/                   LDC R1, c[0x0][0x28] ;     /* 0x00000a00ff017b82 */
                                                              /* 0x000fe20000000800 */
        /*0010*/              @!P0 LDL.LU R2, [R1+0x4] ;      /* 0x0000000000007918 */
        /*0020*/             @!UPT UIADD3 UR4, UR4, 0x1 ;     /* 0x0000000000007918 */
        /*1e30*/                   FFMA.FTZ R2, R3, R4, R5 ;  /* 0x0000000000007918 */
    """
    assert CUDA.findall(listing) == ["LDC", "LDL", "UIADD3", "FFMA"]
    listing = "main:\n\ts_load_dword s0, s[0:1], 0x0\n\tv_fmac_f32_e32 v0, v1, v2\n\t.p2align 8\n"
    assert HIP.findall(listing) == ["s_load_dword", "v_fmac_f32_e32"]
