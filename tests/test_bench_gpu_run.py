"""The staged GPU run, on the device that is not there: clock, failures, cuts, going on."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.gpu import record

ROOT = Path(__file__).resolve().parent.parent
RUN = [sys.executable, "-m", "bench", "gpu", "--rehearse"]


def environment(**more):
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    return env | {"PYTHONPATH": str(ROOT / "tests"), **more}


def run(*words, code=0):
    done = subprocess.run(
        [*RUN, *map(str, words)], cwd=ROOT, env=environment(), text=True, capture_output=True
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


def read(out):
    return json.loads((out / "rehearsal" / "run.json").read_text())


def rows(content, stage):
    return {row["part"]: row for row in content["stages"][stage]["rows"]}


def processes(mark):
    """The processes that still run with a mark in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if mark.encode() in path.read_bytes():
                found.append(path.parent.name)
    return found


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A run in which nearly everything goes wrong that can."""
    out = tmp_path_factory.mktemp("planted")
    done = run("--plan", "planted_stages:PLAN", "--out", out, "--seconds", 90, code=1)
    return done.stdout, read(out), out


def test_each_part_is_a_row_and_a_failure_does_not_end_the_run(planted):
    _, content, _ = planted
    states = {name: stage["state"] for name, stage in content["stages"].items()}
    assert states["good"] == states["last"] == "done"
    assert states["bad"] == "FAILED: raises, leaves"
    assert states["unmakeable"] == "FAILED: exit code 1, before its first part"
    assert states["long"].startswith("not started: ")
    assert states["long"].endswith("s left, 5000 s expected")
    good = rows(content, "good")
    assert good["first"]["value"] == good["second"]["value"] > 0
    assert good["first"]["rehearsed_launches"] == 2
    assert good["not here"] | {"seconds": 0} == {
        "part": "not here", "status": "not measured", "reason": "no such tool", "seconds": 0,
    }  # fmt: skip
    bad = rows(content, "bad")
    assert bad["raises"]["reason"] == "RuntimeError: planted: it raises"
    assert bad["leaves"]["reason"] == "its process: exit code 7"
    assert bad["after it"]["status"] == "ok"
    assert bad["too long to begin"]["reason"].startswith("out of time: ")


def test_what_a_failed_process_printed_is_kept(planted):
    _, content, _ = planted
    assert any("planted: it raises" in line for line in content["stages"]["bad"]["log"])
    assert content["stages"]["unmakeable"]["log"][-1] == "ValueError: planted: no parts"
    assert "log" not in content["stages"]["good"]


def test_the_table_ends_the_output_and_names_what_failed(planted):
    printed, _, out = planted
    *_, last = printed.splitlines()
    assert last == f"wrote {out / 'rehearsal' / 'run.json'}"
    table = run("--show", out / "rehearsal").stdout
    assert table in printed
    assert len(table.splitlines()) <= 60
    assert table.startswith("rehearsal, driver None, torch ")
    assert "FAILED bad, leaves: its process: exit code 7" in table
    assert "not measured: good, not here: no such tool" in table


def test_kernels_are_compiled_ahead(planted):
    _, content, _ = planted
    assert {name.rpartition(": ")[2] for name in content["compiled"]["seconds"]} == {
        "index_tables", "fused",
    }  # fmt: skip
    assert "compiled_here" not in rows(content, "good")["first"]


def test_only_what_is_left_is_done_again(planted, tmp_path):
    """Into another folder, as a second command on a fresh machine does it."""
    _, before, out = planted
    done = run(
        "--plan", "planted_stages:PLAN", "--resume", out / "rehearsal", "--out", tmp_path,
        "--seconds", 60, code=1,
    )  # fmt: skip
    content = read(tmp_path)
    assert "good: all is well" not in done.stdout
    assert content["stages"]["good"] == before["stages"]["good"]
    assert rows(content, "bad")["after it"] == rows(before, "bad")["after it"]
    assert rows(content, "bad")["leaves"]["status"] == "FAILED"
    assert read(out) == before


def test_a_named_stage_is_done_anew(planted, tmp_path):
    _, before, out = planted
    words = ["--plan", "planted_stages:PLAN", "--out", tmp_path, "--stages", "good"]
    run(*words, "--resume", out / "rehearsal")
    content = read(tmp_path)
    assert rows(content, "good").keys() == rows(before, "good").keys()
    assert rows(content, "good")["first"]["process"] != rows(before, "good")["first"]["process"]
    assert content["stages"]["last"] == before["stages"]["last"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_run_that_is_cut_off_loses_what_it_was_doing_and_no_more(tmp_path, number):
    words = [*RUN, "--plan", "planted_stages:SLOW", "--out", str(tmp_path)]
    mark = str(tmp_path)
    process = subprocess.Popen(
        words, cwd=ROOT, env=environment(MARK=mark), stdout=subprocess.PIPE, text=True
    )
    seen = []
    for line in process.stdout:
        seen.append(line.strip())
        if line.startswith("  1:"):
            break
    process.send_signal(number)
    seen += process.communicate(timeout=30)[0].splitlines()
    cut = read(tmp_path)
    assert list(rows(cut, "slow"))[:2] == ["0", "1"]
    if number == signal.SIGTERM:
        assert process.returncode == 130
        assert seen[-1] == f"wrote {tmp_path / 'rehearsal' / 'run.json'}"
    deadline = time.monotonic() + 15
    while processes(mark) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not processes(mark)
    run("--plan", "planted_stages:SLOW", "--out", tmp_path, "--resume")
    content = read(tmp_path)
    assert [stage["state"] for stage in content["stages"].values()] == ["done", "done"]
    for name in ("0", "1"):
        assert rows(content, "slow")[name] == rows(cut, "slow")[name]
    assert len(content["stages"]["slow"]["rows"]) == 5


@pytest.mark.slow
def test_what_has_no_end_is_stopped(tmp_path):
    run("--plan", "planted_stages:HANGING", "--out", tmp_path, code=1)
    found = rows(read(tmp_path), "hanging")
    assert found["sleeps"]["reason"].startswith("stopped after ")
    assert found["hangs"]["reason"].startswith("its process: stopped after ")
    assert found["works"]["status"] == "ok"


def test_a_long_table_is_cut_to_sixty_lines(tmp_path):
    done = run("--plan", "planted_stages:MANY", "--out", tmp_path, code=1)
    table = done.stdout[done.stdout.rindex("rehearsal, driver") :].splitlines()[:-1]
    assert len(table) == 60
    assert table[-1].startswith("... ")
    assert len(read(tmp_path)["stages"]["many"]["rows"]) == 150


def test_time_that_is_up_is_kept_to(tmp_path):
    begin = time.monotonic()
    run("--plan", "planted_stages:SLOW", "--out", tmp_path, "--seconds", 13)
    assert time.monotonic() - begin < 25  # with the imports of a busy machine
    states = {name: stage["state"] for name, stage in read(tmp_path)["stages"].items()}
    assert states["slow"].startswith(("out of time for", "not started"))
    assert states["end"].startswith("not started")


@pytest.mark.slow
def test_every_stage_runs_to_its_end(tmp_path):
    """What the machine lacks is left out; nothing fails, and nothing is compiled twice."""
    run("--out", tmp_path, "--seconds", 540)
    content = read(tmp_path)
    assert [stage["state"] for stage in content["stages"].values()] == ["done"] * 7
    found = [row for stage in content["stages"].values() for row in stage["rows"]]
    left_out = {row["part"] for row in found if row["status"] != "ok"}
    assert left_out <= {"profile, one sample", "profile, two waves", "digits"}
    assert not [row["part"] for row in found if "compiled_here" in row]
    assert sum(row.get("rehearsed_launches", 0) for row in found) > 1000
    headline = rows(content, "headline")
    assert set(headline["d64-4"]["summary_us"]["device"]) >= {"value_and_grad", "compile", "hand"}
    assert {"covariance", "prno"} <= set(headline["d256-1-growth"]["summary_us"]["device"])
    assert set(headline["d64-1"]["us"]) == {"device", "wall", "graph wall", "graph device"}


# ---------------------------------------------------------------- bad input


def test_without_a_gpu_it_says_so(refused, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert refused(["gpu"]) == (
        "error: gpu measures on a GPU: torch.cuda.is_available() is False; "
        "--rehearse goes through it without one\n"
    )


def test_an_unknown_stage_is_named(refused):
    told = refused(["gpu", "--rehearse", "--stages", "paths,lunch"])
    assert "'lunch' is no stage; these are: look, paths, headline" in told


def test_nothing_to_go_on_with(refused, tmp_path):
    told = refused(["gpu", "--rehearse", "--out", str(tmp_path), "--resume"])
    assert told == f"error: {tmp_path / 'rehearsal' / 'run.json'}: no such gpu run\n"
    told = refused(["gpu", "--show", str(tmp_path)])
    assert told == f"error: {tmp_path / 'run.json'}: no such gpu run\n"


@pytest.mark.parametrize("name", record.SAME)
def test_another_machines_run_is_not_gone_on_with(tmp_path, refused, name):
    facts = dict.fromkeys(record.SAME, "here") | {"driver": "1"}
    before = record.Record.begin(tmp_path, facts | {name: "elsewhere"})
    before.save()
    with pytest.raises(record.BadInput, match=f"its {name} is elsewhere, here it is here"):
        record.Record.resume(tmp_path, tmp_path, facts)
    assert record.Record.resume(tmp_path, tmp_path, facts | {name: "elsewhere"})


def test_another_driver_is_the_same_machine(tmp_path):
    facts = dict.fromkeys(record.SAME, "here")
    record.Record.begin(tmp_path, facts | {"driver": "1"}).save()
    assert record.Record.resume(tmp_path, tmp_path, facts | {"driver": "2"})
