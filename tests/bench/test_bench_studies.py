"""`python -m bench study`: what the studies share."""

import importlib
import json
from pathlib import Path

import pytest
import torch

from bench import cli, studies
from bench.harness import machine, timing
from bench.harness.best import best_times
from bench.harness.samples import Timed
from bench.studies import cpu, run
from bench.subjects import cases
from bench.tools import cpu_pages

SHARED = {"__init__", "run", "parameter_lists"}


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
    printed = capsys.readouterr().out
    assert "gaussianity_loss, backward" in printed
    assert printed.startswith(machine.describe(machine.facts("cpu")))
    content, facts = json.loads(out.read_text()), machine.facts("cpu")
    assert list(content) == ["date", *run.MACHINE, "benchmark", "microseconds"]
    assert list(content["microseconds"]) == ["cold", "hot"]
    assert set(content["microseconds"]["cold"]) == set(content["microseconds"]["hot"])
    assert {name: content[name] for name in run.MACHINE} == {n: facts[n] for n in run.MACHINE}


def test_the_best_time_is_each_clocks_own_statistic(monkeypatch):
    class Clock:
        def __init__(self, column, best):
            self.column, self.best = column, best

        def timed(self, calls, *_, before, patience):
            assert list(before) == ["b"]
            return Timed({name: [3.0, 1.0, 2.0] for name in calls})

    clocks = (Clock("first", max), Clock("second", min))
    monkeypatch.setattr(timing, "clocks", lambda device: clocks)
    found = best_times({"a": int, "b": int}, 1.0, {"b": int})
    assert found == {"first": {"a": 3, "b": 3}, "second": {"a": 1, "b": 1}}


def test_two_threads_are_there_before_a_sample_begins(monkeypatch):
    seen = {}

    def best(calls, seconds, before):
        for name, prepare in before.items():
            prepare()
            seen[name] = torch.get_num_threads()
            calls[name]()
        return {}

    monkeypatch.setattr(cpu, "best_times", best)
    threads = torch.get_num_threads()
    try:
        cpu.threads(cases.parse("d64-1"), 1.0)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(threads)
    assert seen == {"one": 1, "two": 2}


def test_the_cases_of_the_cpu_are_of_every_kind():
    measured = [cases.parse(name) for name in cpu.CASES]
    assert {case.dtype for case in measured} == set(cases.DTYPES.values())
    sizes = {case.dimension for case in measured if case.dimension & (case.dimension - 1)}
    assert sizes == {25600, 36864}


def test_the_table_of_the_cpu_has_ratios_of_both_clocks():
    def us(factor, naive):
        ours = {"gaussianity_loss": 20.0 * factor, "gaussianity_value_and_grad": 10.0 * factor}
        return {"naive": naive, **ours, "rfft_irfft": 25.0 * factor}

    times = {"cold": us(2, 80.0), "hot": us(1, 90.0)}
    case = {"batch": 2, "dimension": 64, "dtype": "bfloat16", "microseconds": times}
    result = {"instruction_sets": {"fast": {"processor": "P, fast", "cases": [case]}}}
    text = cpu_pages.speed(result)
    assert text.startswith("P, fast, one thread.")
    assert text.splitlines()[-1] == (
        "| 2 x 64, bfloat16 | 40 us, 2.0x | 20 us, 4.0x | 50 us, 2.5x "
        "| 20 us, 4.5x | 10 us, 9.0x | 25 us, 2.5x |"
    )


@pytest.mark.parametrize("words", [[], ["nothing"], ["call_overhead", "--seconds", "-1"]])
def test_bad_words_are_refused(words, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["study", *words])
    assert end.value.code == 2
    assert "error: " in capsys.readouterr().err
