"""`python -m bench report`: its rows and files, interruption and resumption, bad input."""

import json
import os
import subprocess
import sys
import time
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.stats
import torch
from bench_command import run

from bench import ROOT
from bench.compiled import launches
from bench.harness import machine, store
from bench.harness.errors import BadInput
from bench.harness.text import time_text
from bench.report import growth, measure, roofline, tables
from bench.report import run as report
from bench.subjects import cases

TINY = ["d64-2", "d64-1-guards", "d64-1-growth", "d128-1-growth", "d256-1-growth", "d512-1-growth"]


@pytest.fixture
def tiny(monkeypatch):
    """A report of a few small cases."""
    small = tuple(map(cases.parse, TINY))
    monkeypatch.setattr(cases, "of_report", lambda device, quick=False: small)
    monkeypatch.setattr(report.toy, "ITERATIONS", 2)
    monkeypatch.setattr(roofline, "STAGE_SIZES", (64, 256))
    monkeypatch.setattr(machine, "COPY_BYTES", {"cpu": 2**20})
    monkeypatch.setattr(machine, "CEILING_SECONDS", 0.1)
    monkeypatch.setattr(report, "SECONDS", (0.05, 0.05))


def load(folder):
    return json.loads((folder / "report.json").read_text())


# ---------------------------------------------------------------- cases


def test_names_are_read_back():
    for device in ("cpu", "cuda"):
        for case in (*cases.of_report(device), *cases.of_report(device, quick=True)):
            assert cases.parse(case.name) == case
    case = cases.parse("flux-3-per_sample-bfloat16")
    assert (case.dimension, case.batch, case.dtype) == (262144, 3, torch.bfloat16)
    assert case.name == "flux-3-bfloat16-per_sample"


def test_the_cases_are_the_ones_promised():
    for device, most in (("cpu", 1024), ("cuda", 4096)):
        listed = cases.of_report(device)
        names = [case.name for case in listed]
        assert len(set(names)) == len(names)
        assert {case.latent for case in listed} >= set(cases.LATENTS)
        assert {case.dtype for case in listed} == set(cases.DTYPES.values())
        assert (min(c.batch for c in listed), max(c.batch for c in listed)) == (1, most)
        assert {c.dimension for c in listed if c.topic == "growth"} >= {1024, 4096, 262144}
        assert set(cases.of_report(device, quick=True)) != set(listed)
    assert set(cases.TARGETS) <= {case.name for case in cases.of_report("cuda")}


@pytest.mark.parametrize(
    "name", ["", "sd", "sd-0", "sd-x", "sdx-1", "d16-1", "sd-1-float64", "sd-1-bfloat16-float16"]
)
def test_an_unknown_case_is_one_line(name, capsys):
    assert run("profile", "--case", name) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"unknown case {name!r}" in error
    assert "latents: sd" in error


def test_something_near_is_suggested(capsys):
    assert run("profile", "--case", "sdlx-1") == 2
    assert "near: sdxl-1" in capsys.readouterr().err


# ---------------------------------------------------------------- a whole run


