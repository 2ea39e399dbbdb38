"""`python -m bench check`: which changes are regressions, and which are not."""

import argparse
import json
import math

import numpy as np
import pytest
import scipy.stats
from bench_command import run

from bench import ROOT
from bench.check import decision, regression
from bench.harness import machine, store
from bench.harness.errors import Wrong

BASELINES = sorted((ROOT / "bench" / "baselines").glob("*.json"))


# ---------------------------------------------------------------- the decision


@pytest.mark.parametrize(("n", "m"), [(3, 4), (6, 12), (5, 5)])
def test_the_null_distribution_is_exact(n, m):
    rng = np.random.default_rng(0)
    for _ in range(5):
        a, b = rng.normal(size=n), rng.normal(size=m)
        want = scipy.stats.mannwhitneyu(a, b, alternative="less", method="exact")
        assert decision._below(n, m)[int(want.statistic)] == pytest.approx(want.pvalue)


def test_the_interval_holds_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(1)
    missed = 0
    for _ in range(2000):
        before, now = rng.lognormal(0, 0.1, 12), 1.2 * rng.lognormal(0, 0.1, 6)
        found = decision.shift(list(before), list(now), 0.05)
        assert found.low <= found.factor <= found.high
        missed += found.low > 1.2
    assert 0.025 < missed / 2000 <= 0.06


def test_what_a_baseline_can_see():
    quiet, noisy = list(np.linspace(1, 1.02, 12)), list(np.linspace(1, 2, 12))
    level = decision.level(12)
    assert decision.visible(quiet, 6, level) == 1.15
    assert 1.75 <= decision.visible(noisy, 6, level) < math.inf
    assert decision.visible([1.0, 1.0], 2, level) == math.inf  # too few to show anything


def test_too_few_processes_decide_nothing():
    found = decision.shift([1.0, 1.0], [9.0], 0.01)
    assert (found.low, found.high) == (0, math.inf)
    assert not decision.regressed(found, 0.1)
    assert not decision.enough(2, 1, 1)
    assert decision.enough(regression.RECORD_PROCESSES, regression.CHECK_PROCESSES, 50)


@pytest.mark.parametrize("path", BASELINES, ids=lambda path: path.stem)
def test_recorded_noise_raises_no_alarm_and_a_slower_call_does(path, monkeypatch, capsys):
    """A hundred checks whose processes are drawn from those of the baseline, and slower ones."""
    calls = store.read(path, "baseline")["calls"]
    rng = np.random.default_rng(2)
    factor = 1.0

    def measured(options, count, progress, names=()):
        def ratio(name):
            return factor * float(rng.choice(calls[name]["ratio"]))

        each = [{n: {"ratio": ratio(n), "us": 1.0} for n in names or calls} for _ in range(count)]
        return FACTS, each

    monkeypatch.setattr(regression, "measure", measured)
    options = argparse.Namespace(processes=0, tolerance=0.1, out=None)

    def check():
        before = {name: list(rng.choice(found["ratio"], 12)) for name, found in calls.items()}
        return len(regression._timed(options, before))

    trials = 100
    assert sum(check() > 0 for _ in range(trials)) <= decision.FALSE_ALARMS * trials
    factor = 1.6
    assert sum(check() for _ in range(trials)) >= 0.95 * trials * len(calls)


# ---------------------------------------------------------------- the command


FACTS = machine.facts("cpu")


def processes(count, scale=None, seed=0):
    """Return measurements of three calls by `count` processes; `scale` makes some slower."""
    rng = np.random.default_rng(seed)
    base = {"a": 1.0, "b": 0.3, "c": 2.0}
    return [
        {
            name: {"ratio": ratio * (scale or {}).get(name, 1) * rng.lognormal(0, 0.02), "us": 10.0}
            for name, ratio in base.items()
        }
        for _ in range(count)
    ]


