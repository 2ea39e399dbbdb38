"""`python -m bench` ends with the exit codes that all commands share."""

import ast
import errno
import importlib

import pytest
import torch
from compiled_kernels import commands

from bench import ROOT, cli
from bench.harness import timing
from bench.harness.errors import BadInput, Wrong
from bench.report import measure
from bench.subjects import cases
from gaussreg_fast._exit_codes import Exit

ERRORS = [
    (None, 0, ""),
    (Wrong("D = 64"), 1, "FAILED: a result is wrong, nothing was timed: D = 64\n"),
    (BadInput("--out must be new"), 2, "error: --out must be new\n"),
    (OSError(errno.ENOSPC, "No space left", "out.json"), 3, "error: out.json: No space left\n"),
    (torch.OutOfMemoryError("CUDA out of memory."), 3, "error: out of memory (CUDA out of memory)"),
    (KeyboardInterrupt(), 130, "interrupted\n"),
    (ZeroDivisionError("ours"), 70, "Traceback"),
]


@pytest.mark.parametrize(("error", "code", "said"), ERRORS, ids=[str(e[1]) for e in ERRORS])
@pytest.mark.parametrize("command", [*cli.MODULES, "cases"])
def test_what_ends_a_command_has_its_code(monkeypatch, capsys, error, code, said, command):
    def ends(_):
        if error is not None:
            raise error
        return 0

    if command in cli.MODULES:
        monkeypatch.setattr(importlib.import_module(cli.MODULES[command]), "main", ends)
    monkeypatch.setattr(cases, "of_report", lambda device: ends(device) or [])
    assert cli.main([command]) == code
    assert capsys.readouterr().err.startswith(said)


SANITIZERS = {"sanitize-native", "sanitize-threads"}  # their options are those of pytest


@pytest.mark.parametrize("command", sorted({*cli.MODULES, *cli.PUBLIC} - SANITIZERS))
def test_help_is_0_and_an_unknown_option_is_2(command, capsys, monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")  # commands take it away
    for words, code in ((["--help"], 0), (["--no-such-option"], 2)):
        with pytest.raises(SystemExit) as end:
            cli.main([command, *words])
        assert end.value.code == code


def test_without_a_gpu_its_commands_end_with_the_code_of_the_machine(monkeypatch, refused):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for command in ("gpu", "sanitize"):
        assert "needs a GPU" in refused([command], code=3)


def test_unknown_names_are_bad_input(refused):
    pytest.importorskip("triton")
    ((code, printed),) = commands(["resources", "--only", "nothing like it"])
    assert (code, printed) == (
        2,
        "error: --only: no variant has a name that matches 'nothing like it'\n",
    )
    assert "no such home folder" in refused(["simulate", "--triton", "~nobody-of-this-name"])


def test_paths_may_begin_with_the_home_folder(refused, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert str(tmp_path / "out" / "report.json") in refused(["render", "~/out"])
    assert str(tmp_path / "base.json") in refused(["check", "--baseline", "~/base.json"])


def test_a_process_that_lacks_memory_passes_its_code_on(monkeypatch, tmp_path, capsys):
    suite = tmp_path / "suite.py"
    suite.write_text(
        "import torch\n\ndef suite(device):\n"
        "    return {'a': (lambda: torch.empty(2**50), lambda: None)}\n"
    )
    words = ["record", "--suite", str(suite), "--processes", "1", "--out", str(tmp_path / "b.json")]
    assert cli.main(words) == 3
    told = capsys.readouterr().err
    assert told.startswith("error: the call 'a' failed: ")
    assert "allocate memory" in told
    assert told.count("\n") == 1


def test_a_case_that_does_not_fit_is_not_measured_rather_than_wrong(monkeypatch):
    def too_large(*_):
        return torch.empty(2**50)

    monkeypatch.setattr(measure, "checked", too_large)
    row = measure.run_case(cases.parse("sd-1"), *timing.clocks("cpu"))
    assert row["status"] == "not measured"
    assert "allocate memory" in row["reason"]


def test_no_command_ends_with_a_code_of_its_own():
    """Numbers in `return` of a `main`, and texts in sys.exit, would be codes outside the table."""
    wrong = []
    for path in sorted([*(ROOT / "bench").rglob("*.py"), *(ROOT / "gaussreg_fast").rglob("*.py")]):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name == "main":
                codes = [
                    inner.value.value
                    for inner in ast.walk(node)
                    if isinstance(inner, ast.Return) and isinstance(inner.value, ast.Constant)
                ]
                wrong += [f"{path.name}: return {code}" for code in codes if code not in [*Exit]]
            exits = isinstance(node, ast.Call) and ast.unparse(node.func) == "sys.exit"
            if exits and not isinstance(node.args[0], ast.Call | ast.Name):
                wrong.append(f"{path.name}: {ast.unparse(node)}")
    assert not wrong, wrong
