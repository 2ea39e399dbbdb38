"""Every public function with a backend, launched as on a GPU."""

import inspect
import json

import pytest
from compiled_kernels import python
from small_ptx import needs_compiler

import gaussreg_fast as gf
from bench import ROOT

pytest.importorskip("triton", reason="there is no triton here")
pytestmark = needs_compiler

SCRIPT = """
import json, sys
import torch, triton
import gaussreg_fast as gf
from bench.simulator import simulated
from bench.simulator.calls import call
from bench.simulator.cases import Case
from bench.simulator.compare import errors, limit

names, found, now = json.loads(sys.argv[1]), {}, []
for name in names:
    def noted(*args, _name=name, _function=getattr(gf, name), **options):
        assert options["backend"] == "triton"
        now.append(_name)
        return _function(*args, **options)
    setattr(gf, name, noted)

tasks = ("gradient", "value", "statistics", "projection", "moments", "spectrum", "kl", "kurtosis",
         "norm", "path_value", "path_both", "drift lora")
tasks += tuple(f"drift {task}" for task in ("value", "gradient", "accumulate"))
for task in tasks:
    case = Case(64, task=task)
    now.clear()
    with simulated() as simulation:
        results = call(case, simulation.memory)
    for launch in simulation.launches:
        assert not launch.errors(), launch.errors()
    for what, error in errors(case, results).items():
        assert error <= limit(case, what), (task, what, error)
    for name in now:
        found[name] = len(simulation.launches)
try:
    triton.runtime.driver.active
except RuntimeError as error:  # there is none, as before
    after = str(error)
else:
    after = "the pretended driver is still there"
print(json.dumps([triton.__version__, found, after]))
"""
OLDEST = ROOT / "build" / "triton-3.6.0"


@pytest.mark.parametrize(
    "folder",
    [
        pytest.param(None, id="installed"),
        pytest.param(OLDEST, id="3.6.0", marks=pytest.mark.slow),
    ],
)
def test_every_public_function_with_a_backend_launches_and_computes_the_same(folder):
    if folder and not folder.is_dir():
        pytest.skip(f"{folder} is not there: make simulate installs it")
    names = [
        name
        for name in gf.__all__
        if inspect.isfunction(function := getattr(gf, name))
        and "backend" in inspect.signature(function).parameters
        and name != "parameter_drift_decay_"  # it takes a backend's name, and torch computes it
    ]
    assert len(names) > 12
    printed = python(SCRIPT, json.dumps(names), triton=folder)
    release, found, after = json.loads(printed)
    assert release == "3.6.0" or not folder
    assert found.keys() == set(names)
    assert min(found.values()) >= 1
    assert "active drivers" in after or "not active" in after