def test_a_report(tiny, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    assert run("report", "--quick", "--out", tmp_path) == 0
    shown = capsys.readouterr().out
    names = ["report.json", "report.md", "speedup.png", "growth.png", "roofline.png", "memory.png"]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(names)
    for name in names[2:]:
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    content = load(tmp_path)
    assert content["complete"]
    assert [row["case"] for row in content["rows"]] == [
        "ceilings", *TINY[:2], "stages", "toy", *TINY[2:],
    ]  # fmt: skip
    assert {row["status"] for row in content["rows"]} == {"ok"}
    for fact in ("device", "torch", "python", "threads", "gaussreg_fast"):
        assert content["machine"][fact]
    assert content["date"]
    row = store.row(content, "d64-2")
    assert list(row["us"]) == ["cold", "host"]
    assert row["clock"] == "cold"
    for clock, samples in row["us"].items():
        calls = {"value", "value_and_grad", "loss_backward", "naive", "fft", "copy"}
        assert set(samples) == calls
        assert all(len(each) >= 3 for each in samples.values())
        guards = store.row(content, "d64-1-guards")["us"][clock]
        assert set(guards) == set(measure.peers.GUARDS)
        assert "covariance" in content["growth"][clock]["crossings"]
    assert set(store.row(content, "toy")["seconds_of_runs"]) == {"MPGR", "PRNO"}
    text = (tmp_path / "report.md").read_text()
    for title, _ in tables.SECTIONS:
        assert (title in text) == (title != "Waiting time for one latent")
    assert "FAILED: none" in shown
    assert run("render", tmp_path) == 0
    assert (tmp_path / "report.md").read_text() == text


def test_a_wrong_result_is_named_and_ends_with_1(tiny, tmp_path, monkeypatch, capsys):
    right = measure.correctness.gaussianity_value_and_grad

    def wrong(x, **options):
        loss, grad = right(x, **options)
        return loss * (1 + 1e-3 * (x.shape[1] == 256)), grad

    monkeypatch.setattr(measure.correctness, "gaussianity_value_and_grad", wrong)
    assert run("report", "--quick", "--out", tmp_path) == 1
    assert "FAILED: d256-1-growth\n" in capsys.readouterr().out
    failed = next(row for row in load(tmp_path)["rows"] if row["case"] == "d256-1-growth")
    assert failed["reason"].startswith("Wrong: value")
    assert "us" not in failed
    assert "d256-1-growth: FAILED" in (tmp_path / "report.md").read_text()


def test_a_part_that_breaks_leaves_the_others(tiny, tmp_path, monkeypatch):
    def broken(*_):
        raise RuntimeError("no profiler")

    monkeypatch.setattr(report.roofline, "measure", broken)
    assert run("report", "--quick", "--out", tmp_path) == 1
    rows = {row["case"]: row for row in load(tmp_path)["rows"]}
    assert rows["stages"]["reason"] == "RuntimeError: no profiler"
    assert {row["status"] for name, row in rows.items() if name != "stages"} == {"ok"}


def test_compiling_ahead_is_within_the_budget(tmp_path, monkeypatch):
    """On a GPU the cases get the time that compiling ahead has left."""
    told = []
    monkeypatch.setattr(report.prepare, "processes", lambda jobs, seconds: time.sleep(0.2))
    monkeypatch.setattr(report.machine, "clocks", lambda device: None)
    facts = machine.facts("cpu") | {"kind": "cuda"}
    kept = store.Report.restart(tmp_path, {"quick": True}, facts)

    def part(share, left):
        told.append((share, left))
        return {"case": f"part {len(told)}", "status": "ok"}

    report.run(kept, {"part 1": part, "part 2": part}, 10.0, report.Progress(2))
    assert 5 < told[0][1] <= 9.8
    assert told[0][0] == pytest.approx(told[0][1] / 2)
    assert told[1][0] == pytest.approx(told[1][1])


def test_what_there_is_no_time_for_is_said(tiny, tmp_path):
    assert run("report", "--quick", "--out", tmp_path, "--minutes", "1e-9") == 0
    rows = load(tmp_path)["rows"]
    assert {row["status"] for row in rows} == {"not measured"}
    assert "d64-2: not measured: out of time" in (tmp_path / "report.md").read_text()


# ---------------------------------------------------------------- interruption


def interrupt_at(monkeypatch, name):
    real = measure.run_case

    def run_case(case, *arguments, **options):
        if case.name == name:
            raise KeyboardInterrupt
        return real(case, *arguments, **options)

    monkeypatch.setattr(measure, "run_case", run_case)


def test_an_interrupted_run_keeps_what_it_measured_and_goes_on(tiny, tmp_path, capsys):
    with pytest.MonkeyPatch.context() as patch:
        interrupt_at(patch, "d128-1-growth")
        assert run("report", "--quick", "--out", tmp_path) == 130
    kept = f"6 of 9 parts are kept in {tmp_path}: the same command with --resume resumes them"
    assert kept in capsys.readouterr().err
    kept = load(tmp_path)
    assert not kept["complete"]
    assert len(kept["rows"]) == 6
    # Not overwritten unasked.
    assert run("report", "--quick", "--out", tmp_path) == 2
    assert "--resume resumes it, --restart replaces it" in capsys.readouterr().err
    assert load(tmp_path) == kept
    assert run("report", "--quick", "--out", tmp_path, "--resume") == 0
    whole = load(tmp_path)
    assert whole["complete"]
    assert whole["rows"][:6] == kept["rows"]
    assert len(whole["rows"]) == 9


def test_a_killed_run_leaves_a_whole_file(tmp_path):
    command = [sys.executable, "-m", "bench", "report", "--quick", "--out", str(tmp_path)]
    process = subprocess.Popen(
        [*command, "--only", "sd-1"], cwd=ROOT, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    assert process.stdout.readline().startswith(machine.describe(machine.facts("cpu")))
    assert process.stdout.readline().startswith("[1/")  # the ceilings are measured
    process.kill()
    process.communicate()
    kept = load(tmp_path)
    assert kept["rows"][0]["case"] == "ceilings"
    assert not kept["complete"]
    assert [p.name for p in tmp_path.iterdir() if not p.name.startswith(".")] == ["report.json"]


@pytest.mark.parametrize("fact", [*machine.IDENTITY[:-1], "gaussreg_fast"])
def test_a_run_of_another_machine_or_version_is_not_resumed(tmp_path, fact):
    facts = machine.facts("cpu")
    store.Report.begin(tmp_path, {}, facts)
    assert store.Report.resume(tmp_path, {}, facts).content["rows"] == []
    with pytest.raises(BadInput, match="another"):
        store.Report.resume(tmp_path, {}, {**facts, fact: "another"})


def test_a_run_of_another_device_ends_with_2(tiny, tmp_path, capsys):
    with pytest.MonkeyPatch.context() as patch:
        interrupt_at(patch, "d64-2")
        run("report", "--quick", "--out", tmp_path)
    content = load(tmp_path)
    content["machine"]["device"] = "another"
    (tmp_path / "report.json").write_text(json.dumps(content))
    capsys.readouterr()
    assert run("report", "--quick", "--out", tmp_path, "--resume") == 2
    assert "measured with device another, here it is" in capsys.readouterr().err
    assert run("report", "--quick", "--out", tmp_path, "--restart") == 0


def test_other_settings_are_not_resumed(tiny, tmp_path, capsys):
    with pytest.MonkeyPatch.context() as patch:
        interrupt_at(patch, "d64-2")
        run("report", "--quick", "--out", tmp_path)
    assert run("report", "--out", tmp_path, "--resume") == 2
    assert "its settings are quick True" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not JSON"),
        ("[]", "not a report"),
        ('{"what": "baseline"}', "not a report"),
        ('{"what": "report", "format": 1}', "the format of a report must be 2 for this version"),
        ('{"what": "report", "format": 2}', "a broken report: 'machine'"),
    ],
)
def test_a_broken_file_is_one_line(tmp_path, capsys, text, said):
    (tmp_path / "report.json").write_text(text)
    for command in (["report", "--quick", "--out", tmp_path, "--resume"], ["render", tmp_path]):
        assert run(*command) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert said in error
        assert str(tmp_path) in error


