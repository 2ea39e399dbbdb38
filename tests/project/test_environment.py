"""The versions that are recorded beside a result."""

import platform

import numpy
import torch

from gaussreg_fast import __version__, _environment


def test_versions_of_what_is_installed():
    found = _environment.versions("torch", "numpy", "no_such_package_at_all")
    assert found == {
        "gaussreg_fast": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
    }


def test_a_package_may_come_in_a_distribution_of_another_name(tmp_path, monkeypatch):
    """On ROCm the package triton is in the distribution pytorch-triton-rocm."""
    info = tmp_path / "pytorch_packed_rocm-3.7.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: pytorch-packed-rocm\nVersion: 3.7\n")
    (info / "top_level.txt").write_text("packed\n")
    (info / "RECORD").write_text("packed/__init__.py,,\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert _environment.versions("packed")["packed"] == "3.7"
