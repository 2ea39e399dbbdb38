"""The Makefile's commands in a checkout whose path has spaces and other letters than ASCII."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from bench import ROOT

pytestmark = pytest.mark.skipif(not shutil.which("make"), reason="there is no make")

TARGETS = re.findall(
    r"[\w-]+",
    re.search(r"\.PHONY:((?:.*\\\n)*.*)", (ROOT / "Makefile").read_text(encoding="utf-8"))[1],
)

# In place of every program: writes down how it was called, and makes what make needs next.
PROGRAM = """
import json, os, pathlib, shutil, sys
program, *given = sys.argv[1:]
program = pathlib.Path(program)
path = os.environ.get("PYTHONPATH", "")
with open(os.environ["CALLS"], "a") as calls:
    print(json.dumps([program.name, os.getcwd(), path, given]), file=calls)
if given[:2] == ["-m", "venv"]:
    (pathlib.Path(given[-1]) / "bin").mkdir(parents=True, exist_ok=True)
    shutil.copy(program, pathlib.Path(given[-1]) / "bin" / "python")
elif given[:1] == ["-c"] and "purelib" in given[1]:
    packages = program.resolve().parent.parent / "site-packages"
    packages.mkdir(exist_ok=True)
    print(packages)
elif "--target" in given:
    pathlib.Path(given[given.index("--target") + 1]).mkdir(parents=True, exist_ok=True)
"""


@pytest.fixture
def checkout(tmp_path):
    """A folder with the Makefile and empty sources, and programs that write down their calls."""
    folder = tmp_path / "above" / "my code ü" / "gauss reg"
    for name in ("kernels/cpu", "gaussreg_fast", "bench/gpu", ".venv/bin", "programs"):
        (folder / name).mkdir(parents=True)
    for name in ("pyproject.toml", "constraints.txt", "CMakeLists.txt", "bench/gpu/packages.txt"):
        (folder / name).touch()
    shutil.copy(ROOT / "Makefile", folder)
    (tmp_path / "program.py").write_text(PROGRAM)
    text = f'#!/bin/sh\nexec "{sys.executable}" "{tmp_path / "program.py"}" "$0" "$@"\n'
    names = ("python", "pytest", "ruff", "mypy", "mkdocs", "gaussreg-fast")
    for program in [*(f".venv/bin/{name}" for name in names), "programs/compute-sanitizer"]:
        (folder / program).write_text(text)
        (folder / program).chmod(0o755)
    return folder


def called(checkout, *words):
    """Run make in the checkout; return the calls of programs: name, PYTHONPATH, arguments."""
    calls = checkout.parents[2] / "calls"
    path = os.pathsep.join([str(checkout / "programs"), os.environ["PATH"]])
    env = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL", "PYTHONPATH")}
    env |= {"PATH": path, "CALLS": str(calls), "HOME": str(checkout / "programs")}
    done = subprocess.run(
        ["make", *words], cwd=checkout, env=env, capture_output=True, text=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [json.loads(line) for line in calls.read_text().splitlines()]
    assert {where for _, where, _, _ in lines} == {str(checkout)}
    return [(name, path, given) for name, _, path, given in lines]


def test_the_targets_are_found():
    assert {"demo", "test", "resources", "sanitize-native", "gpu-rehearsal", "clean"} <= {*TARGETS}


def test_every_target_stays_in_a_checkout_with_spaces_in_its_path(checkout):
    python = checkout / "programs" / "python"
    shutil.copy(checkout / ".venv/bin/python", python)
    words = [f"PYTHON={python}", f"GPU_PYTHON={python}"]
    calls = called(checkout, *(target for target in TARGETS if target != "clean"), *words)
    assert len(calls) > 50
    for _, path, given in calls:
        assert path in ("", f"{checkout}/build/triton-3.6.0")
        # A path that was split at its spaces leaves an argument with a part of it.
        parts = [w for w in given if "above" in w or "ü" in w or w.startswith("reg/")]
        assert not [word for word in parts if str(checkout) not in word]
    called(checkout, "clean")
    assert not (checkout / "build").exists()
    assert [path.name for path in checkout.parent.iterdir()] == ["gauss reg"]
    assert [path.name for path in checkout.parents[1].iterdir()] == ["my code ü"]


def test_another_triton_is_installed_and_found_in_the_checkout(checkout):
    calls = called(checkout, "resources")
    targets = [given[given.index("--target") + 1] for _, _, given in calls if "--target" in given]
    assert targets == ["build/triton-3.6.0"]
    resources = [path for _, path, given in calls if given[:3] == ["-m", "bench", "resources"]]
    assert resources == ["", str(checkout / "build/triton-3.6.0")]


def test_the_sanitized_environment_uses_the_others_packages(checkout):
    called(checkout, "sanitize-native")
    for sanitizers in ("address,undefined", "thread"):
        own = checkout / f"build/sanitized-{sanitizers}/site-packages/dev.pth"
        assert own.read_text().strip() == str(checkout / ".venv/site-packages")


def test_a_virtual_environment_with_spaces_in_its_path_is_refused(checkout):
    done = subprocess.run(
        ["make", "lint", "VENV=my env"], cwd=checkout, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "VENV must be a path without spaces, got 'my env'" in done.stderr
