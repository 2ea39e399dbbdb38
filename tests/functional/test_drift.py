"""Parameter drift by every backend: numbers, layouts and types, against NumPy in float64."""

import math

import numpy as np
import pytest
import torch
from backends_here import BACKENDS, device_of, needs_native, needs_triton
from drift_lists import (
    FLOATS,
    HALVES,
    SHAPES,
    array,
    check_gradients,
    expected,
    lora_pairs,
    tensors,
)
from torch.library import opcheck

import gaussreg_fast as gf
from gaussreg_fast.backends import torch as plain_torch
from gaussreg_fast.backends.triton import parameters
from gaussreg_fast.spec import DriftTask

# ---------------------------------------------------------------- numbers


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("reduction", ["sum", "tensor_mean"])
@pytest.mark.parametrize(
    ("dtypes", "base_dtypes"),
    [
        ([torch.float32], [torch.float32]),
        ([torch.float32], [torch.bfloat16]),
        ([torch.float16], [torch.float16]),
        (FLOATS, [torch.bfloat16, torch.float32]),
        ([torch.bfloat16], [torch.float16]),
    ],
    ids=["float32", "bfloat16 base", "float16", "mixed", "halves"],
)
def test_value_and_gradient(compare, backend, reduction, dtypes, base_dtypes):
    params, base = tensors(backend, dtypes=dtypes, base_dtypes=base_dtypes)
    before = [(p.detach().clone(), b.clone()) for p, b in zip(params, base, strict=True)]
    options = {"weight": 0.7, "reduction": reduction, "backend": backend}
    want, grads = expected(params, base, 0.7, reduction)

    value = gf.parameter_drift(params, base, **options)
    assert (value.dtype, value.shape) == (torch.float32, ())
    compare.values(value, want, 1e-6)
    (-3 * value).backward()
    check_gradients(compare, params, [p.grad for p in params], grads, -3)

    again, direct = gf.parameter_drift_value_and_grad(params, base, **options)
    compare.values(again, want, 1e-6)
    check_gradients(compare, params, direct, grads)
    with torch.no_grad():
        compare.values(gf.parameter_drift(params, base, **options), want, 1e-6)

    for p in params:
        p.grad = None
    added = gf.accumulate_parameter_drift(params, base, **options)  # makes them
    compare.values(added, want, 1e-6)
    check_gradients(compare, params, [p.grad for p in params], grads)
    memory = [p.grad.data_ptr() for p in params]
    gf.accumulate_parameter_drift(params, base, **options)
    check_gradients(compare, params, [p.grad for p in params], grads, 2)
    assert memory == [p.grad.data_ptr() for p in params]
    for p, b, (p0, b0) in zip(params, base, before, strict=True):
        assert torch.equal(p, p0)
        assert torch.equal(b, b0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_decay_is_the_exponential(compare, backend):
    params, base = tensors(backend, dtypes=FLOATS)
    rates = [0.01 * (i + 1) for i in range(len(params))]
    start = [array(p) for p in params]
    options = {"weight": 3.0, "reduction": "tensor_mean", "backend": backend}
    versions = [p._version for p in params]
    gf.parameter_drift_decay_(params, base, rate=rates, **options)
    assert all(p._version > v for p, v in zip(params, versions, strict=True))
    for p, b, s, rate in zip(params, base, start, rates, strict=True):
        if p.numel():
            want = array(b) + (s - array(b)) * math.exp(-2 * rate * 3 / p.numel())
            eps = torch.finfo(p.dtype).eps
            np.testing.assert_allclose(array(p), want, rtol=2 * eps, atol=2 * eps)
    gf.parameter_drift_decay_(params, base, rate=1e9, weight=1e9, backend=backend)
    for p, b in zip(params, base, strict=True):  # no overshoot, however large
        torch.testing.assert_close(p.detach().float(), b.float(), rtol=8e-3, atol=1e-3)


def test_decay_to_first_order_is_a_gradient_step():
    params, base = tensors("torch", dtypes=[torch.float64])
    _, grads = gf.parameter_drift_value_and_grad(params, base, weight=0.3)
    want = [p.detach() - 1e-6 * g for p, g in zip(params, grads, strict=True)]
    gf.parameter_drift_decay_(params, base, rate=1e-6, weight=0.3)
    for p, w in zip(params, want, strict=True):
        torch.testing.assert_close(p.detach(), w, rtol=0, atol=1e-11)


@pytest.mark.parametrize("backend", ["torch", "auto"])
def test_float64_is_computed_as_such(compare, backend):
    """Also beside other types: only tensors that hold it, or whose base does, are."""
    dtypes, bases = [torch.float64, torch.float32], [torch.float32, torch.float64, torch.float32]
    params, base = tensors(backend, dtypes=dtypes, base_dtypes=bases, offset=1e-3)
    value = gf.parameter_drift(params, base, backend=backend)
    assert value.dtype == torch.float64
    want, grads = expected(params, base, 1, "sum")
    value.backward()
    check_gradients(compare, params, [p.grad for p in params], grads)
    double = [p.detach().double().requires_grad_() for p in params]
    value = gf.parameter_drift(double, base, backend=backend)
    compare.values(value, want, 1e-13)
    assert torch.autograd.gradcheck(
        lambda *p: gf.parameter_drift(p, [b[:3] for b in base[4:6]], reduction="tensor_mean"),
        [p.detach()[:3].requires_grad_() for p in double[4:6]],
    )


@pytest.mark.parametrize("bits", range(0, 2**16, 2**14))
@pytest.mark.parametrize("dtype", HALVES)
def test_every_half_is_read_and_rounded_as_torch_does(dtype, bits):
    """All numbers, infinities and NaNs of a type as parameters, and as gradients to round to."""
    numbers = torch.arange(bits, bits + 2**14, dtype=torch.int32).to(torch.int16).view(dtype)
    zeros = torch.zeros(2**14, dtype=dtype)
    for step in (0.5, 0.37):
        want = (2 * step * numbers.float()).to(dtype)
        _, (got,) = gf.parameter_drift_value_and_grad([numbers], [zeros], weight=step)
        assert torch.equal(got.isnan(), want.isnan())
        assert torch.equal(got.nan_to_num(0.0), want.nan_to_num(0.0))
    assert gf.parameter_drift([numbers[:16]], [zeros[:16]]).isfinite() or bits % 2**15


@needs_native
def test_bits_do_not_depend_on_threads():
    params, base = tensors("native", [(2_100_000,), (3,), (1_170_001,), *[(999,)] * 40])
    found = []
    for count in (1, 2, 3, 1):
        torch.set_num_threads(count)
        found.append(gf.parameter_drift_value_and_grad(params, base))
    torch.set_num_threads(1)
    for value, grads in found[1:]:
        assert torch.equal(value, found[0][0])
        assert all(map(torch.equal, grads, found[0][1]))


@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_and_inf_reach_the_value(backend):
    for bad in (math.nan, math.inf):
        params, base = tensors(backend, [(50,), (7,)])
        with torch.no_grad():
            params[0][49] = bad
        value, grads = gf.parameter_drift_value_and_grad(params, base, backend=backend)
        assert not value.isfinite()
        assert int((~grads[0].isfinite()).sum()) == 1
        assert grads[1].isfinite().all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_lora_factors_on_every_backend(compare, backend):
    device = device_of(backend)
    factors = [(a.float().to(device), b.half().to(device)) for a, b in lora_pairs()]
    want = sum((array(t) ** 2).sum() for pair in factors for t in pair)
    compare.values(gf.lora_drift(factors, backend=backend), np.float64(want), 1e-6)


# ---------------------------------------------------------------- layouts, devices, pieces


@pytest.mark.parametrize("backend", BACKENDS)
def test_layouts(compare, backend):
    """Dense ones in any order are taken as they lie; others give the same all the same."""
    params, base = tensors(backend, [(4, 3, 5, 6)] * 6 + [(30, 40)] * 2)
    last = {"memory_format": torch.channels_last}
    with torch.no_grad():
        params[0], base[0] = params[0].to(**last), base[0].to(**last)
        params[1] = params[1].to(**last)  # and its base is not
        base[2] = base[2].to(**last)
        params[3] = torch.stack([params[3]] * 2, -1)[..., 0]  # every other number
        base[4] = base[4][:1].expand(4, 3, 5, 6)
        params[6] = params[6].T.contiguous().T
        params[7] = params[7][1:, 1:]
        base[7] = base[7][1:, 1:]
    params = [p.detach().requires_grad_() for p in params]
    want, grads = expected(params, base, 1, "sum")
    for p in params[:2]:  # gradients need not lie as their parameters do
        p.grad = torch.zeros(p.shape, device=p.device)
    compare.values(gf.accumulate_parameter_drift(params, base, backend=backend), want, 1e-6)
    check_gradients(compare, params, [p.grad for p in params], grads)
    _, found = gf.parameter_drift_value_and_grad(params, base, backend=backend)
    check_gradients(compare, params, found, grads)
    assert found[0].is_contiguous(**last)


def test_pieces_of_plain_torch(compare, monkeypatch):
    monkeypatch.setattr(plain_torch, "_PIECE", 7)
    params, base = tensors("torch", dtypes=[torch.float64], shapes=SHAPES[:3] + SHAPES[4:])
    base[3] = base[3].T.contiguous().T
    want, grads = expected(params, base, 1, "sum")
    value, found = gf.parameter_drift_value_and_grad(params, base, backend="torch")
    compare.values(value, want, 1e-12)
    check_gradients(compare, params, found, grads)


@pytest.mark.parametrize("shape", [(40,), (4, 10), (10, 4), (1, 2, 1, 20), (2, 3, 7)])
def test_pieces_are_few_and_whole(monkeypatch, shape):
    """However a tensor lies in memory: pieces of 7 numbers at most, and never one by one."""
    monkeypatch.setattr(plain_torch, "_PIECE", 7)
    numbers = torch.arange(math.prod(shape), dtype=torch.float32)
    strided = torch.stack([numbers, -numbers], -1).view(*shape, 2)[..., 0]
    other = numbers.view(shape).movedim(0, -1).contiguous().movedim(-1, 0)
    pieces = list(plain_torch.pieces(strided, other, None))
    assert all(p.shape == b.shape and p.numel() <= 7 for p, b, _ in pieces)
    assert sorted(x for p, _, _ in pieces for x in p.flatten().tolist()) == numbers.tolist()
    assert all(torch.equal(p, b) for p, b, _ in pieces)
    assert len(pieces) <= numbers.numel() / 3


@needs_triton
@pytest.mark.parametrize("task", ["value", "gradient", "accumulate"])
def test_a_streamed_base_is_the_base(compare, monkeypatch, task):
    """Pieces of 48 bytes: tensors are cut, small ones share a piece, places are aligned."""
    from gaussreg_fast.backends.triton import _drift

    monkeypatch.setattr(parameters, "DRIFT_STAGING", 48)
    shapes = [(3,), (0,), (25,), (1,), (2, 5), (31,)]
    params, base = tensors("triton", shapes, base_dtypes=FLOATS)
    flat = [p.detach().flatten() for p in params]
    origin = [b.cpu() for b in base]
    grads = [torch.ones_like(p) for p in flat] if task in ("gradient", "accumulate") else []
    scales = [0.5 + 0.1 * i for i in range(len(shapes))]
    start = [array(p) for p in flat]
    sums = _drift._stream(DriftTask(task), flat, origin, grads, scales, 0.3)
    assert len(sums) >= 4
    gaps = [s.reshape(-1) - array(b).reshape(-1) for s, b in zip(start, base, strict=True)]
    want = sum(c * np.sum(d * d) for c, d in zip(scales, gaps, strict=True))
    compare.values(torch.cat(sums).double().sum(), np.float64(want), 1e-6)
    for i, (d, c) in enumerate(zip(gaps, scales, strict=True)):
        if task != "value":
            first = 1.0 if task == "accumulate" else 0.0
            np.testing.assert_allclose(array(grads[i]), first + 0.3 * c * d, atol=1e-6)


@needs_triton
def test_one_launch_and_one_for_the_sum(monkeypatch):
    from gaussreg_fast.backends.triton import _drift

    grids = []

    class Counted:
        def __init__(self, kernel):
            self.kernel = kernel

        def __getitem__(self, grid):
            grids.append(grid[0])
            return self.kernel[grid]

    for name in ("drift_kernel", "drift_sum"):
        monkeypatch.setattr(_drift, name, Counted(getattr(_drift, name)))
    params, base = tensors("triton", [(100,)] * 30 + [(20000,)], dtypes=FLOATS)
    value = gf.parameter_drift(params, base, backend="triton")
    assert grids == [32, 1]
    value.backward()
    assert grids == [32, 1, 32, 1]


@needs_triton
def test_launch_metadata():
    from gaussreg_fast.backends.triton import _drift

    params, base = tensors("triton", [(10,)] * 3, dtypes=FLOATS)
    moved = {"value": 1, "gradient": 2, "accumulate": 3}
    for task, times in moved.items():
        assert _drift._bytes_moved(task, params, base) == 10 * (4 + 2 + 2) * (times + 1)


# ---------------------------------------------------------------- torch's machinery


@pytest.mark.parametrize("backend", BACKENDS)
def test_compiled_code_computes_the_same(backend):
    params, base = tensors(backend, [(33,), (4, 5), (9,)], dtypes=FLOATS)

    def step(p, b):
        return 2 * gf.parameter_drift(p, b, reduction="tensor_mean", backend=backend) + p[0].sum()

    def run(call):
        for p in params:
            p.grad = None
        value = call(params, base)
        value.backward()
        return value.detach(), *[p.grad for p in params]

    want = run(step)
    got = run(torch.compile(step, fullgraph=True, backend="aot_eager"))
    for g, w in zip(got, want, strict=True):
        torch.testing.assert_close(g, w, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("backend", BACKENDS)
def test_opcheck(backend):
    params, base = tensors(backend, [(33,), (4, 5)], dtypes=[torch.float32, torch.bfloat16])
    o = torch.ops.gaussreg_fast
    opcheck(o.parameter_drift.default, (params, base, [1.0, 0.5], backend))
    opcheck(o.parameter_drift.default, (params, [], [1.0, 0.5], backend))
    plain = [p.detach() for p in params]
    upstream = torch.ones((), device=plain[0].device)
    opcheck(o.parameter_drift_gradient.default, (upstream, plain, base, [1.0, 0.5], backend))


@needs_native
def test_operators_called_by_hand_are_guarded():
    """Arguments that do not match never reach the kernels: plain torch computes or raises."""
    o = torch.ops.gaussreg_fast.parameter_drift
    with pytest.raises(RuntimeError):
        o([torch.ones(5000)], [torch.ones(3)], [1.0], "native")
    with pytest.raises(ValueError):
        o([torch.ones(5), torch.ones(3)], [torch.ones(5)], [1.0, 1.0], "native")
    with pytest.raises(Exception, match="length"):
        o([torch.ones(5)], [torch.ones(5)], [], "native")
    freed = torch.ones(5000)
    freed.untyped_storage().resize_(0)
    with pytest.raises((RuntimeError, ValueError)):
        gf.parameter_drift([freed], [torch.ones(5000)])


# ---------------------------------------------------------------- memory


@pytest.mark.memory
@pytest.mark.parametrize("backend", BACKENDS[:2])
def test_no_memory_beyond_the_base(backend):
    """32 MB of parameters: value, accumulation and decay take next to nothing more.

    Decay casts a base of another type piece by piece, a mebibyte each.
    """
    from bench.harness.memory import resident

    params, base = tensors(backend, [(2**20,)] * 4 + [(4 * 2**20,)], base_dtypes=[torch.bfloat16])
    for p in params:
        p.grad = torch.zeros_like(p)
    calls = {
        "value": lambda _: gf.parameter_drift(params, base, backend=backend),
        "accumulate": lambda _: gf.accumulate_parameter_drift(params, base, backend=backend),
        "decay": lambda _: gf.parameter_drift_decay_(params, base, rate=1e-9, backend=backend),
    }
    size = sum(p.numel() * p.element_size() for p in params)
    for call in calls.values():
        taken = resident(call)
        if taken is None:
            pytest.skip("resident memory cannot be measured here")
        assert taken < (size / 8 if backend == "native" else size / 2)
    for p in params:
        p.grad = None

    def backward(_):
        for p in params:
            p.grad = None
        gf.parameter_drift(params, base, backend=backend).backward()

    assert resident(backward) < size * 1.15 + (0 if backend == "native" else size / 2)
