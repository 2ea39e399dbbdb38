"""The backends with kernels of their own, and their ways to compute, as parameters of tests."""

import pytest
from backend_calls import WAYS, Calls, cases
from backends_here import NEEDS, take_512_in_three_launches

from gaussreg_fast.backends import native
from gaussreg_fast.backends.triton import parameters


@pytest.fixture(params=[pytest.param(name, marks=mark) for name, mark in NEEDS.items()])
def calls(request):
    return Calls(request.param)


@pytest.fixture(params=cases("native", "triton"))
def way(request, monkeypatch):
    """(calls, size) for a size that goes each way, or for the native backend another size."""
    backend, name = request.param
    size = WAYS[backend].get(name, name)
    if backend == "triton":
        take_512_in_three_launches(monkeypatch)
        assert parameters.route(size, 16, 227 * 1024) == name
    elif name in WAYS[backend]:
        assert native.module().has_plan(size) == (name != "general")
    return Calls(backend), size
