"""`python -m bench simulate` and `counters`, from outside, and launches of a user's own kernels."""

import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from bench import ROOT
from bench.cli import main
from bench.simulator import bounds, build, cases, core, records
from bench.simulator.counting import CLASSES, class_of, label, place
from bench.simulator.instructions import OPERATIONS

pytest.importorskip("triton", reason="there is no triton here")


def compiler_missing():
    try:
        build._compiler()
    except build.CompilerMissing as error:
        return str(error)
    return ""


pytestmark = pytest.mark.skipif(bool(compiler_missing()), reason=compiler_missing() or "-")


def python(script, *words, cwd=ROOT):
    """Runs a script without the interpreter that the other tests ask Triton for."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", script, *words], capture_output=True, text=True, timeout=600,
        cwd=cwd, env=environment | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


COMMANDS = """
import contextlib, io, json, sys
from bench.cli import main

for words in json.loads(sys.argv[1]):
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        code = main(words)
    print(json.dumps([code, text.getvalue()]))
"""


def commands(*lists, cwd=ROOT):
    """Exit codes and output of `python -m bench` commands, one after the other in one process."""
    printed = python(COMMANDS, json.dumps(lists), cwd=cwd)
    return [tuple(json.loads(line)) for line in printed.splitlines()]


@pytest.fixture
def refused(monkeypatch, capsys):
    """refused(words): the one line that a command with bad input prints, its exit code being 2."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")  # commands take it away

    def run(words):
        assert main(words) == 2
        told = capsys.readouterr().err
        assert len(told.strip().splitlines()) == 1
        return told

    return run


# ---------------------------------------------------------------- simulate


def test_each_path_once_gives_the_references_numbers_and_no_race(tmp_path):
    out = tmp_path / "outcomes.json"
    [(code, printed)] = commands(["simulate", "--quick", "--out", str(out), "--jobs", "1"])
    assert code == 0, printed
    outcomes = json.loads(out.read_text())["outcomes"]
    assert len(outcomes) == len(cases.QUICK)
    assert {o["path"] for o in outcomes} == {
        "one launch", "three launches", "general", "projection, one launch",
        "projection, general", "drift", "path KL", "permutation",
    }  # fmt: skip
    for outcome in outcomes:
        assert outcome["errors"], outcome
        assert outcome["programs"] > 0
        assert not outcome["found"]
    assert re.search(r"11 cases, \d+ programs.*0 bad", printed)


def test_the_cases_reach_every_kernel_task_and_option():
    every = cases.CASES
    tasks = {"gradient", "value", "statistics", "pullback", "backward", "projection", "permutation"}
    tasks |= {"moments", "spectrum", "kl", "kurtosis", "norm", "drift lora"}
    tasks |= {f"drift {task}" for task in ("value", "gradient", "accumulate", "decay")}
    tasks |= {f"path_{task}" for task in ("value", "backward", "both")}
    assert tasks <= {case.task for case in every}
    assert {case.permutation for case in every} == {
        "shared", "per_sample", "index", "indices", "none",
    }  # fmt: skip
    assert {case.dtype for case in every} == {"float32", "bfloat16", "float16", "mixed"}
    assert {case.form for case in every} == {"root", "absolute", "squared"}
    assert {524288, 2**20} <= {case.dimension for case in every}
    assert len(set(every)) == len({str(case) for case in every}) == len(every)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--only", "no such case"], "no case matches 'no such case'"),
        (["--only", "("], "no regular expression"),
        (["--triton", "0.0.1"], "triton==0.0.1"),
        (["--kernel", "nowhere"], "MODULE:FUNCTION is needed"),
        (["--kernel", "nowhere:f"], "No module named 'nowhere'"),
        (["--kernel", "math:pi"], "a float, a function is needed"),
        (["--kernel", "os:getpid"], "launched no Triton kernel"),
    ],
    ids=str,
)
def test_bad_input_is_one_line_and_exit_code_2(refused, words, told):
    assert told in refused(["simulate", *words])


@pytest.mark.parametrize("command", ["simulate", "counters"])
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--jobs", "0"], "a positive whole number is needed, got '0'"),
        (["--trit", "3.6.0"], "unrecognized arguments: --trit"),  # half of --triton
    ],
    ids=str,
)
def test_options_are_refused_by_name(capsys, command, words, told):
    with pytest.raises(SystemExit) as end:
        main([command, *words])
    assert end.value.code == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("command", ["simulate", "counters"])
def test_without_a_compiler_there_is_one_line_and_exit_code_2(
    refused, monkeypatch, tmp_path, command
):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    core._core.cache_clear()
    try:
        told = refused([command, "--only", "D=64"])
    finally:
        core._core.cache_clear()
    assert told.startswith("error: the simulator needs a C++ compiler")


# ---------------------------------------------------------------- kernels of a user's own

