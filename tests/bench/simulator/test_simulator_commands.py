"""`python -m bench simulate`, from outside, and launches of a user's own kernels."""

import json
import re
import textwrap

import pytest
from compiled_kernels import commands
from small_ptx import needs_compiler

from bench.cli import main
from bench.simulator import cases, core

pytest.importorskip("triton", reason="there is no triton here")
pytestmark = needs_compiler


def test_each_route_once_gives_the_references_numbers_and_no_race(tmp_path):
    out = tmp_path / "outcomes.json"
    [(code, printed)] = commands(["simulate", "--quick", "--out", str(out), "--jobs", "1"])
    assert code == 0, printed
    outcomes = json.loads(out.read_text())["outcomes"]
    assert len(outcomes) == len(cases.QUICK)
    assert {o["route"] for o in outcomes} == {
        "one launch", "three launches", "five launches", "general", "projection, one launch",
        "projection, general", "drift", "path KL", "permutation",
    }  # fmt: skip
    for outcome in outcomes:
        assert outcome["errors"], outcome
        assert outcome["programs"] > 0
        assert not outcome["found"]
    assert re.search(r"12 cases, \d+ programs.*0 bad", printed)


def test_the_cases_reach_every_kernel_task_and_option():
    every = cases.CASES
    tasks = {"gradient", "value", "statistics", "pullback", "backward", "projection", "permutation"}
    tasks |= {"moments", "spectrum", "kl", "kurtosis", "norm", "drift lora"}
    tasks |= {f"drift {task}" for task in ("value", "gradient", "accumulate")}
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
        (["--only", "("], "must be a regular expression"),
        (["--triton", "0.0.1"], "triton==0.0.1"),
        (["--kernel", "nowhere"], "must be MODULE:FUNCTION"),
        (["--kernel", "nowhere:f"], "No module named 'nowhere'"),
        (["--kernel", "math:pi"], "must be a function, got float"),
        (["--kernel", "os:getpid"], "launched no Triton kernel"),
    ],
    ids=str,
)
def test_bad_input_is_one_line_and_exit_code_2(refused, words, told):
    assert told in refused(["simulate", *words])


@pytest.mark.parametrize("command", ["simulate", "counters"])
@pytest.mark.parametrize("text", ["1 / 0", "def f(", "raise SystemExit(0)"])
def test_a_module_of_kernels_that_fails_is_bad_input(refused, monkeypatch, tmp_path, command, text):
    (tmp_path / "broken_kernels.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    told = refused([command, "--kernel", "broken_kernels:f"])
    assert "broken_kernels:f" in told
    assert "raised" in told


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
