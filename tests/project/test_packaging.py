"""The contents of a built wheel, which works without the checkout on the path."""

import configparser
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
import torch

import gaussreg_fast
from bench import ROOT

pytestmark = pytest.mark.slow

COPIED = ("CMakeLists.txt", "pyproject.toml", "README.md", "LICENSE", "gaussreg_fast", "kernels")
BUILD_TOOLS = ("scikit_build_core", "nanobind", "cmake", "ninja")


def build_wheel(folder, env):
    """Builds a wheel from a copy of the tree, with one more module in kernels/, and unpacks it."""
    tree = folder / "tree"
    tree.mkdir()
    left_out = shutil.ignore_patterns("__pycache__", "*.so", "_native_missing.txt")
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tree / name, ignore=left_out)
        else:
            shutil.copy(source, tree / name)
    (tree / "kernels" / "probe.py").write_text("WHOSE = 'gaussreg_fast'\n")

    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "-w", folder, tree]
    if all(importlib.util.find_spec(tool) for tool in BUILD_TOOLS):
        command.insert(4, "--no-build-isolation")
    run = subprocess.run(command, capture_output=True, text=True, env=env, cwd=folder)
    assert run.returncode == 0, run.stdout + run.stderr
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "unpacked")
    return folder / "unpacked"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return build_wheel(tmp_path_factory.mktemp("wheel"), dict(os.environ))


@pytest.fixture(scope="module")
def wheel_without_compiler(tmp_path_factory):
    """Built where the path leads to the build tools and nothing else, and CXX nowhere."""
    folder = tmp_path_factory.mktemp("plain")
    tools = folder / "bin"
    tools.mkdir()
    for name in ("cmake", "ninja"):
        # The script beside this interpreter first: a venv need not be activated.
        beside = str(Path(sys.executable).parent)
        found = shutil.which(name, path=os.pathsep.join([beside, os.environ["PATH"]]))
        if found:
            (tools / name).symlink_to(found)
    (tools / "python").symlink_to(sys.executable)
    env = {k: v for k, v in os.environ.items() if k not in ("CC", "CMAKE_GENERATOR")}
    return build_wheel(folder, env | {"PATH": str(tools), "CXX": "/nonexistent"})


def files(unpacked):
    return {p.relative_to(unpacked).as_posix() for p in unpacked.rglob("*") if p.is_file()}


def run(code, path, cwd):
    """Runs code without site: no .pth file, so no editable install, and no user packages."""
    libraries = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    libraries.add(str(Path(torch.__file__).parent.parent))
    env = os.environ | {"PYTHONPATH": os.pathsep.join([*map(str, path), *sorted(libraries)])}
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], capture_output=True, text=True, env=env, cwd=cwd
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n")[:-1]


# ---------------------------------------------------------------- contents


def test_the_wheel_has_one_top_level_name(wheel):
    top = {path.name for path in wheel.iterdir()}
    assert top == {"gaussreg_fast", f"gaussreg_fast-{gaussreg_fast.__version__}.dist-info"}


def test_the_wheel_has_all_modules_and_no_sources_of_the_extension(wheel):
    names = files(wheel)
    python = {p.relative_to(ROOT).as_posix() for p in (ROOT / "gaussreg_fast").rglob("*.py")}
    kernels = {f"gaussreg_fast/{p.relative_to(ROOT)}" for p in (ROOT / "kernels").rglob("*.py")}
    assert python | kernels | {"gaussreg_fast/kernels/probe.py"} == {
        name for name in names if name.endswith(".py")
    }
    assert not [name for name in names if name.endswith(("kernels/__init__.py", ".cpp", ".h"))]
    extension = [name for name in names if name.startswith("gaussreg_fast/_native.")]
    assert len(extension) == 1
    assert extension[0].endswith((".so", ".pyd"))


