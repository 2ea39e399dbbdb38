"""`python -m bench check`: a slow, a changed and a wrong kernel are caught and named."""

import json
import os
import subprocess
import sys

import pytest
from bench_command import run

from bench import ROOT
from bench.check import gate, regression
from bench.harness import machine
from gaussreg_fast.backends import native

# ---------------------------------------------------------------- a kernel slowed on purpose


def slowed(monkeypatch):
    """The native kernel with its gradient does its work twice."""
    real = native.loss

    def twice(*arguments, gradient, **options):
        if gradient is not None:
            real(*arguments, gradient=gradient, **options)
        return real(*arguments, gradient=gradient, **options)

    monkeypatch.setattr(native, "loss", twice)


@pytest.mark.skipif(native.load()[0] is None, reason="the native kernels are not built")
def test_a_slow_kernel_is_caught_and_named(tmp_path, monkeypatch, capsys):
    """Measured in this process, in place of many; the whole command is below."""
    names = ("sd-16 value_and_grad", "sd-16 statistics")
    suite = {name: pair for name, pair in gate.suite("cpu").items() if name in names}
    rows = regression.rows_of(suite, "cpu")

    def measure(options, count, progress, names=()):
        chosen = {name: rows[name] for name in (names or rows)}
        found = [regression.time_rows(suite, chosen, 0.1) for _ in range(count)]
        return machine.facts("cpu"), found

    monkeypatch.setattr(regression, "measure", measure)
    baseline = tmp_path / "baseline.json"
    assert run("record", "--out", baseline) == 0
    assert run("check", "--baseline", baseline, "--tolerance", "25%") == 0
    slowed(monkeypatch)
    capsys.readouterr()
    assert run("check", "--baseline", baseline, "--tolerance", "25%") == 1
    lines = capsys.readouterr().err.splitlines()
    slow = ["sd-16 value_and_grad, cold", "sd-16 value_and_grad, hot"]
    assert [line.split(":")[1].strip() for line in lines] == slow


SLOW = """
from gaussreg_fast.backends import native
real = native.loss
def twice(*arguments, gradient, **options):
    if gradient is not None:
        real(*arguments, gradient=gradient, **options)
    return real(*arguments, gradient=gradient, **options)
native.loss = twice
"""


@pytest.mark.slow
@pytest.mark.skipif(native.load()[0] is None, reason="the native kernels are not built")
def test_the_command_catches_a_slow_kernel(tmp_path):
    baseline = tmp_path / "baseline.json"
    (tmp_path / "slow").mkdir()
    (tmp_path / "slow" / "sitecustomize.py").write_text(SLOW)
    # A batch, because C++ takes calls of one latent without asking the backend.
    short = ["--only", "sd-16 ", "--seconds", "0.2", "--processes", "6"]

    def bench(*arguments, path=None):
        environment = {**os.environ, **({"PYTHONPATH": str(path)} if path else {})}
        command = [sys.executable, "-m", "bench", *map(str, arguments), *short]
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)

    done = bench("record", "--out", baseline)
    assert done.returncode == 0, done.stderr
    done = bench("check", "--baseline", baseline, path=tmp_path / "slow")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "REGRESSION: sd-16 value_and_grad, hot: " in done.stderr
    assert "REGRESSION: sd-16 statistics, " not in done.stderr


# ---------------------------------------------------------------- kernels, without a clock


CHANGED = """
import sys
from gaussreg_fast.backends.triton import _loss_fused, launch
from bench import cli

def spilling(num_warps):
    few = {"maxnreg": 16} if _loss_fused.arch(None).startswith("sm_") else {}
    return {"num_warps": num_warps, "enable_fp_fusion": True, **few}

def twice(real):
    def call(*arguments, **options):
        real(*arguments, **options)
        return real(*arguments, **options)
    return call

if "spill" in sys.argv:
    _loss_fused.compiler = spilling
if "launch" in sys.argv:
    launch.loss = twice(launch.loss)
sys.exit(cli.main(["check", "--kernels", sys.argv[-1]]))
"""


def kernels(tmp_path, *arguments):
    pytest.importorskip("triton", reason="there is no triton here")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TRITON_")}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", CHANGED, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    if done.returncode == 2:
        pytest.skip(done.stderr)
    return done


def test_the_launches_are_as_recorded(tmp_path):
    done = kernels(tmp_path, "D=16384 B=1")
    assert done.returncode == 0, done.stdout + done.stderr


def test_one_launch_more_is_caught_and_named(tmp_path):
    done = kernels(tmp_path, "launch", "D=1024 B=64")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "REGRESSION: sm_90 gradient D=1024 B=64: launches 2 -> 4" in done.stderr
    assert "REGRESSION: sm_90 gradient D=1024 B=64: bytes 528384 -> 1056768" in done.stderr
    assert "D=4096" not in done.stderr


def test_a_spill_is_caught_and_named(tmp_path):
    done = kernels(tmp_path, "spill", "gradient D=64: fused")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "REGRESSION: sm_90 gradient D=64: fused: stack 0 -> " in done.stderr
    assert "REGRESSION: sm_90 gradient D=64: fused: spills: stack" in done.stderr


def test_no_kernel_of_such_a_name(tmp_path, capsys):
    pytest.importorskip("triton", reason="there is no triton here")
    command = [sys.executable, "-m", "bench", "check", "--kernels", "nothing"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2
    assert (
        done.stderr
        == "error: --kernels: no kernel and no case has a name that contains 'nothing'\n"
    )


def loss_too_large(right):
    return lambda x, **options: (1.01 * right(x, **options)[0], right(x, **options)[1])


def projection_too_large(right):
    return lambda x, **options: right(x, **options) * (1 if options else 1.01)


@pytest.mark.parametrize(
    ("name", "wrong", "said"),
    [
        ("gaussianity_value_and_grad", loss_too_large, "value"),
        ("project_white_noise", projection_too_large, "projection"),
    ],
)
def test_a_wrong_result_is_not_timed(monkeypatch, tmp_path, name, wrong, said):
    right = getattr(gate.correctness, name)
    monkeypatch.setattr(gate.correctness, name, wrong(right))
    answer = tmp_path / "answer.json"
    run("sample", "--verify", "--only", "sd-1 ", "--answer", answer)
    message = json.loads(answer.read_text())
    assert message["error"] == "Wrong"
    assert message["reason"].startswith(f"{said}: relative error 0.01")
    assert "result" not in message
