"""Private names of torch: all in one file, and each can be missing."""

import ast
import os
import subprocess
import sys

import pytest
import torch

from bench import ROOT
from gaussreg_fast import _torch_internals

TESTS = ROOT / "tests"
PACKAGE = ROOT / "gaussreg_fast"


def private_names(source):
    """Dotted names below torch, or a module imported from it, that have a private part."""
    tree = ast.parse(source)
    roots = {"torch"}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "torch":
            roots |= {alias.asname or alias.name for alias in node.names}
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            dotted = ast.unparse(node).split(".")
            if dotted[0] in roots and any(p.startswith("_") and p[1] != "_" for p in dotted[1:]):
                found.add(".".join(dotted))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("torch"):
            parts = [*node.module.split("."), *(alias.name for alias in node.names)]
            if any(part.startswith("_") for part in parts):
                found.add(ast.unparse(node))
    return found


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("import torch\ntorch._C._x()", 2),  # the name, and its beginning
        ("from torch.autograd import forward_ad\nforward_ad._current_level", 1),
        ("from torch._C import x", 1),
        ("import torch\ntorch.empty(2).__len__", 0),
    ],
)
def test_the_search_finds_them(source, count):
    assert len(private_names(source)) == count


def test_private_names_of_torch_are_in_one_file():
    found = {
        str(path.relative_to(PACKAGE)): names
        for path in PACKAGE.rglob("*.py")
        if (names := private_names(path.read_text(encoding="utf-8")))
    }
    assert set(found) == {"_torch_internals.py"}, found


def test_this_torch_has_them():
    """A fallback is right but slow: a release that needs one is to be noticed."""
    assert not _torch_internals.FORCED
    assert _torch_internals.direct(torch.ones(1))
    assert _torch_internals.missing() == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "file",
    [
        "ops/test_ops.py",
        "ops/test_ops_autograd.py",
        "ops/test_path_ops.py",
        "functional/test_drift.py",
    ],
)
def test_operators_without_any(file):
    """The tests of the operators once more, as on a torch that has none of these names."""
    environment = {**os.environ, "PYTHONPATH": str(TESTS / "helpers")}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "without_private_names"]
    command += ["-p", "no:cacheprovider", str(TESTS / file)]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=ROOT, timeout=600
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