def entry_point(wheel):
    parser = configparser.ConfigParser()
    (path,) = wheel.glob("*.dist-info/entry_points.txt")
    parser.read_string(path.read_text(encoding="utf-8"))
    return parser["console_scripts"]["gaussreg-fast"]


def test_the_wheel_has_the_embedded_model(wheel):
    weights = wheel / "gaussreg_fast" / "digits" / "weights"
    kept = ROOT / "gaussreg_fast" / "digits" / "weights"
    names = sorted(path.relative_to(kept) for path in kept.rglob("*") if path.is_file())
    assert sorted(p.relative_to(weights) for p in weights.rglob("*") if p.is_file()) == names
    assert Path("pipeline/model_index.json") in names
    assert sum((weights / name).stat().st_size for name in names) < 8e6


def test_the_command_is_declared(wheel):
    assert entry_point(wheel) == "gaussreg_fast.__main__:main"


def test_the_command_leads_to_a_function_of_the_wheel(wheel):
    module, function = entry_point(wheel).split(":")
    path = wheel.joinpath(*module.split(".")).with_suffix(".py")
    assert path.exists(), f"the command gaussreg-fast is declared, but {module} does not exist"
    assert f"def {function}(" in path.read_text(encoding="utf-8")


# ---------------------------------------------------------------- use

USE = """
import gaussreg_fast, torch
print(gaussreg_fast.__file__)
print(gaussreg_fast.__version__)
print(gaussreg_fast.backends()["native"])
print(gaussreg_fast.permutation(1, 33)[:5].tolist())
x = torch.ones(2, 4, 16, requires_grad=True)
gaussreg_fast.gaussianity_loss(x).backward()
print(tuple(x.grad.shape))
"""


BY_NAME = """
import gaussreg_fast, torch
try:
    gaussreg_fast.kl_loss(torch.ones(1, 9), backend="native")
except RuntimeError as error:
    print(error)
"""


def test_the_wheel_works(wheel, tmp_path):
    place, version, native, permutation, shape = run(USE, [wheel], tmp_path)
    assert Path(place) == wheel / "gaussreg_fast" / "__init__.py"
    assert version == gaussreg_fast.__version__
    assert native == "available"
    assert permutation == "[26, 9, 4, 10, 3]"
    assert shape == "(2, 4, 16)"


@pytest.mark.parametrize("wheel_first", [True, False])
def test_a_package_called_kernels_lives_beside_it(wheel, tmp_path, wheel_first):
    """There is one on PyPI; neither may hide the other, whichever comes first on the path."""
    other = tmp_path / "other" / "kernels"
    other.mkdir(parents=True)
    (other / "__init__.py").write_text("from kernels.probe import WHOSE\n")
    (other / "probe.py").write_text("WHOSE = 'PyPI'\n")
    path = [wheel, other.parent] if wheel_first else [other.parent, wheel]
    code = """
import gaussreg_fast.kernels.probe as ours, kernels, gaussreg_fast, sys
print(ours.WHOSE, kernels.WHOSE, gaussreg_fast.permutation(0, 2).tolist())
print(gaussreg_fast.__file__)
"""
    words, place = run(code, path, tmp_path)
    assert words == "gaussreg_fast PyPI [1, 0]"
    assert Path(place).is_relative_to(wheel)


def test_without_a_compiler_the_wheel_works_and_says_why(wheel_without_compiler, tmp_path):
    names = files(wheel_without_compiler)
    assert not [name for name in names if name.startswith("gaussreg_fast/_native.")]
    assert "gaussreg_fast/_native_missing.txt" in names
    place, _, native, permutation, shape = run(USE, [wheel_without_compiler], tmp_path)
    assert Path(place).is_relative_to(wheel_without_compiler)
    assert "no C++ compiler" in native
    assert permutation == "[26, 9, 4, 10, 3]"  # the torch backend makes the same
    assert shape == "(2, 4, 16)"
    (message,) = run(BY_NAME, [wheel_without_compiler], tmp_path)
    assert "no C++ compiler" in message
    assert "'torch'" in message
