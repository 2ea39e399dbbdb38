"""Calls made ahead: they leave no trace but compiled kernels and tables."""

import json

import pytest
import torch
from compiled_kernels import python
from small_ptx import needs_compiler

import gaussreg_fast as gf

# Prints the kernels' files of a warm-up, and those of the call after it.
CALLED = """
import json, sys
import torch
import gaussreg_fast as gf
from bench.simulator import simulated

function, backward, shape = getattr(gf, sys.argv[1]), sys.argv[2] == "backward", eval(sys.argv[3])
options = {"orders": (1, 2)} if sys.argv[1] == "permuted_statistics" else {}
options["backend"] = "triton"
seen = []
with simulated() as simulation:
    gf.warmup(shape, device="cpu", function=function, backward=backward, **options)
    seen.append([(l.kernel.text("ptx"), l.constants.get("TASK")) for l in simulation.launches])
    simulation.launches.clear()
    x = torch.randn(shape, requires_grad=backward)
    result = function(x, **options)
    if backward:
        total = sum(t.sum() for t in (result if isinstance(result, tuple) else (result,)))
        total.backward()
    seen.append([(l.kernel.text("ptx"), l.constants.get("TASK")) for l in simulation.launches])
print(json.dumps(seen))
"""


def called(name, mode, shape):
    """Returns (PTX, task) of the launches of a warm-up, and of the call after it."""
    return json.loads(python(CALLED, name, mode, repr(shape)))


@needs_compiler
@pytest.mark.parametrize("backward", [True, False])
@pytest.mark.parametrize("name", ["gaussianity_loss", "permuted_statistics", "project_white_noise"])
def test_the_kernels_of_a_call_are_ready_after_it(name, backward):
    pytest.importorskip("triton", reason="there is no triton here")
    if name == "project_white_noise" and backward:
        pytest.skip("the projection has no gradient")
    made, used = called(name, "backward" if backward else "value", (3, 4, 4, 4))
    assert used
    assert {text for text, _ in used} <= {text for text, _ in made}
    assert backward or not {task for _, task in made} & {"gradient", "pullback"}


@needs_compiler
@pytest.mark.slow
def test_large_samples_have_kernels_for_a_few_of_them_and_for_more():
    """As the documentation of `shape` says."""
    pytest.importorskip("triton", reason="there is no triton here")
    few, three, more, five = (
        {text for text, _ in called("gaussianity_loss", "backward", (batch, 65536))[1]}
        for batch in (1, 3, 4, 5)
    )
    assert few == three
    assert more == five
    assert few != more


@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_random_numbers_and_modes_stay_as_they_were(around):
    torch.manual_seed(5)
    want = torch.randn(3)
    torch.manual_seed(5)
    with around():
        mode = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        gf.warmup((2, 100), torch.float64)
        assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == mode
    assert torch.equal(torch.randn(3), want)


def test_modules_and_options_are_taken():
    gf.warmup([2, 64], torch.bfloat16, "cpu", function=gf.MomentLoss(orders=(1, 2, 4)))
    gf.warmup((2, 64), orders=(2,), permutation="none", reduction="none")


@pytest.mark.parametrize(
    ("error", "options"),
    [
        (ValueError, {"orders": (0,)}),
        (TypeError, {"dtype": torch.int64}),
        (TypeError, {"colour": 1}),
    ],
)
def test_wrong_arguments_raise_as_in_the_call(error, options):
    with pytest.raises(error):
        gf.warmup((2, 64), **options)
