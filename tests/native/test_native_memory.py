"""The native backend's memory: results do not depend on what new memory holds; none leaks."""

import sys

import pytest
from backends_here import needs_native
from fresh_python import printed

pytestmark = needs_native


# ---------------------------------------------------------------- what new memory holds


DIGEST = """
import hashlib, torch, gaussreg_fast as gf
digest = hashlib.sha256()
for size in (64, 256, 2048, 4096, 101, 1000):
    for kind in ("shared", "per_sample", "none"):
        for block_size in (16, 5):
            x = torch.randn(2, size, generator=torch.Generator().manual_seed(1))
            options = dict(permutation=kind, seed=1, block_size=block_size, backend="native")
            z = x.clone().requires_grad_()
            outputs = gf.permuted_statistics(z, orders=(1, 4), **options)
            sum(t.sum() for t in outputs).backward()
            results = [z.grad, *outputs, *gf.gaussianity_value_and_grad(x, **options)]
            results.append(gf.moment_loss(x, orders=(3,), backend="native"))
            if size % (2 * block_size) == 0:
                results.append(gf.project_white_noise(x, block_size=block_size, backend="native"))
            for t in results:
                assert t.isfinite().all()
                digest.update(t.detach().contiguous().numpy().tobytes())
print(digest.hexdigest())
"""


@pytest.mark.memory
@pytest.mark.skipif(sys.platform != "linux", reason="MALLOC_PERTURB_ is glibc's")
def test_results_do_not_depend_on_what_the_allocator_hands_out():
    """Nor those of the workspaces that C++ allocates: glibc fills them with bytes of our choice."""
    huge, tiny = (printed(DIGEST, MALLOC_PERTURB_=str(byte)) for byte in (0x80, 0xC5))
    assert huge == tiny


# ---------------------------------------------------------------- leaks

GROWTH = """
import os, sys, torch, gaussreg_fast as gf
from gaussreg_fast.backends import native
from gaussreg_fast.spec import Draw, LossSpec, Source
torch.set_num_threads(1)
calls, sizes = int(sys.argv[1]), (64, 100, 128, 64, 256)
xs = {(b, n): torch.randn(b, n) for b in (1, 2) for n in sizes}
leaf = torch.randn(2, 64).requires_grad_()
spec = LossSpec((1, 2), "root", 25.0, 16, 0.9, "amplitude", "none")
def resident():
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGESIZE")
def work(count):
    for i in range(count):
        x = xs[1 + i // 7 % 2, sizes[i % 5]]
        draw = Draw((Source.NONE, Source.PER_SAMPLE, Source.SHARED)[i % 3], i)
        native.loss(x, draw, spec, gradient=torch.float32 if i % 2 else None)
        if i % 50 == 0:
            gf.gaussianity_value_and_grad(x, seed=i, backend="native")
            m, a = gf.permuted_statistics(leaf, orders=(1, 4), seed=i, backend="native")
            (m.sum() + a.sum()).backward()
            gf.kl_loss(leaf.detach(), backend="native")
            gf.project_white_noise(x[:, :64], backend="native")
            try:
                gf.gaussianity_loss(x, permutation=torch.zeros(x.shape[1], dtype=torch.int64))
            except ValueError:
                pass
work(calls // 10)
before = resident()
work(calls)
print(resident() - before)
"""


@pytest.mark.memory
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_hundred_thousand_calls_leave_the_memory_as_it_was():
    assert int(printed(GROWTH, 100_000)) < 1.5e6


# ---------------------------------------------------------------- no memory

LIMITED = """
import resource, sys, torch, gaussreg_fast as gf
torch.set_num_threads(1)
size = 2**22
x = torch.randn(1, size)
loss = lambda x: gf.gaussianity_loss(x, seed=1, backend="native")
project = lambda x: gf.project_white_noise(x, backend="native")
for compute in (loss, project):
    compute(x[:, :64].contiguous())
with open("/proc/self/statm") as f:
    now = int(f.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + 6 * size, resource.RLIM_INFINITY))
for compute in (loss, loss, project, project):
    try:
        compute(x)
    except MemoryError:
        print("MemoryError")
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(loss(x).isfinite().item(), project(x).isfinite().all().item())
"""


@pytest.mark.memory
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_lack_of_memory_is_an_exception_and_leaves_all_in_order():
    assert printed(LIMITED).split() == ["MemoryError"] * 4 + ["True"] * 2
