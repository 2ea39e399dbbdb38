"""No result depends on torch's ambient state: default dtype and device, modes, generators, threads.

Every public call is made twice, in the state that torch starts with and in another.
"""

import numpy as np
import pytest
import torch
from ambient_states import ROUNDING, STATES, WITHOUT_GRAPH
from backends_here import NEEDS, quiet_interpreter
from public_calls import CALLS, GRADIENTS, NO_NUMBERS, Inputs, numbers

import gaussreg_fast as gf
from gaussreg_fast.backends import choice

# Gradients of products that autograd differentiates, for which autocast must have ended.
PRODUCTS = ("gradient of prno", "gradient of parameter_drift")
BACKENDS = ["torch", pytest.param("native", marks=NEEDS["native"])]
INTERPRETED = pytest.param(
    "triton",
    marks=[
        NEEDS["triton"],
        pytest.mark.slow,
        pytest.mark.skipif(not choice.interpreted(), reason="its tensors are on a GPU"),
    ],
)


def in_both(call, state, backend):
    """Returns the numbers of a call in a state, and in the one that torch starts with."""
    inputs = Inputs()
    want = numbers(call(inputs, backend))
    with state():
        return numbers(call(inputs, backend)), want


@quiet_interpreter
@pytest.mark.parametrize("backend", [*BACKENDS, INTERPRETED])
@pytest.mark.parametrize("name", [*CALLS, *GRADIENTS])
def test_results_keep_their_bits(name, backend):
    call = {**CALLS, **GRADIENTS}[name]
    for state_name, state in {**STATES, **(WITHOUT_GRAPH if name in CALLS else {})}.items():
        if state_name == "autocast" and name in PRODUCTS:
            continue
        got, want = in_both(call, state, backend)
        for g, w in zip(got, want, strict=True):
            assert g.dtype == w.dtype, state_name
            np.testing.assert_array_equal(g, w, err_msg=state_name)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", [*CALLS, *GRADIENTS])
def test_results_change_by_rounding_at_most(name, backend):
    for state_name, state in ROUNDING.items():
        got, want = in_both({**CALLS, **GRADIENTS}[name], state, backend)
        for g, w in zip(got, want, strict=True):
            assert g.dtype == w.dtype, state_name
            size = np.abs(w[np.isfinite(w)]).max(initial=0)
            np.testing.assert_allclose(g, w, rtol=1e-5, atol=3e-6 * size, err_msg=state_name)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", [*CALLS, *GRADIENTS])
def test_calls_with_a_seed_draw_nothing_from_the_global_generator(name, backend):
    inputs, before = Inputs(), torch.get_rng_state()
    {**CALLS, **GRADIENTS}[name](inputs, backend)
    assert torch.equal(torch.get_rng_state(), before)


def test_every_public_name_is_called():
    names = {name.split(",")[0] for name in CALLS}
    assert set(gf.__all__) - NO_NUMBERS <= names


# ---------------------------------------------------------------- inference mode


def test_a_base_made_in_inference_mode_can_be_trained_against():
    net = torch.nn.Linear(3, 2)
    with torch.inference_mode():
        drift = gf.ParameterDrift(net)
    with torch.no_grad():
        net.weight.add_(1)
    drift(net).backward()
    torch.testing.assert_close(net.weight.grad, torch.full((2, 3), 2.0))
    drift.load_state_dict(gf.ParameterDrift(net).state_dict())
    assert drift(net) == 0


def test_gradients_made_in_inference_mode_can_be_added_to():
    net = torch.nn.Linear(3, 2, bias=False)
    base = [net.weight.detach() - 1]
    with torch.inference_mode():
        gf.accumulate_parameter_drift(net, base)
    net.weight.sum().backward()
    torch.testing.assert_close(net.weight.grad, torch.full((2, 3), 3.0))