def test_nothing_to_resume_or_render(tmp_path, capsys):
    for command in (["report", "--out", tmp_path, "--resume"], ["render", tmp_path]):
        assert run(*command) == 2
        assert "no such report" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert run("report", "--quick", "--out", tmp_path / "file") == 2


def test_no_such_part(tmp_path, capsys):
    assert run("report", "--quick", "--only", "nothing", "--out", tmp_path) == 2
    assert (
        "--only: no part has a name that contains 'nothing', there are ceilings, "
        in capsys.readouterr().err
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments", [["--threads", "0"], ["--threads", "x"], ["--minutes", "-1"], ["--colour"]]
)
def test_bad_options(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        run("report", *arguments)
    assert end.value.code == 2


@pytest.mark.parametrize(
    ("us", "text"),
    [(0.5, "0.5 us"), (12.345, "12.3 us"), (999.7, "1 ms"), (5.19e3, "5.19 ms"), (4.2e9, "4200 s")],
)
def test_times_are_written_in_the_unit_that_fits(us, text):
    assert time_text(us) == text


# ---------------------------------------------------------------- growth


def test_an_exponent_and_its_error():
    fit = growth.exponent([(2**k, 5.0 * 2 ** (1.5 * k)) for k in range(10)])
    assert fit["exponent"] == pytest.approx(1.5)
    assert fit["error"] == pytest.approx(0, abs=1e-6)
    assert (fit["from"], fit["to"]) == (2**4, 2**9)
    bent = [(1, 1.0), (2, 2.2), (4, 3.6)]
    want = scipy.stats.linregress(*np.log(np.array(bent)).T)
    assert growth.exponent(bent)["exponent"] == pytest.approx(want.slope)
    assert growth.exponent(bent)["error"] == pytest.approx(want.stderr)
    assert growth.exponent([(1, 1.0), (2, 2.0)]) is None


def test_overhead_of_small_sizes_does_not_count():
    curve = [(2**k, 50.0 + 2.0**k) for k in range(4, 20)]
    assert growth.exponent(curve)["exponent"] > 0.95


def test_a_crossing_is_interpolated_and_none_invented():
    ours = [(1000, 10.0), (4000, 40.0), (16000, 160.0)]
    square = [(1000, 5.0), (4000, 80.0), (16000, 1280.0)]
    found = growth.crossing(ours, square)
    assert found["at"] == [pytest.approx(2000)]
    assert found["ratio_at_first"] == pytest.approx(0.5)
    slower = [(size, 3 * us) for size, us in square]
    assert growth.crossing(ours, slower)["at"] == []
    assert (growth.crossing(ours, square[:2])["from"], found["to"]) == (1000, 16000)


# ---------------------------------------------------------------- stages


def test_every_stage_of_the_native_kernel_has_its_counts():
    timed = {*roofline.CPU_STAGES, roofline.CYCLE}
    assert set(roofline.cpu_times(4096)) == timed, "the pipeline's stages have changed"
    stages = roofline.cpu_stages(4096)
    assert all(stage["us"] > 0 for stage in stages.values())
    copied = stages["bare copy"]
    assert copied["gb_per_s"] == pytest.approx(8 * 4096 / copied["us"] / 1e3)


def test_kernels_on_a_gpu_are_joined_with_what_they_report(monkeypatch):

    class Trace:
        def __init__(self, **_):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def key_averages(self):
            def event(key, us, device="DeviceType.CUDA"):
                return SimpleNamespace(
                    key=key, self_device_time_total=us, count=20, device_type=device
                )

            return [event("fused", 400.0), event("mean", 50.0), event("aten::mean", 50.0, "CPU")]

    both = [launches.Launch("fused", 4000, 80000)] * 2
    recorded = nullcontext(SimpleNamespace(launches=both))
    calls = []
    monkeypatch.setattr(torch.profiler, "profile", Trace)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(launches, "recorded", lambda run: recorded)
    found = roofline.gpu_kernels(lambda: calls.append(1))
    assert found == {
        "fused": {"us": 40.0, "launches": 2.0, "gb_per_s": 0.2, "gflop_per_s": 4.0},
        "mean": {"us": 5.0, "launches": 2.0},
    }
    assert len(calls) == 14
