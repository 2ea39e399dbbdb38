"""`python -m bench counters`, and what it counts."""

import json
import re
from pathlib import Path

import pytest
from compiled_kernels import commands, python
from small_ptx import needs_compiler

from bench.simulator import bounds, records
from bench.simulator.counting import CLASSES, class_of, label, place
from bench.simulator.instructions import OPERATIONS

pytest.importorskip("triton", reason="there is no triton here")
pytestmark = needs_compiler


SMALL = "^gradient D=64 "


def test_the_counts_are_the_recorded_ones_and_a_worse_one_is_named_with_its_line(tmp_path):
    record = json.loads(records.RECORD.read_text())
    for archs in record["releases"].values():
        for table in archs.values():
            launch = table["gradient D=64 batch=1"]["fused"]
            launch["counts"]["instructions"] -= 7
            worst = max(launch["lines"], key=lambda line: launch["lines"][line][0])
            launch["lines"][worst][0] -= 7
    path = tmp_path / "counts.json"
    path.write_text(json.dumps(record))
    words = ["counters", "--check", "--only", SMALL, "--jobs", "1"]
    (code, printed), (worse, named) = commands(words, [*words, "--record", str(path)])
    if code == 2:  # another Triton than those on record
        pytest.skip(printed)
    assert code == 0, printed
    assert worse == 1, named
    assert re.search(r"gradient D=64 batch=1: fused: instructions \d+ -> \d+", named)
    assert re.search(r"\n    \d+ -> \d+  \w+\.py \w+: ", named)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--device", "Voodoo2"], "must be one of A100, H100, H200, B200, got 'Voodoo2'"),
        (["--only", "nothing like it"], "no case matches"),
        (["--check", "--record", "nowhere.json"], "No such file"),
        (["--check", "--record", "pyproject.toml"], "must be a file of counts"),
    ],
    ids=str,
)
def test_bad_input_of_counters_is_one_line_and_exit_code_2(refused, words, told):
    assert told in refused(["counters", *words])


COUNTED = """
import json, torch
from collections import Counter
from bench.compiled.machine_code import cuda_code
from bench.simulator import Schedule, simulated
from bench.simulator.calls import call
from bench.simulator.cases import Case
from bench.simulator.counting import class_of

for case in (Case(64), Case(1024), Case(1000), Case(64, task="projection")):
    with simulated(Schedule(checked=False)) as simulation:
        call(case, simulation.memory)
    for launch in simulation.launches:
        _, names = cuda_code(launch.kernel.files["cubin"].read_bytes())
        ptx = Counter(class_of(m) for m in launch.program.mnemonics)
        sass = Counter(names)
        print(json.dumps([str(case), launch.name, {k: (ptx[k], sass[k]) for k in
                         ("LDS", "STS", "LDG", "STG")}, sass["LDSM"], sass["STSM"]]))
"""


def test_memory_instructions_are_those_of_the_machine_code():
    """The simulator executes PTX, which has as many loads and stores as the binary.

    Where a kernel branches, ptxas merges or doubles accesses to shared memory and stores: there
    the loads of global memory alone are compared.
    """
    rows = [json.loads(line) for line in python(COUNTED).splitlines()]
    assert len(rows) >= 8
    assert sum(row[2]["LDS"][0] for row in rows) > 50
    for case, kernel, classes, loads, stores in rows:
        matrix = {"LDS": loads, "STS": stores}
        same = classes if kernel in ("fused", "index_tables") else ["LDG"]
        for name in same:
            ptx, sass = classes[name]
            assert ptx == sass + matrix.get(name, 0), (case, kernel, name)


# ---------------------------------------------------------------- pieces


def test_instructions_are_told_apart_by_how_they_begin():
    expected = {
        "ld.shared.v4.b32": "LDS", "stmatrix.sync.aligned.m8n8.x4.shared.b16": "STS",
        "ld.global.v4.b32": "LDG", "st.global.b32": "STG", "shfl.sync.bfly.b32": "SHFL",
        "bar.sync": "BAR", "fma.rn.f32": "FMA", "mul.f32": "FADD/FMUL", "rsqrt.approx.f32": "MUFU",
        "div.full.f32": "MUFU", "mov.b32": "move", "xor.b32": "INT", "mad.lo.s32": "INT",
        "add.s32": "INT", "bra": "move",
    }  # fmt: skip
    assert {m: class_of(m) for m in expected} == expected
    assert class_of("ld.volatile.global.b32") == "LDG"
    assert len({name for name, _ in CLASSES}) == len(CLASSES)
    for name in OPERATIONS:
        if re.search(r"\.(f16|bf16|f32|f64|f16x2|bf16x2|f32x2)$", name):
            assert class_of(name) in ("FMA", "FADD/FMUL", "MUFU", "move"), name
        elif class_of(name) != "move":
            assert class_of(name) == "INT", name


def test_a_line_is_named_by_its_function_and_text(tmp_path):
    file = tmp_path / "some.py"
    file.write_text(
        "import os\n\n\ndef outer():\n    def inner():\n        return os.name\n\n"
        "    return inner\n"
    )
    assert label(str(file), 6) == "some.py inner: return os.name"
    assert label(str(file), 8) == "some.py outer: return inner"
    assert label(str(file), 7) == "some.py inner: return os.name"  # an empty line
    assert label("/nowhere.py", 3) == "nowhere.py ?: line 3"
    import triton

    library = str(Path(triton.__file__).resolve().parent / "language" / "standard.py")
    chain = ((str(file), 8), (str(file), 6), (library, 200))
    assert place(chain) == (str(file), 6)


def test_bounds_are_counts_over_rates():
    gpu = bounds.device("H200")
    counts = {
        "machine": 4 * 132 * 1000, "wavefronts": 132 * 500, "SHFL": 132 * 200, "requests": 132 * 50,
        "sectors_read": 1000, "sectors_written": 100, "warps": 8, "registers": 241, "shared": 65536,
    }  # fmt: skip
    found = bounds.bounds(counts, gpu)
    assert found["issue"] == pytest.approx(1000 / 1.75)
    assert found["load/store"] == pytest.approx(750 / 1.75)
    assert found["L2"] == pytest.approx(1100 * 32 / 5500)
    assert bounds.resident(counts, gpu) == 1  # 248 registers x 256 threads
    assert bounds.resident({**counts, "registers": 128}, gpu) == 2
    assert bounds.resident({**counts, "registers": 32}, gpu) == 3  # 65 KiB of 228 each
    assert bounds.resident({**counts, "registers": 16, "shared": 0, "warps": 1}, gpu) == 32


def test_a_difference_names_the_lines_that_changed_most():
    def table(extra):
        lines = {"a.py f: x": [10, 0, 4], "a.py f: y": [20 + extra, 3, 0], "a.py f: z": [1, 1, 1]}
        counts = {"instructions": 31 + extra, "wavefronts": 4, "sectors_read": 5}
        return {"case": {"kernel": {"counts": counts, "lines": lines}}}

    assert records.changes(table(0), table(0)) == []
    assert records.changes(table(0), table(9)) == [
        "case: kernel: instructions 31 -> 40",
        "    20 -> 29  a.py f: y",
    ]
    gone = records.changes(table(0), {"case": {}})
    assert gone == ["case: kernel: variant recorded -> gone"]
