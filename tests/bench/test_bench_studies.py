"""`python -m bench study`: what the studies share."""

import importlib
import json
from pathlib import Path

import pytest

from bench import cli, studies
from bench.harness import machine
from bench.studies import run

SHARED = {"__init__", "run", "best", "parameter_lists"}


def test_every_study_is_listed_and_described(capsys):
    modules = {path.stem for path in Path(studies.__file__).parent.glob("*.py")}
    assert modules - SHARED == set(run.STUDIES)
    assert cli.main(["study", "--list"]) == 0
    printed = capsys.readouterr().out
    for name, about in run.STUDIES.items():
        study = importlib.import_module(f"bench.studies.{name}")
        assert callable(study.run)
        assert f"python -m bench study {name} [" in study.__doc__
        assert f"{name} " in printed
        assert about in printed


def test_a_result_is_kept_with_the_date_and_the_machine(tmp_path, capsys):
    out = tmp_path / "result.json"
    assert cli.main(["study", "call_overhead", "--seconds", "0.01", "--out", str(out)]) == 0
    assert "gaussianity_loss, backward" in capsys.readouterr().out
    content, facts = json.loads(out.read_text()), machine.facts("cpu")
    assert list(content) == ["date", "device", "python", "torch", "benchmark", "microseconds"]
    assert {name: content[name] for name in run.MACHINE} == {n: facts[n] for n in run.MACHINE}


@pytest.mark.parametrize("words", [[], ["nothing"], ["call_overhead", "--seconds", "-1"]])
def test_bad_words_are_refused(words, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["study", *words])
    assert end.value.code == 2
    assert "error: " in capsys.readouterr().err
