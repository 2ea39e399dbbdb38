"""The kernels' instruction sets: which one is taken, and that all compute the same."""

import os
import re

import pytest
import torch
from backends_here import needs_native
from fresh_python import printed

from gaussreg_fast.backends import native

pytestmark = needs_native


WRONG = """
import torch, gaussreg_fast as gf
torch.set_num_threads(2)
x = torch.randn(2, 40001)
for kind in ("none", "shared"):
    for y in (x, x[:, :32768]):
        try:
            gf.gaussianity_loss(y, permutation=kind, backend="native")
        except RuntimeError as error:
            print(error)
"""

RESULTS = """
import sys, torch, gaussreg_fast as gf
from gaussreg_fast.backends import native
assert native.module().instruction_set() == sys.argv[1]
torch.set_num_threads(1)
results = {}
for size in (
    *(64, 128, 256, 512, 1024, 4096, 32768, 65536, 576, 1216, 25600),
    *(32, 33, 100, 1001, 10000),
):
    z = torch.randn(2, size, generator=torch.Generator().manual_seed(size))
    x = z + 0.2 * z**3 + 0.4
    for block_size in (16, 5):
        for kind in ("shared", "per_sample", "none"):
            options = dict(permutation=kind, seed=3, block_size=block_size, backend="native")
            options["statistic"] = "power" if kind == "none" else "amplitude"
            value, grad = gf.gaussianity_value_and_grad(x, reduction="none", **options)
            y = x.clone().requires_grad_()
            m, a = gf.permuted_statistics(y, orders=(1, 4), **options)
            (m.sum() + a.sum()).backward()
            results[size, block_size, kind] = value[:, None], grad, m.detach(), a.detach(), y.grad
        if size % (2 * block_size) == 0:
            z = gf.project_white_noise(x, block_size=block_size, backend="native")
            results[size, block_size] = (z,)
    y = x.clone().requires_grad_()
    loss = gf.moment_loss(y, orders=(1, 2, 4), reduction="none", backend="native")
    loss.sum().backward()
    results[size] = loss.detach()[:, None], y.grad
    for seed in (0, -5):
        results[size, seed] = (gf.permutation(seed, size)[None].double(),)
g = torch.Generator().manual_seed(1)
kinds = [torch.float32, torch.bfloat16, torch.float16]
params = [torch.randn(1003, generator=g).to(a) for a in kinds for _ in kinds]
base = [torch.randn(1003, generator=g).to(b) for _ in kinds for b in kinds]
value, grads = gf.parameter_drift_value_and_grad(params, base, backend="native")
results["drift"] = value.view(1, 1), *[grad.float().view(1, -1) for grad in grads]
torch.save(results, sys.argv[2])
"""


def instruction_sets():
    """Those that this processor runs, by what the module says of a wrong one."""
    lines = printed(WRONG, GAUSSREG_FAST_ISA="wrong").splitlines()
    assert len(lines) == 4
    pattern = r"GAUSSREG_FAST_ISA=wrong cannot run on this processor; these can: ([\w, ]+)"
    (names,) = {re.fullmatch(pattern, line)[1] for line in lines}
    return names.split(", ")


def test_a_wrong_instruction_set_is_refused_on_every_path():
    names = instruction_sets()
    assert names[-1] == "portable"
    assert set(names) <= {"avx512", "avx2", "portable"}
    if "GAUSSREG_FAST_ISA" not in os.environ:
        assert native.module().instruction_set() == names[0]


def test_every_instruction_set_computes_the_same(compare, tmp_path):
    results = {}
    for name in instruction_sets():
        file = tmp_path / name
        printed(RESULTS, name, file, GAUSSREG_FAST_ISA=name)
        results[name] = torch.load(file)
    want = results.pop("portable")
    assert all(got.keys() == want.keys() for got in results.values())
    for got in results.values():
        for key in want:
            for g, w in zip(got[key], want[key], strict=True):
                compare.vectors(g, w, 1e-5, "result")


GRADIENTS = """
import sys, torch, gaussreg_fast as gf
torch.set_num_threads(int(sys.argv[1]))
results = []
for size in (64, 1216, 4096, 16384, 25600, 65536, 131072):
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        x = torch.randn(1, size, generator=torch.Generator().manual_seed(size)).to(dtype)
        for orders in ((1, 2), (1, 3, 8)):
            for kind in ("shared", "per_sample", "none", gf.permutation(7, size)):
                options = dict(orders=orders, permutation=kind, seed=9, backend="native")
                results += gf.gaussianity_value_and_grad(x, **options)
        y = x.float().requires_grad_()
        m, a = gf.permuted_statistics(y, orders=(1, 4), seed=9, backend="native")
        (m.sum() + a.square().sum()).backward()
        results.append(y.grad)
torch.save(results, sys.argv[2])
"""


def test_gathered_and_scattered_gradients_have_the_same_bits(tmp_path):
    results = {}
    for stores in ("slow", "fast"):
        file = tmp_path / stores
        printed(GRADIENTS, 1, file, GAUSSREG_FAST_STORES=stores)
        results[stores] = torch.load(file)
    pairs = zip(results["slow"], results["fast"], strict=True)
    assert all(torch.equal(slow, fast) for slow, fast in pairs)


def test_a_wrong_speed_of_stores_is_refused():
    with pytest.raises(AssertionError, match="must be slow or fast, got quick"):
        printed(
            "import gaussreg_fast as gf, torch\ngf.gaussianity_loss(torch.randn(1, 64))",
            GAUSSREG_FAST_STORES="quick",
        )
