"""Copies of a block mean that several lanes hold are one value, in the kernels as compiled.

Where a product is fused into the first addition of a sum over lanes, each lane rounds another sum.
With a target within a unit in the last place of a block's mean, lanes then take different signs.
"""

import json

import pytest
from compiled_kernels import python
from small_ptx import needs_compiler

pytest.importorskip("triton", reason="there is no triton here")
pytestmark = [needs_compiler, pytest.mark.slow]

SCRIPT = """
import json, sys
import torch
import gaussreg_fast as gf
from bench.simulator import Schedule, simulated
from gaussreg_fast.backends.triton import launch
from gaussreg_fast.spec import NONE, LossSpec

BLOCK, BLOCKS = 16, 12


def signs(x, spectrum, block, target):
    # The signs that the bins of a block take: one, all the same, if its mean is one value.
    spec = LossSpec((), "squared", 1.0, BLOCK, float(target), "amplitude", "none")
    _, grad = launch.loss(x, NONE, spec, gradient=torch.float32)
    g = torch.fft.rfft(grad.double())[0]
    along = (g * spectrum.conj()).real / spectrum.abs()
    along = along / along.abs().max()
    k = torch.arange(block * BLOCK, (block + 1) * BLOCK) + x.shape[1] % 2
    return set(torch.where(along.abs() < 0.02, 0.0, along.sign())[k[k > 0]].tolist())


found = {}
for size in json.loads(sys.argv[1]):
    x = torch.randn(1, size, generator=torch.Generator().manual_seed(size))
    spectrum = torch.fft.rfft(x.double())[0]
    seen = []
    with simulated(Schedule(shuffled=False, checked=False)):
        _, means = gf.permuted_statistics(
            x, orders=(1,), block_size=BLOCK, permutation="none", backend="triton"
        )
        for block in range(BLOCKS):
            mean = means[0, block]
            for target in (mean.nextafter(0 * mean), mean, mean.nextafter(mean + 1)):
                seen.append(sorted(signs(x, spectrum, block, target)))
    found[size] = seen
print(json.dumps(found))
"""


def test_all_bins_of_a_block_take_the_same_sign():
    printed = python(SCRIPT, json.dumps([512, 1000, 2048]))
    for size, seen in json.loads(printed).items():
        assert len(seen) == 36, size
        assert [signs for signs in seen if len(signs) != 1] == [], size
        # On both sides of the target, and 0 where a mean equals it.
        assert {sign for (sign,) in seen} == {-1.0, 0.0, 1.0}, size
