"""Errors planted in the package's kernels are seen; see helpers/planted_errors.py."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest
from small_ptx import needs_compiler

from bench import ROOT

pytestmark = [
    needs_compiler,
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="there is no triton"),
]


@pytest.fixture(scope="module")
def told():
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, str(ROOT / "tests" / "helpers" / "planted_errors.py")]
    run = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def test_kernels_as_they_are(told):
    assert told["none"] == [[], [], []]  # errors, lanes in step, wrong results


def test_planted_errors_are_seen(told):
    assert len(told["planted"]) == 10
    assert [one for one in told["planted"] if not one["seen"]] == []


def test_removed_barriers_are_seen(told):
    fused, warp = told["removed"]
    # Some of a program's barriers are redundant; some of a warp's separate one lane's accesses.
    assert fused["count"] > 20
    assert len(fused["silent"]) <= 0.1 * fused["count"]
    assert warp["silent and wrong"] == fused["silent and wrong"] == []
    assert warp["count"] == 0 or len(warp["silent"]) < warp["count"]
