"""The contents of a built wheel, which works without the checkout on the path."""

import configparser
import importlib.util
import json
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
    tree = folder / "my code ü"
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


@pytest.fixture(scope="module")
def wheel_with_an_old_compiler(tmp_path_factory):
    """Built with a compiler that takes the option of C++20 and lacks a header, as GCC 9 does."""
    folder = tmp_path_factory.mktemp("old")
    headers = folder / "headers"
    headers.mkdir()
    (headers / "numbers").write_text("#error numbers: No such file or directory\n")
    compiler = folder / "g++ of old"  # quoted wherever it is called
    compiler.write_text(f'#!/bin/sh\nexec c++ -isystem "{headers}" "$@"\n')
    compiler.chmod(0o755)
    return build_wheel(folder, os.environ | {"CXX": f'"{compiler}"'})


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


@pytest.mark.skipif(not shutil.which("c++"), reason="there is no compiler that could be old")
def test_with_too_old_a_compiler_the_wheel_works_and_says_why(wheel_with_an_old_compiler, tmp_path):
    wheel = wheel_with_an_old_compiler
    assert not [name for name in files(wheel) if name.startswith("gaussreg_fast/_native.")]
    place, _, native, permutation, shape = run(USE, [wheel], tmp_path)
    assert Path(place).is_relative_to(wheel)
    assert "cannot compile the kernels" in native
    assert "numbers: No such file or directory" in native
    assert (permutation, shape) == ("[26, 9, 4, 10, 3]", "(2, 4, 16)")


@pytest.mark.skipif(not shutil.which("c++"), reason="there is no compiler to be found later")
@pytest.mark.skipif(not shutil.which("cmake"), reason="there is no cmake")
def test_a_compiler_that_comes_later_is_found_by_the_next_installation(tmp_path):
    """The build folder is kept between installations, and CMake keeps the compiler in it."""
    old = tmp_path / "old"
    old.write_text('#!/bin/sh\ncase "$*" in *-fsyntax-only*) exit 1;; esac\nexec c++ "$@"\n')
    old.chmod(0o755)
    (tmp_path / "CMakeLists.txt").write_text((ROOT / "CMakeLists.txt").read_text())
    (tmp_path / "kernels").symlink_to(ROOT / "kernels")
    for first, reason in (("/nonexistent", "no C++ compiler"), (old, "cannot compile the kernels")):
        build = tmp_path / f"build-{Path(first).name}"
        notes = []
        for compiler in (first, "c++"):
            (build / "_native_missing.txt").unlink(missing_ok=True)
            command = [
                "cmake",
                "-S",
                tmp_path,
                "-B",
                build,
                f"-DPython_EXECUTABLE={sys.executable}",
            ]
            env = os.environ | {"CXX": str(compiler)}
            subprocess.run(command, env=env, check=True, capture_output=True)
            note = build / "_native_missing.txt"
            notes.append(note.read_text() if note.exists() else "")
        assert reason in notes[0]
        assert reason not in notes[1]


def pretend(folder, name, version, *requires):
    """Pretend that a distribution is installed, which holds nothing."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    lines += [f"Requires-Dist: {each}" for each in requires]
    (info / "METADATA").write_text("\n".join(lines) + "\n")
    (info / "RECORD").write_text("")
    (info / "INSTALLER").write_text("pip\n")


@pytest.mark.parametrize("triton", ["triton", "pytorch-triton-rocm", "triton-rocm"])
def test_installing_leaves_the_triton_of_torch_alone(wheel, tmp_path, triton):
    """On ROCm machines it is a distribution of another name, with a module of the same name."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    (packages,) = (tmp_path / "venv").rglob("site-packages")
    pretend(packages, "torch", "2.99.0", f"{triton}==3.99.0")
    pretend(packages, triton, "3.99.0")
    for name in ("numpy", "nvtx"):
        pretend(packages, name, "99.0")
    (archive,) = wheel.parent.glob("*.whl")
    command = [sys.executable, "-m", "pip", "--isolated", "--python", python, "install"]
    command += ["--dry-run", "--no-index", "--report", tmp_path / "report.json", archive]
    env = os.environ | {"PIP_CONFIG_FILE": os.devnull}  # this machine may have constraints
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    installed = json.loads((tmp_path / "report.json").read_text())["install"]
    assert [each["metadata"]["name"] for each in installed] == ["gaussreg_fast"]