@pytest.fixture
def baseline(tmp_path):
    path = tmp_path / "baseline.json"
    about = {**store.header("baseline"), "date": "2026-01-01", "machine": FACTS}
    calls = {
        name: {"ratio": ratios, "us": ratios}
        for name, ratios in regression.by_call(processes(12)).items()
    }
    store.write(path, {**about, "suite": None, "seconds": 1, "calls": calls})
    return path


def measured(monkeypatch, *scales):
    """The measurements of a check, one after the other; returns the names asked for."""
    asked = []

    def measure(options, count, progress, names=()):
        asked.append(names)
        found = processes(count, scales[len(asked) - 1], seed=len(asked))
        return FACTS, [{n: p[n] for n in (names or p)} for p in found]

    monkeypatch.setattr(regression, "measure", measure)
    return asked


def test_nothing_slower(baseline, monkeypatch, capsys):
    asked = measured(monkeypatch, {"a": 1.05})
    assert run("check", "--baseline", baseline) == 0
    assert asked == [()]
    shown = capsys.readouterr().out
    assert "no regression" in shown
    assert [line.split()[-1] for line in shown.splitlines() if line[:2] in "a b c "] == ["ok"] * 3


def test_a_regression_is_named_and_ends_with_1(baseline, monkeypatch, capsys, tmp_path):
    asked = measured(monkeypatch, {"b": 1.4}, {"b": 1.4})
    out = tmp_path / "check.json"
    assert run("check", "--baseline", baseline, "--out", out) == 1
    assert asked == [(), ("b",)]
    shown = capsys.readouterr()
    assert "REGRESSION: b: 1.4" in shown.err
    assert "REGRESSION: a" not in shown.err
    content = json.loads(out.read_text())
    assert len(content["regressions"]) == 1
    assert len(content["processes"]) == regression.CHECK_PROCESSES


def test_what_a_second_look_does_not_show_is_none(baseline, monkeypatch, capsys):
    measured(monkeypatch, {"b": 2.0, "c": 1.5}, {})
    assert run("check", "--baseline", baseline) == 0
    assert "measuring again: b, c" in capsys.readouterr().out


def test_the_tolerance_is_kept(baseline, monkeypatch):
    measured(monkeypatch, {"b": 1.4}, {"b": 1.4})
    assert run("check", "--baseline", baseline, "--tolerance", "60%") == 0
    measured(monkeypatch, {"b": 1.4}, {"b": 1.4})
    assert run("check", "--baseline", baseline, "--tolerance", "0.2") == 1


def test_a_lost_call_and_a_wrong_result_fail(baseline, monkeypatch, capsys):
    def measure(options, count, progress, names=()):
        return FACTS, [{"a": p["a"], "b": p["b"]} for p in processes(count)]

    monkeypatch.setattr(regression, "measure", measure)
    assert run("check", "--baseline", baseline) == 1
    assert "c: in the baseline, and no longer in the suite" in capsys.readouterr().err

    def wrong(*_):
        raise Wrong("value: relative error 1")

    monkeypatch.setattr(regression, "measure", wrong)
    assert run("check", "--baseline", baseline) == 1
    said = "FAILED: a result is wrong, nothing was timed: value: relative error 1\n"
    assert capsys.readouterr().err == said
    assert run("record", "--out", baseline.with_name("new.json")) == 1
    assert capsys.readouterr().err == said
    assert not baseline.with_name("new.json").exists()


