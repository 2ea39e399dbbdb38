"""The staged GPU run, on the device that is not there: clock, failures, cuts, going on."""

import contextlib
import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import pytest

from bench import ROOT
from bench.gpu import record
from bench.harness.errors import BadInput

RUN = [sys.executable, "-m", "bench", "gpu", "--rehearse"]


def environment(**more):
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    return env | {"PYTHONPATH": str(ROOT / "tests" / "helpers"), **more}


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


def processes(mark, words=""):
    """The command lines that still run with a mark in their environment, and these words."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            line = path.with_name("cmdline").read_bytes().replace(b"\0", b" ").decode()
            if mark.encode() in path.read_bytes() and words in line:
                found.append(line)
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
    assert states["unmakeable"] == "FAILED: exit code 70, before its first part"
    assert states["long"].startswith("not started: ")
    assert states["long"].endswith("s left, 5000 s expected")
    good = rows(content, "good")
    assert good["first"]["value"] == good["second"]["value"] > 0
    assert good["first"]["rehearsed_launches"] == 2
    left_out = {"part": "not here", "status": "not measured", "reason": "no such tool"}
    assert left_out.items() <= good["not here"].items()
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
    for name in ("after it", "too long to begin"):
        assert rows(content, "bad")[name]["status"] == rows(before, "bad")[name]["status"]
    assert content["stages"]["bad"]["rows"][0] == rows(before, "bad")["after it"]
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
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_nothing_outlives_a_run(tmp_path, number):
    """Neither the program that a part runs, nor the compiling processes, which are held then."""
    mark = str(tmp_path)
    process = subprocess.Popen(
        [*RUN, "--plan", "planted_stages:BUSY", "--out", str(tmp_path)], cwd=ROOT,
        env=environment(MARK=mark), stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout.readline() == "busy: waits for a program\n"
    deadline = time.monotonic() + 60
    while not processes(mark, "sleep(100)") and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(number)
    process.communicate(timeout=30)
    while processes(mark) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not processes(mark)
    if number != signal.SIGKILL:
        reason = "out of time: its process: the run was interrupted"
        assert rows(read(tmp_path), "busy")["program"]["reason"] == reason


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
    run("--plan", "planted_stages:SLOW", "--out", tmp_path, "--seconds", 13, code=1)
    assert time.monotonic() - begin < 25  # with the imports of a busy machine
    states = {name: stage["state"] for name, stage in read(tmp_path)["stages"].items()}
    assert states["slow"].startswith(("out of time for", "not started"))
    assert states["end"].startswith("not started")


def test_a_run_that_is_there_is_not_overwritten(planted, refused):
    _, before, out = planted
    words = ["gpu", "--rehearse", "--plan", "planted_stages:PLAN", "--out", str(out)]
    told = refused([*words, "--stages", "good"])
    assert "holds a run already: --resume measures its missing rows, --restart replaces it" in told
    with record.Record(out / "rehearsal" / "run.json", {}).locked():
        told = refused([*words, "--resume"])
    assert told == f"error: {out / 'rehearsal' / 'run.json'}: another run writes this file\n"
    assert read(out) == before


def test_a_file_system_without_locks_is_warned_of(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    place = record.Record(tmp_path / "run.json", {})
    with pytest.warns(UserWarning, match="has no locks"), place.locked():
        place.save()
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_rows_stay_until_there_are_new_ones(planted, tmp_path):
    """A stage that is to be measured again, but no longer fits, keeps its rows."""
    _, before, out = planted
    run(
        "--plan", "planted_stages:PLAN", "--out", tmp_path, "--resume", out / "rehearsal",
        "--stages", "good,last", "--seconds", 7,
    )  # fmt: skip
    content = read(tmp_path)
    assert content["stages"]["good"]["rows"] == before["stages"]["good"]["rows"]
    assert content["stages"]["good"]["state"] == "done"


def test_every_row_says_what_it_is_of(planted):
    _, content, _ = planted
    sources = {row["source"] for stage in content["stages"].values() for row in stage["rows"]}
    assert sources == {record.source()}
    assert content["stages"]["good"]["rows"][0]["driver"] is None


def test_where_the_install_fails_the_sources_do(monkeypatch):
    """A pip that cannot build anything."""
    from bench.gpu import run as module

    ended = subprocess.CompletedProcess([], 1, "", "no compiler")
    monkeypatch.setattr(module.sys, "path", list(sys.path))
    monkeypatch.setenv("PYTHONPATH", "before")
    with mock.patch.object(module.subprocess, "run", return_value=ended):
        found = module.install()
    assert found["failed"] == "no compiler"
    folder, before = os.environ["PYTHONPATH"].split(":")
    assert before == "before"
    kernels = Path(folder, "gaussreg_fast", "kernels")
    assert {path.name for path in (ROOT / "kernels").glob("*.py")} <= set(os.listdir(kernels))
    assert sys.path[0] == folder


def test_after_an_install_the_run_starts_again_and_knows_of_it(monkeypatch, tmp_path):
    """What it had loaded before is the checkout's package, which has no kernels."""
    from bench.gpu import run as module

    class Replaced(Exception):
        """The process, by another."""

    words = ["--rehearse", "--install", "--show", str(tmp_path)]
    monkeypatch.setattr(module, "install", lambda: {"seconds": 1.5})
    monkeypatch.setattr(os, "environ", os.environ.copy())  # `main` changes it
    with (
        mock.patch.object(module.os, "execv", side_effect=Replaced) as started,
        pytest.raises(Replaced),
    ):
        module.main(words)
    assert started.call_args.args[1][1:] == ["-m", "bench", "gpu", *words]
    assert json.loads(os.environ[module.INSTALLED])[1] == {"seconds": 1.5}
    with mock.patch.object(module.os, "execv") as again, pytest.raises(BadInput):
        module.main(words)  # there is no run to show
    assert not again.called
    assert module.INSTALLED not in os.environ


@pytest.mark.slow
def test_every_stage_runs_to_its_end(tmp_path):
    """Tools that the machine lacks are left out; no part fails, and no kernel is compiled twice."""
    run("--out", tmp_path, "--seconds", 900)
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
    assert refused(["gpu"], code=3) == (
        "error: gpu needs a GPU, but torch.cuda.is_available() is False; "
        "--rehearse goes through the run without one\n"
    )


def test_an_unknown_stage_is_named(refused):
    told = refused(["gpu", "--rehearse", "--stages", "routes,lunch"])
    assert "--stages must name some of look, routes, headline" in told


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--stages", ","], "error: --stages must name at least one stage, got ','\n"),
        (["--record"], "error: --record needs --compile\n"),
    ],
)
def test_options_that_mean_nothing(refused, words, told):
    assert refused(["gpu", *words]) == told


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


def test_the_rows_of_a_run_are_replaced_one_by_one(tmp_path):
    kept = record.Record.begin(tmp_path, {})
    for value in (1, 2):
        kept.add("stage", {"part": "a", "status": "ok", "value": value})
        kept.add("stage", {"part": "b", "status": "ok", "value": value})
    assert [row["value"] for row in record.read(tmp_path)["stages"]["stage"]["rows"]] == [2, 2]


@pytest.mark.parametrize(("name", "folder"), [("NVIDIA H200", "nvidia-h200"), ("名", "device")])
def test_a_device_has_a_folder(name, folder):
    assert record.slug(name) == folder


def test_another_driver_is_the_same_machine(tmp_path):
    facts = dict.fromkeys(record.SAME, "here")
    record.Record.begin(tmp_path, facts | {"driver": "1"}).save()
    assert record.Record.resume(tmp_path, tmp_path, facts | {"driver": "2"})
