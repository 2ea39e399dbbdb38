"""The checkerboard experiment, small, and its report."""

import json
import math
import os
import subprocess
import sys

import pytest
import torch

from bench import ROOT
from gaussreg_fast.experiments.checkerboard import report
from gaussreg_fast.experiments.checkerboard import study as checkerboard


@pytest.fixture(scope="module")
def outcomes():
    """The default experiment with fewer shuffles for PRNO, the one that takes long."""
    ticks = []
    result = checkerboard.experiment(2, 100, seed=3, prno_shuffles=10, advance=ticks.append)
    assert len(ticks) == 501
    return {outcome.name: outcome for outcome in result}


def test_the_start_is_a_checkerboard_with_the_moments_of_noise():
    x = checkerboard.start(4, 0)
    assert x.shape == (4, 4, 64, 64)
    torch.testing.assert_close(x, checkerboard.start(4, 0))
    assert x.mean().abs() < 0.02
    assert (x.square().mean() - 1).abs() < 0.02
    board = checkerboard.pattern()
    assert (x * board).mean() == pytest.approx(0.8, abs=0.02)
    assert board[0, 0, 7] == -board[0, 0, 8] == -board[0, 8, 0] == board[0, 8, 8]


def test_moment_losses_leave_the_checkerboard(outcomes):
    for name in ("KL", "kurtosis", "norm"):
        assert outcomes[name].losses[-1] <= outcomes[name].losses[0]
        assert outcomes[name].pattern > 0.6
        assert outcomes[name].p_value < 1e-50


def test_prno_removes_part_of_it(outcomes):
    assert 0.05 < outcomes["PRNO"].pattern < 0.5
    assert outcomes["PRNO"].p_value < 1e-10


def test_mpgr_removes_it(outcomes):
    mpgr = outcomes["MPGR"]
    assert abs(mpgr.pattern) < 0.05
    assert abs(mpgr.lag1) < 0.02
    assert mpgr.p_value > 1e-3
    assert mpgr.moments[1] == pytest.approx(1, abs=0.05)


def test_the_projection_whitens_at_once_but_is_too_regular_for_noise(outcomes):
    projection = outcomes["projection"]
    assert projection.iterations == 1
    assert abs(projection.lag1) < 0.02
    assert projection.worst == "blocks"
    assert projection.p_value < 1e-50


def test_report(outcomes, tmp_path):
    rows = list(outcomes.values())
    result = report.as_json(rows, 2, 3)
    paths = report.save(rows, result, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["demo.json", "demo.md", "demo.png"]
    assert paths[0].read_bytes().startswith(b"\x89PNG")
    read = json.loads(paths[2].read_text())
    assert [row["name"] for row in read["outcomes"]] == list(outcomes)
    assert read["outcomes"][5]["lag1"] == outcomes["MPGR"].lag1
    lines = paths[1].read_text().splitlines()
    assert len(lines) == 2 + len(rows)
    assert all(line.count("|") == len(report.COLUMNS) + 1 for line in lines)
    assert math.isfinite(sum(row["seconds"] for row in read["outcomes"]))


def test_the_readme_shows_the_committed_result():
    command = [sys.executable, "-m", "bench", "readme", "--check"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr


def test_the_demo_command_writes_its_three_files(tmp_path, cli):
    out = tmp_path / "deep" / "out"
    command = [
        sys.executable, "-m", "gaussreg_fast", "demo", "--out", out, "--samples", "1",
        "--iterations", "2", "--shuffles", "1", "--experiment", "checkerboard",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, env=environment
    )
    assert result.returncode == 0, result.stderr
    assert sorted(p.name for p in out.iterdir()) == ["demo.json", "demo.md", "demo.png"]
    assert "MPGR" in result.stdout
    (tmp_path / "file").write_text("")
    command[5] = tmp_path / "file" / "out"
    result = cli(*command[3:])
    assert result.returncode == 2
    assert len(result.stderr.strip().splitlines()) == 1
