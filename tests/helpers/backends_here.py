"""The backends that run here, their devices, and marks that skip the tests of the others."""

import pytest

from gaussreg_fast.backends import choice, native
from gaussreg_fast.backends.triton import parameters

_WHY_NOT = {"native": native.load()[1], "triton": choice.triton_state()}
needs_native = pytest.mark.skipif(native.load()[0] is None, reason=_WHY_NOT["native"])
needs_triton = pytest.mark.skipif(_WHY_NOT["triton"] != "available", reason=_WHY_NOT["triton"])
NEEDS = {"native": needs_native, "triton": needs_triton}
BACKENDS = ["torch", *(pytest.param(name, marks=mark) for name, mark in NEEDS.items())]
# The interpreter computes with numpy, which warns of what is selected away.
quiet_interpreter = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.runtime.interpreter")


def device_of(backend):
    """Returns where a backend computes: on a GPU if it is Triton's and does not interpret."""
    return "cuda" if backend == "triton" and not choice.interpreted() else "cpu"


TRITON_DEVICE = device_of("triton")


def take_512_in_three_launches(monkeypatch):
    """Sends D = 512 the way of 65536 and more, which takes the interpreter seconds a call."""
    monkeypatch.setattr(parameters, "FUSED_DIMENSIONS", (64, 256))
    split = parameters.Large((4, 8, 1), (4, 1, 4), 8, 1, 1, edge_radix=2)
    monkeypatch.setitem(parameters.LARGE, 512, split)
    assert parameters.route(512, 16, 227 * 1024) == "large"
