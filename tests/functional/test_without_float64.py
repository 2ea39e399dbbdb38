"""Devices without float64, like Apple's GPUs, stood for by a mode that refuses to make any."""

import numpy as np
import pytest
import torch
from public_calls import CALLS, GRADIENTS, Inputs, numbers
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import gaussreg_fast as gf

DOUBLE = (torch.float64, torch.complex128)
ON_THE_CPU = {"diagnose", "arrays.gaussianity_value_and_grad"}  # wherever their input is
NAMES = [name for name in (*CALLS, *GRADIENTS) if name not in ON_THE_CPU]
# They write to memory, which dispatch modes might record, and so refuse them.
EAGER = {
    "parameter_drift_value_and_grad",
    "accumulate_parameter_drift",
    "parameter_drift_decay_",
    "DriftDecay",
}


def refuse(func, *values):
    """Raises what torch raises for Apple's GPUs if one of the values is, or names, a float64."""
    for t in tree_leaves(values):
        if t in DOUBLE if isinstance(t, torch.dtype) else getattr(t, "dtype", None) in DOUBLE:
            raise TypeError(f"{func}: this device does not support float64")


class Operations(TorchDispatchMode):
    """Sees every operation, but not inside of this package's operators."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        refuse(func, args, kwargs, result)
        return result


class Functions(TorchFunctionMode):
    """Sees every call of torch in Python, in the routes of eager code."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        refuse(func, args, kwargs, result)
        return result


MODES = [Operations, Functions]
CASES = [(name, mode) for name in NAMES for mode in MODES if mode is Functions or name not in EAGER]


@pytest.mark.parametrize(("name", "mode"), CASES)
def test_every_call_works_without_float64(name, mode):
    call = {**CALLS, **GRADIENTS}[name]
    inputs = Inputs()
    want = numbers(call(inputs, "torch"))
    with mode():
        got = call(inputs, "torch")
    for g, w in zip(numbers(got), want, strict=True):
        assert g.dtype == w.dtype
        size = np.abs(w[np.isfinite(w)]).max(initial=0)
        np.testing.assert_allclose(g, w, rtol=1e-4, atol=1e-5 * size)


@pytest.mark.parametrize("mode", MODES)
def test_the_modes_refuse_float64(mode):
    with mode():
        for call in (
            lambda: torch.ones(2).double(),
            lambda: torch.ones(2, dtype=torch.float64),
            lambda: torch.zeros(2).to(torch.complex128),
        ):
            with pytest.raises(TypeError, match="does not support float64"):
                call()


@pytest.mark.parametrize("kind", ["kl", "forward_kl", "gamma", "chi2", "js", "tv"])
@pytest.mark.parametrize("samples", ["p", "q"])
def test_f_divergence_keeps_its_range_without_float64(kind, samples):
    """From where terms overflow float32 to where they vanish, against float64."""
    log_ratio = torch.tensor([-500.0, -90.0, -30.0, -1.0, 0.5, 20.0, 43.0, 80.0, 87.0, 90.0, 500.0])
    options = {"samples": samples, "reduction": "none"}
    want = gf.f_divergence(log_ratio, kind, **options)
    with Operations():
        got = gf.f_divergence(log_ratio, kind, **options)
    np.testing.assert_allclose(got, want, rtol=3e-5)
    assert not got.isnan().any()


@pytest.mark.parametrize("kind", ["kl", "forward_kl", "gamma", "chi2", "js"])
@pytest.mark.parametrize("alpha", [0.01, 1.0, 100.0])
def test_surrogate_rewards_normalise_without_float64(kind, alpha):
    reward = Inputs().reward
    with Operations():
        got = gf.surrogate_reward(reward, kind, alpha=alpha)
    assert abs(float((got.double() / alpha).exp().mean()) - 1) < 1e-4
