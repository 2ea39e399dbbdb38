"""Suites of users' calls, and the processes that measure them."""

import json
import math
import sys
import textwrap

import pytest
from bench_command import run

from bench.check import gate
from bench.harness import child
from bench.harness.errors import BadInput, Wrong

CALLS = "def suite(device):\n    return {'mine': (lambda: None, lambda: None)}\n"


def suite_of(folder, text, name="mine.py"):
    path = folder / name
    path.write_text(textwrap.dedent(text))
    return path


def answer_of(tmp_path, *words):
    """The answer of a process that measures; it runs in this one."""
    answer = tmp_path / "answer.json"
    assert run("sample", "--answer", answer, "--seconds", "0.02", *words) == 0
    return json.loads(answer.read_text())


@pytest.fixture(autouse=True)
def _own_modules(monkeypatch):
    """Forget the suites' modules and folders after each test."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name in ("mine", "beside", "json_suite"):
        sys.modules.pop(name, None)


# ---------------------------------------------------------------- the file


def test_a_call_is_measured_beside_its_yardstick(tmp_path):
    path = suite_of(
        tmp_path,
        """
        import time
        def suite(device):
            return {"mine": (lambda: time.sleep(2e-3), lambda: time.sleep(1e-3))}
        """,
    )
    found = answer_of(tmp_path, "--suite", path)["result"]["calls"]
    assert list(found) == ["mine, cold", "mine, hot"]
    for times in found.values():
        assert times["us"] >= 2000
        assert 0 < times["ratio"] < math.inf


def test_a_suite_may_use_modules_beside_it_and_its_own_classes(tmp_path):
    """Both work in a script; typing and pickle look a class's module up by its name."""
    (tmp_path / "beside.py").write_text("def work():\n    return 7\n")
    path = suite_of(
        tmp_path,
        """
        from __future__ import annotations
        import pickle, typing
        from dataclasses import dataclass
        from beside import work
        @dataclass
        class Size:
            n: int = 3
        def suite(device):
            assert typing.get_type_hints(Size) == {"n": int}
            assert pickle.loads(pickle.dumps(Size(5))) == Size(5)
            return {"mine": (work, work)}
        """,
    )
    assert gate.load(path, "cpu")["mine"][0]() == 7


def test_a_suite_may_have_the_name_of_a_loaded_module(tmp_path):
    before = sys.modules["json"]
    assert set(gate.load(suite_of(tmp_path, CALLS, "json.py"), "cpu")) == {"mine"}
    assert sys.modules["json"] is before


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "no such suite"),
        ("x = 1", "no function suite"),
        ("suite = 1", "no function suite"),
        ("import no_such_module_at_all", "mine.py:1: raised ModuleNotFoundError"),
        ("def suite(device", "SyntaxError"),
        ("\nraise SystemExit(0)", "mine.py:2: raised SystemExit"),
        ("def suite():\n    return {}", "TypeError"),
        ("def suite(device):\n    1 / 0", "mine.py:2: raised ZeroDivisionError"),
        ("def suite(device):\n    return None", "must return a dict with at least one call"),
        ("def suite(device):\n    return {}", "must return a dict with at least one call"),
        ("def suite(device):\n    return {'a': print}", "'a' in "),
        ("def suite(device):\n    return {'a': (print, 3)}", "(call, yardstick)"),
        ("def suite(device):\n    return {1: (print, print)}", "must be strings, got 1"),
    ],
)
def test_a_suite_of_no_use_is_named_with_the_reason(tmp_path, text, said):
    path = tmp_path / "mine.py"
    if text:
        path.write_text(text)
    message = answer_of(tmp_path, "--suite", path)
    assert message["error"] == "BadInput"
    assert said in message["reason"]
    assert str(path) in message["reason"]
    assert "\n" not in message["reason"]


@pytest.mark.parametrize("failure", ["raise ValueError('no\\ncat')", "raise SystemExit(3)"])
def test_a_call_that_fails_is_named(tmp_path, failure):
    path = suite_of(tmp_path, "")
    path.write_text(
        f"def mine():\n    {failure}\ndef suite(device):\n    return {{'a cat': (mine, mine)}}"
    )
    message = answer_of(tmp_path, "--suite", path)
    assert message["error"] == "BadInput"
    assert f"the call 'a cat' failed: {path}:2" in message["reason"]
    assert "\n" not in message["reason"]


# ---------------------------------------------------------------- the process


def test_a_suite_may_print_whatever_it_likes(tmp_path, capfd):
    """Before, among and after its calls, also what is no text, and from a process left behind."""
    path = suite_of(
        tmp_path,
        """
        import atexit, os, subprocess, sys
        print("loaded")
        os.write(1, b"\\xff\\xfe\\n")
        atexit.register(print, '{"calls": {}}')
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        def suite(device):
            return {"mine": (lambda: print("called"), lambda: sys.stderr.write("yardstick"))}
        """,
    )
    out = tmp_path / "baseline.json"
    options = ["--processes", "2", "--seconds", "0.02", "--out", out]
    assert run("record", "--suite", path, *options) == 0
    calls = json.loads(out.read_text())["calls"]
    assert {name: len(found["ratio"]) for name, found in calls.items()} == {
        "mine, cold": 2,
        "mine, hot": 2,
    }
    assert "loaded" not in capfd.readouterr().out


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import sys\nsys.exit(1)", "mine.py:2: raised SystemExit: 1"),
        ("import os\nprint('so far', flush=True)\nos._exit(3)", "exit code 3: so far"),
        ("import os\nos._exit(0)", "exit code 0: nothing was printed"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", "ended by SIGKILL"),
    ],
)
def test_a_suite_that_ends_the_process_is_bad_input_and_no_regression(tmp_path, capfd, text, said):
    path = suite_of(tmp_path, text)
    assert run("record", "--suite", path, "--processes", "1", "--out", tmp_path / "x.json") == 2
    error = capfd.readouterr().err
    assert said in error.splitlines()[-1]
    assert not (tmp_path / "x.json").exists()


@pytest.mark.parametrize("kind", [BadInput, Wrong])
def test_errors_come_back_as_they_were_raised(tmp_path, monkeypatch, kind):
    def fails():
        raise kind("a reason")

    def process(command, **_):
        assert child.answer(child.Path(command[-1]), fails) == 0
        return child.subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(child.subprocess, "run", process)
    with pytest.raises(kind, match=r"^a reason$"):
        child.ask(["sample"], {})
