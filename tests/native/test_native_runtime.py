"""The native backend at run time: repetition, threads, forks, bad jobs."""

import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from backend_calls import Calls, same
from backends_here import needs_native
from draws import skewed_noise
from fresh_python import fresh_python

import gaussreg_fast as gf
from gaussreg_fast.backends import native

pytestmark = needs_native
needs_threads = pytest.mark.skipif(
    native.load()[0] is None or not native.module().has_openmp(), reason="no OpenMP runtime"
)
# Sizes that threads share out: the fused kernels in one sample and by samples, and any size.
SHAPES = [(1, 65536), (3, 16384), (2, 4096), (1, 40001), (5, 10000)]
run = Calls("native").everything


def check_close(compare, got, want):
    for g, w in zip(got, want, strict=True):
        compare.vectors(g.reshape(len(g), -1), w.reshape(len(w), -1), 1e-5, "result")


@pytest.fixture
def threads():
    """Sets the number of threads, for one test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


# ---------------------------------------------------------------- the same bits


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("kind", ["shared", "per_sample"])
@pytest.mark.parametrize("shape", [*SHAPES, (3, 64), (3, 101)], ids=str)
def test_repeated_calls_give_the_same_bits(threads, shape, kind, count):
    threads(count)
    x = skewed_noise(*shape)
    want = run(x, kind)
    for _ in range(3):
        assert same(run(x.clone(), kind), want)


# ---------------------------------------------------------------- threads


@needs_threads
@pytest.mark.parametrize("kind", ["shared", "per_sample", "none"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_any_number_of_threads_computes_the_same(compare, threads, shape, kind):
    x = skewed_noise(*shape)
    threads(1)
    want = run(x, kind)
    for count in (2, 3, 5):
        threads(count)
        check_close(compare, run(x, kind), want)


@needs_threads
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["shared", "per_sample"])
@pytest.mark.parametrize("size", [16384, 25600])
def test_threads_that_share_a_sample_of_a_half_type(compare, threads, size, kind, dtype):
    x = skewed_noise(1, size).to(dtype)
    options = {"permutation": kind, "seed": 4, "backend": "native"}
    threads(1)
    value, grad = gf.gaussianity_value_and_grad(x, **options)
    for count in (2, 3):
        threads(count)
        got = gf.gaussianity_value_and_grad(x, **options)
        compare.values(got[0], value, 1e-6)
        compare.vectors(got[1], grad, 1e-4 + torch.finfo(dtype).eps)


def test_more_sizes_than_plans_are_kept(threads):
    """The plans of the last 32 sizes are kept; threads use others meanwhile."""
    threads(1)
    sizes = [n for n in range(64, 6400, 64) if native.module().has_plan(n)]
    assert len(sizes) > 64
    xs = [skewed_noise(1, size) for size in sizes]

    def losses(order):
        return {i: gf.gaussianity_loss(xs[i], seed=1, backend="native").item() for i in order}

    want = losses(range(len(xs)))
    with ThreadPoolExecutor(4) as pool:
        orders = [range(k, len(xs), 2) for k in (0, 1)]
        found = pool.map(losses, [*orders, *(reversed(order) for order in orders)])
        assert all(result.items() <= want.items() for result in found)


FEWER = """
import torch, gaussreg_fast as gf
for shape in ((3, 32768), (7, 8192), (1, 32768), (5, 10000)):
    x = torch.randn(shape)
    for kind in ("shared", "per_sample"):
        results = []
        for count in (8, 1):
            torch.set_num_threads(count)
            options = dict(permutation=kind, seed=1, backend="native")
            results += [gf.gaussianity_value_and_grad(x, **options)]
        for got, want in zip(*results):
            torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)
print("done")
"""


@needs_threads
def test_fewer_threads_than_asked_for():
    result = fresh_python(FEWER, OMP_THREAD_LIMIT="2")
    assert result.stdout.strip() == "done", result.stderr


@pytest.mark.parametrize("count", [1, 2])
def test_python_threads_get_the_results_of_one(threads, count):
    threads(count)
    xs = [skewed_noise(*shape) for shape in SHAPES] * 2
    want = [run(x) for x in xs]
    wrong, start = [], threading.Barrier(len(xs))

    def work(i):
        torch.set_num_threads(count)  # OpenMP keeps the number per thread
        start.wait()
        wrong.extend(i for _ in range(4) if not same(run(xs[i]), want[i]))

    workers = [threading.Thread(target=work, args=(i,)) for i in range(len(xs))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


def test_other_threads_run_during_a_call():
    """The call lets go of the GIL; with this switch interval nothing else would take it away."""
    ticks, done = [0], threading.Event()

    def tick():
        while not done.is_set():
            ticks[0] += 1
            time.sleep(1e-4)

    x, value = torch.randn(1, 2**22), torch.empty(1)
    request = native.module().Request(
        "loss", 1, x.shape[1], x.data_ptr(), orders=(1, 2), power_weight=1.0, block_size=16,
        target=0.9, loss=value.data_ptr(), threads=1,
    )  # fmt: skip
    interval = sys.getswitchinterval()
    ticker = threading.Thread(target=tick)
    ticker.start()
    try:
        sys.setswitchinterval(1000)
        before = ticks[0]
        request.fused()
        during = ticks[0] - before
    finally:
        sys.setswitchinterval(interval)
        done.set()
        ticker.join()
    assert during > 0
    assert value.isfinite()


FORK = """
import os, sys, time, torch, gaussreg_fast as gf
torch.set_num_threads(2)
x, y = torch.randn(1, 65536), torch.randn(2, 10001)
fused = lambda: gf.gaussianity_value_and_grad(x, seed=1, backend="native")
general = lambda: gf.gaussianity_value_and_grad(y, seed=1, backend="native")
moments = lambda: gf.gaussianity_value_and_grad(x, orders=(4,), power_weight=0.0, backend="native")
calls = fused, moments, general
want = [call() for call in calls]
child = os.fork()
if child == 0:
    got = [fused(), moments()]
    torch.set_num_threads(1)  # torch's own operators, torch.fft too, hang in a child otherwise
    got.append(general())
    pairs = [pair for g, w in zip(got, want) for pair in zip(g, w)]
    os._exit(0 if all(torch.allclose(g, w, rtol=1e-4, atol=1e-9) for g, w in pairs) else 3)
for _ in range(3000):
    done, status = os.waitpid(child, os.WNOHANG)
    if done:
        assert all(torch.equal(g, w) for call, v in zip(calls, want) for g, w in zip(call(), v))
        print("child:", status)
        break
    time.sleep(0.01)
else:
    os.kill(child, 9)
    print("child hangs")
"""


@needs_threads
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no os.fork")
def test_a_forked_child_computes_without_its_parents_threads():
    result = fresh_python(FORK)
    assert result.stdout.strip() == "child: 0", result.stdout + result.stderr


# ---------------------------------------------------------------- bad jobs


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "dance"}, "unknown task dance"),
        ({"form": "cubed"}, "unknown form cubed"),
        ({"orders": [0]}, "orders"),
        ({"orders": [9]}, "orders"),
        ({"orders": [1] * 9}, "orders"),
    ],
    ids=str,
)
def test_jobs_that_make_no_sense(options, message):
    options = {"orders": [1], **options}
    with pytest.raises(ValueError, match=message):
        native.module().Request(options.pop("task", "loss"), 1, 64, 0, threads=1, **options)