def edited(path, **changed):
    content = json.loads(path.read_text())
    content["machine"] |= changed.pop("machine", {})
    path.write_text(json.dumps(content | changed))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda p: p.unlink(), "no such baseline"),
        (lambda p: p.write_text('{"what'), "not JSON"),
        (lambda p: p.write_bytes(b"\xff\xfe\x00"), "cannot be read"),
        (lambda p: p.write_text('{"what": "report"}'), "not a baseline"),
        (
            lambda p: edited(p, format=1),  # of hot calls alone
            "the format of a baseline must be 2 for this version, got 1: measure it again",
        ),
        (lambda p: p.write_text('{"what": "baseline", "format": 2}'), "broken baseline: 'machine'"),
        (lambda p: edited(p, calls=[]), "broken baseline: 'calls'"),
        (lambda p: edited(p, calls={"a": {"ratio": [1, 0]}}), "needs ratios above 0"),
        (lambda p: edited(p, calls={"a": {"ratio": ["1"]}}), "needs ratios above 0"),
        (lambda p: edited(p, calls={"a": {"ratio": []}}), "needs ratios above 0"),
        (lambda p: edited(p, suite="mine.py"), "suite mine.py"),
        (lambda p: edited(p, machine={"device": "H200"}), "device H200, here it is"),
        (lambda p: edited(p, machine={"torch": "2.0"}), "torch 2.0, here it is"),
        (lambda p: edited(p, machine={"threads": 64}), "threads 64, here it is"),
    ],
)
def test_a_baseline_of_no_use_ends_with_2(baseline, capsys, spoil, said):
    spoil(baseline)
    assert run("check", "--baseline", baseline) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert said in error
    assert str(baseline) in error


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--only", "nothing"], "no call has a name"),
        (["--processes", "1"], "cannot tell a regression"),
        (["--suite", "missing.py"], "measured with suite None"),
    ],
)
def test_bad_arguments_end_with_2(baseline, capsys, arguments, said):
    assert run("check", "--baseline", baseline, *arguments) == 2
    assert said in capsys.readouterr().err


def test_a_baseline_whose_calls_are_all_gone(baseline, capsys, monkeypatch):
    monkeypatch.setattr(
        regression, "measure", lambda *_: (FACTS, [{"new": {"ratio": 1.0, "us": 1.0}}] * 6)
    )
    assert run("check", "--baseline", baseline) == 1
    printed = capsys.readouterr()
    assert "not compared, because the baseline lacks them: new" in printed.out
    assert "REGRESSION: a: in the baseline, and no longer in the suite" in printed.err


def test_nothing_asked_for(capsys):
    assert run("check") == 2
    assert "--baseline FILE, --kernels" in capsys.readouterr().err
    with pytest.raises(SystemExit) as end:
        run("check", "--baseline", "x", "--tolerance", "ten")
    assert end.value.code == 2


def test_a_call_is_compared_cold_and_hot_on_a_cpu_and_once_on_a_gpu():
    suite = {"a": (None, None), "b": (None, None)}
    assert list(regression.rows_of(suite, "cpu")) == ["a, cold", "a, hot", "b, cold", "b, hot"]
    assert list(regression.rows_of(suite, "cuda")) == ["a", "b"]


def test_a_row_is_timed_by_its_own_clock_and_its_yardstick_alike():
    class Clock:
        best = staticmethod(max)

        def __init__(self, factor):
            self.factor = factor

        def even(self, calls, seconds):
            assert list(calls) == ["call", "yardstick"]
            return {name: [self.factor * call(0), 1.0] for name, call in calls.items()}

    rows = {"a, slow": ("a", Clock(10)), "a, fast": ("a", Clock(4))}
    found = regression.time_rows({"a": (lambda: 3.0, lambda: 2.0)}, rows, 1.0)
    assert found == {
        "a, slow": {"ratio": 1.5, "us": 30},
        "a, fast": {"ratio": 1.5, "us": 12},
    }


def test_the_file_of_a_device():
    assert regression.slug(FACTS | {"kind": "cpu", "device": "AMD EPYC (R)"}).startswith(
        "cpu-amd-epyc-r"
    )
    assert regression.slug(FACTS | {"instruction_set": None}).isascii()


def test_commands_that_others_start_are_not_offered(capsys):
    with pytest.raises(SystemExit):
        run("smaple")
    offered = capsys.readouterr().err
    assert "'check'" in offered
    assert "sample" not in offered
    assert "prepare" not in offered
    with pytest.raises(SystemExit):
        run("check", "--help")
    assert "Compare with a baseline" in capsys.readouterr().out
