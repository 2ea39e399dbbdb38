"""`python -m bench profile`, the pytest-benchmark suites, and the workflow for users' CI."""

import json
import os
import re
import shlex
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
import yaml
from bench_command import run

from bench import ROOT, cli
from bench.compiled import launches
from bench.report import profiling, roofline, tables
from bench.subjects import peers
from bench.subjects.cases import parse
from gaussreg_fast.backends import native

WORKFLOW = ROOT / "docs" / "guide" / "ci" / "performance.yml"


def profile(out, *arguments):
    return run("profile", "--case", "d256-2", "--out", out, "--repeats", "2", *arguments)


# ---------------------------------------------------------------- profile


def test_a_profile_on_the_cpu(tmp_path, capsys):
    assert profile(tmp_path) == 0
    shown = capsys.readouterr().out
    trace = json.loads((tmp_path / "profile-d256-2-value_and_grad.trace.json").read_text())
    assert any(e.get("name") == "d256-2 value_and_grad" for e in trace["traceEvents"])
    content = json.loads((tmp_path / "profile-d256-2-value_and_grad.json").read_text())
    assert list(content["us"]) == ["cold", "hot"]
    assert min(content["us"].values()) > 0
    assert content["operators"]
    if native.load()[0]:
        assert set(content["stages"]) == set(roofline.CPU_STAGES)
        assert "other passes forward" in shown
    assert "nsys" not in shown


@pytest.mark.parametrize("call", ["naive", "fft"])
def test_a_peer_is_profiled_by_its_operators(tmp_path, call):
    assert profile(tmp_path, "--call", call) == 0
    content = json.loads((tmp_path / f"profile-d256-2-{call}.json").read_text())
    assert content["stages"] == {}
    counts = {row["name"]: row["count"] for row in content["operators"]}
    assert counts["aten::_fft_r2c"] >= 1


def test_an_unknown_call_is_one_line(tmp_path, capsys):
    assert profile(tmp_path, "--call", "nothing") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: --call must be one of value_and_grad, ")
    assert error.count("\n") == 1


def test_bare_runs_are_annotated_and_nothing_else(tmp_path, monkeypatch, capsys):
    ranges = []

    class Range:
        def __init__(self, message, domain):
            ranges.append((domain, message))

        def __enter__(self):
            pass

        def __exit__(self, *_):
            pass

    monkeypatch.setattr("nvtx.annotate", Range)
    assert profile(tmp_path, "--bare") == 0
    assert ranges == [("gaussreg_bench", "d256-2 value_and_grad")] * 2
    assert not list(tmp_path.iterdir())
    assert not capsys.readouterr().out


def test_an_outer_profiler_collects_the_calls_alone(monkeypatch):
    log = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: log.append("wait"))
    runtime = SimpleNamespace(
        cudaProfilerStart=lambda: log.append("start"), cudaProfilerStop=lambda: log.append("stop")
    )
    monkeypatch.setattr(torch.cuda, "cudart", lambda: runtime)
    with profiling.profiler_on("cuda"):
        log.append("call")
    assert log == ["wait", "start", "call", "wait", "stop"]


def test_the_printed_commands_run_this_command(tmp_path):
    case = parse("sd-16-bfloat16")
    nsys, ncu = map(shlex.split, profiling.outer_profilers(case, "value", tmp_path / "a b"))
    assert nsys[:2] == ["nsys", "profile"]
    assert "--capture-range=cudaProfilerApi" in nsys
    assert ncu[:3] == ["ncu", "--set", "full"]
    assert ncu[ncu.index("--profile-from-start") + 1] == "off"
    for command in (nsys, ncu):
        at = command.index(sys.executable)
        assert command[at + 1 : at + 3] == ["-m", "bench"]
        options = cli._parser().parse_args(command[at + 3 :])
        assert (options.case, options.call, options.bare) == (case.name, "value", True)


# ---------------------------------------------------------------- launches


def test_the_recorded_launches_are_those_of_the_cases():
    recorded = json.loads(launches.RECORD.read_text())["archs"]
    for table in recorded.values():
        assert list(table) == list(launches.calls_named())
        assert all(numbers["launches"] >= 1 for numbers in table.values())


# ---------------------------------------------------------------- suites


def test_every_call_of_a_case_has_its_name_before_there_are_inputs():
    for name in ("d256-2", "d256-1-guards", "d256-1-growth", "d256-64-growth"):
        case = parse(name)
        xs = peers.inputs(case, "cpu", 1)
        made = peers.ours(case, xs) | peers.others(case, xs, "cpu")
        assert sorted(peers.names(case, "cpu", False)) == sorted(made)
        assert set(peers.names(case, "cpu", True)) - set(made) == set(peers.COMPILED)
        assert set(made) <= set(tables.LABELS)


def test_the_suites_run(tmp_path):
    out = tmp_path / "benchmark.json"
    command = [sys.executable, "-m", "pytest", "bench", "-q", "-p", "no:cacheprovider"]
    command += ["-k", "d1024-1-growth-value or sd-1-copy or sd-1-guards-kl"]
    command += ["--benchmark-enable", "--benchmark-max-time=0.05", f"--benchmark-json={out}"]
    # The suites run in one process, even if these tests run in several.
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_XDIST")}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    found = {b["name"]: b for b in json.loads(out.read_text())["benchmarks"]}
    assert set(found) == {
        "test_losses[sd-1-copy]",
        "test_guards[sd-1-guards-kl]",
        "test_growth[d1024-1-growth-value]",
        "test_growth[d1024-1-growth-value_and_grad]",
    }
    assert all("extra_memory_bytes" in b["extra_info"] for b in found.values())


# ---------------------------------------------------------------- users' CI


def steps():
    workflow = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))
    for job in workflow["jobs"].values():
        assert job["runs-on"]
        yield from job["steps"]


def test_the_workflow_is_one():
    workflow = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))
    assert set(workflow["jobs"]) == {"cpu", "kernels", "gpu"}
    assert "pull_request" in workflow[True]  # YAML reads `on` as a truth value
    for step in steps():
        assert len({"run", "uses"} & set(step)) == 1
        if "uses" in step:
            assert re.fullmatch(r"actions/[a-z-]+@v\d+", step["uses"])
    kept = [step for step in steps() if "upload-artifact" in step.get("uses", "")]
    assert len(kept) == 2


def test_every_command_of_the_workflow_and_the_pages_is_one_of_ours():
    texts = [step["run"] for step in steps() if "run" in step]
    pages = ("README.md", "docs/guide/profile.md", "docs/guide/gate-ci.md", "Makefile")
    for page in pages:
        texts.append((ROOT / page).read_text(encoding="utf-8").replace("$(BASELINE)", "b.json"))
    found = 0
    for line in "\n".join(texts).splitlines():
        for command in re.findall(r"-m bench( [^`#|>&()]*)", line):
            words = shlex.split(command.split("  ")[0])
            if words[0] in cli.MODULES or words[0] == "COMMAND":
                continue
            found += 1
            if words in (["render"], ["check"], ["report"]):
                continue
            cli._parser().parse_args([w.replace("NAME", "sd-1") for w in words])
    assert found >= 10


def test_the_extras_that_the_workflow_installs_exist():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for step in steps():
        for extra in re.findall(r"\[(\w+)\]", step.get("run", "")):
            assert re.search(rf"^{extra} = \[", text, re.MULTILINE)