OWN = """
import torch, triton, triton.language as tl


@triton.jit
def doubled(x, out, N: tl.constexpr, REACH: tl.constexpr):
    i = tl.program_id(0) * N + tl.arange(0, N)
    tl.store(out + i, 2 * tl.load(x + i + REACH))


@triton.jit
def everyone_writes_one_place(out):
    tl.store(out, tl.program_id(0))


@triton.jit
def added_atomically(out):
    tl.atomic_add(out, 1.0)


def fine():
    x, out = torch.randn(256), torch.empty(256)
    doubled[(2,)](x, out, N=128, REACH=0)
    assert torch.equal(out, 2 * x)


def again():
    fine()
    fine()


def beyond():
    doubled[(2,)](torch.randn(256), torch.empty(256), N=128, REACH=8)


def asserted():
    x, out = torch.randn(256), torch.empty(256)
    doubled[(2,)](x, out, N=128, REACH=8)
    assert torch.equal(out, 2 * x)


def unwritten():
    doubled[(2,)](torch.empty(256), torch.empty(256), N=128, REACH=0)


def racing():
    everyone_writes_one_place[(4,)](torch.empty(1, dtype=torch.int32))


def unknown():
    added_atomically[(1,)](torch.zeros(1))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("own")
    (path / "own_kernels.py").write_text(textwrap.dedent(OWN))
    return path


def line_of(text):
    return next(k for k, line in enumerate(OWN.splitlines(), 1) if text in line)


FAULTS = {
    "fine": (0, "0 errors", None),
    "beyond": (1, "out of bounds", "tl.load(x + i"),
    "unwritten": (1, "nothing has written", "tl.load(x + i"),
    "asserted": (1, "raised AssertionError", "tl.load(x + i"),
    "racing": (1, "programs", "tl.store(out, tl.program_id(0))"),
    "unknown": (2, "added_atomically", "tl.atomic_add"),
}


def test_own_kernels_are_run_and_their_faults_named_by_line(folder):
    lists = [["simulate", "--kernel", f"own_kernels:{name}"] for name in FAULTS]
    for found, (name, wanted) in zip(commands(*lists, cwd=folder), FAULTS.items(), strict=True):
        code, told, line = wanted
        assert found[0] == code, (name, found)
        assert told in found[1], name
        if line:
            assert f"own_kernels.py:{line_of(line)}" in found[1], name


def test_own_kernels_are_counted_recorded_and_compared(folder, tmp_path):
    record = str(tmp_path / "counts.json")
    words = ["counters", "--kernel", "own_kernels:fine"]
    check = [*words, "--check", "--record", record]
    wrong = ["counters", "--kernel", "own_kernels:beyond"]
    other = ["counters", "--kernel", "own_kernels:again", "--out", record]
    done = commands(
        [*words, "--lines", "2"], [*words, "--out", record], other, check, wrong, cwd=folder
    )
    assert [code for code, _ in done] == [0, 0, 0, 0, 1], done
    assert "at the end of x" in done[-1][1]
    assert "own_kernels.py doubled: tl.store(out + i" in done[0][1]
    changed = tmp_path / "own_kernels.py"
    text = OWN.replace("2 * tl.load(x + i + REACH)", "tl.exp(2 * tl.load(x + i + REACH))")
    changed.write_text(text.replace("assert torch.equal(out, 2 * x)", ""))
    [(code, printed)] = commands(check, cwd=tmp_path)
    assert code == 1, printed
    assert re.search(r"own_kernels:fine: doubled: instructions \d+ -> \d+", printed)
    assert "own_kernels.py doubled: tl.store(out + i, tl.exp(" in printed


# ---------------------------------------------------------------- counters


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
    if code == 3:  # another Triton than those on record
        pytest.skip(printed)
    assert code == 0, printed
    assert worse == 1, named
    assert re.search(r"gradient D=64 batch=1: fused: instructions \d+ -> \d+", named)
    assert re.search(r"\n    \d+ -> \d+  \w+\.py \w+: ", named)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--device", "Voodoo2"], "'Voodoo2' is not known"),
        (["--only", "nothing like it"], "no case matches"),
        (["--check", "--record", "nowhere.json"], "No such file"),
        (["--check", "--record", "pyproject.toml"], "no file of counts"),
    ],
    ids=str,
)
def test_bad_input_of_counters_is_one_line_and_exit_code_2(refused, words, told):
    assert told in refused(["counters", *words])


COUNTED = """
import json, torch
from collections import Counter
from bench.machine_code import cuda_code
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
    """What is executed is PTX: as many loads and stores as the binary has.

    Where a kernel branches, ptxas merges or doubles accesses to shared memory and stores: there
    the loads of global memory alone are compared.
    """
    rows = [json.loads(line) for line in python(COUNTED).splitlines()]
    assert len(rows) >= 8
    assert sum(row[2]["LDS"][0] for row in rows) > 100
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
