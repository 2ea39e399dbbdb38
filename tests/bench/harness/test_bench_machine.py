"""The benchmark's facts about a machine, and processes that compile ahead of a GPU run."""

import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch

from bench import ROOT
from bench.harness import cpu_clocks, machine
from bench.harness.samples import Timed
from bench.subjects import cases, prepare


def test_the_facts_of_this_machine():
    facts = machine.facts("cpu")
    assert set(machine.IDENTITY) <= set(facts)
    assert facts["threads"] == torch.get_num_threads()
    assert machine.difference(facts, dict(facts)) == ""
    assert machine.difference({**facts, "python": "2.7"}, facts).startswith("python 2.7, here it")
    assert machine.free_memory("cpu") > 2**20


def test_triton_matters_only_where_it_computes():
    facts = machine.facts("cpu")
    assert machine.difference({**facts, "triton": "3.6.0"}, {**facts, "triton": None}) == ""
    on_gpu = {**facts, "kind": "cuda"}
    assert machine.difference({**on_gpu, "triton": "3.6.0"}, {**on_gpu, "triton": None}) != ""


def test_the_facts_of_a_gpu(monkeypatch):
    def smi(command, **_):
        fields = command[3].removeprefix("--query-gpu=").split(",")
        values = {"driver_version": "570.1", "clocks.max.sm": "1980 MHz", "clocks.sm": "345 MHz"}
        said = ", ".join(values.get(field, "1 MHz") for field in fields)
        return subprocess.CompletedProcess(command, 0, said + "\n", "")

    monkeypatch.setattr(machine.subprocess, "run", smi)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a GPU")
    facts = machine.facts("cuda")
    assert (facts["device"], facts["driver"]) == ("a GPU", "570.1")
    assert facts["max_clocks"] == {"clocks.max.sm": "1980 MHz", "clocks.max.mem": "1 MHz"}
    assert facts["instruction_set"] is None
    assert machine.clocks("cuda") == "345 MHz"


def test_the_facts_of_a_processor(monkeypatch):
    text = "model name\t: One\nmodel\t\t: 1\n\nmodel name\t: Two\ncpu MHz\t\t: 12.5\n"
    monkeypatch.setattr(machine, "Path", lambda _: SimpleNamespace(read_text=lambda **_: text))
    assert machine.facts("cpu")["device"] == "One"
    assert machine.clocks("cpu") == "12.5 MHz"
    assert ("model", "1") in machine.cpuinfo()
    monkeypatch.setattr(machine, "Path", lambda _: ROOT / "missing")
    assert machine.cpuinfo() == []
    assert machine.clocks("cpu") is None


@pytest.mark.parametrize("error", [FileNotFoundError(), subprocess.CalledProcessError(9, "x")])
def test_without_nvidia_smi_nothing_is_invented(monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(machine.subprocess, "run", fail)
    assert machine.smi("driver_version") == {"driver_version": None}


def test_ceilings(monkeypatch):
    monkeypatch.setattr(machine, "COPY_BYTES", {"cpu": 2**22})
    monkeypatch.setattr(machine, "CEILING_SECONDS", 0.2)
    found = machine.ceilings("cpu")
    assert 0.5 < found["copy_gb_per_s"] < 5000
    assert 1 < found["gflop_per_s"] < 50000
    assert 0.1 < found["smallest_call_us"] < 1000


def test_a_slower_copy_is_a_lower_ceiling(monkeypatch):
    def timed(calls, *_):
        return Timed({name: [1000.0, 2000.0] for name in calls})

    monkeypatch.setattr(cpu_clocks.CpuClock, "timed", timed)
    monkeypatch.setattr(machine, "COPY_BYTES", {"cpu": 2**20})
    found = machine.ceilings("cpu")
    assert found["copy_gb_per_s"] == pytest.approx(2 * 2**20 / 1000 / 1e3)
    assert found["gflop_per_s"] == pytest.approx(2 * 320**3 / 1000 / 1e3)


# ---------------------------------------------------------------- compiling ahead


def test_one_process_for_the_same_kernels():
    names = ["ceilings", "toy", *(case.name for case in cases.of_report("cuda"))]
    jobs = [job[1] for job in prepare.jobs(names, quick=False)]
    assert {"sd-4096", "sd-1", "sd-256", "d1024-1-growth", "d131072-1-growth"} <= set(jobs)
    assert not {"ceilings", "toy", "sd-64-growth", "sd-1024-growth"} & set(jobs)
    assert len(prepare.jobs(names, quick=True)) < len(jobs)


def test_processes_run_side_by_side_and_none_outlasts_its_time():
    shown = prepare.processes([["cases"], ["launches", "--help"]], 60)
    assert any("sd-16" in line for line in shown)
    assert any("--check" in line for line in shown)
    begin = time.monotonic()
    assert prepare.processes([["report", "--out", "/dev/null/x"]] * 2, 0.1) == []
    assert time.monotonic() - begin < 10


# ---------------------------------------------------------------- the package that is measured


def test_an_installed_package_is_found_before_the_checkout(tmp_path):
    """The checkout's has no compiled module and no kernels, unless it is installed as editable."""
    (tmp_path / "gaussreg_fast").mkdir()
    (tmp_path / "gaussreg_fast" / "__init__.py").touch()
    code = "import bench, gaussreg_fast; print(gaussreg_fast.__file__)"
    for first in (str(ROOT), ""):
        path = f"import sys; sys.path[:] = [{first!r}, *sys.path, {str(tmp_path)!r}]; "
        command = [sys.executable, "-S", "-c", path + code]  # -S: nothing else is installed
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        assert done.stdout.startswith(str(tmp_path)), done.stderr
