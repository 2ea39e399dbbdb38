"""Parameter drift: numbers, gradients, layouts, types and transforms, against NumPy in float64."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch.library import opcheck

import gaussreg_fast as gf
from gaussreg_fast.backends import choice, native
from gaussreg_fast.backends import torch as plain_torch
from gaussreg_fast.backends.triton import parameters
from gaussreg_fast.spec import DriftTask

TRITON, NATIVE = choice.triton_state() == "available", native.load()[0] is not None
DEVICE = "cpu" if choice.interpreted() else "cuda"
BACKENDS = [
    "torch",
    pytest.param("native", marks=pytest.mark.skipif(not NATIVE, reason=native.load()[1])),
    pytest.param("triton", marks=pytest.mark.skipif(not TRITON, reason=choice.triton_state())),
]
HALVES = [torch.bfloat16, torch.float16]
FLOATS = [torch.float32, *HALVES]
SHAPES = [(3,), (), (0, 4), (16500,), (17, 33), (4, 3, 2, 2), (1,), (8,)]


def tensors(backend, shapes=SHAPES, dtypes=FLOATS[:1], base_dtypes=None, seed=0, offset=0.1):
    """Parameters and their base, types taking turns."""
    rng = np.random.default_rng(seed)
    params, base = [], []
    kinds, others = itertools.cycle(dtypes), itertools.cycle(base_dtypes or dtypes)
    for shape in shapes:
        theta = torch.from_numpy(np.asarray(rng.standard_normal(shape)))
        away = torch.from_numpy(np.asarray(offset * rng.standard_normal(shape) + offset))
        device = DEVICE if backend == "triton" else "cpu"
        params.append((theta + away).to(next(kinds)).to(device).requires_grad_())
        base.append(theta.to(next(others)).to(device))
    return params, base


def array(x):
    return x.detach().cpu().double().numpy()


def expected(params, base, weight, reduction):
    """Value and gradients in float64."""
    value, grads = 0.0, []
    for p, b in zip(params, base, strict=True):
        d = array(p) - array(b)
        scale = weight / max(1, d.size) if reduction == "tensor_mean" else weight
        value += scale * float(np.sum(d * d))
        grads.append(2 * scale * d)
    return value, grads


def check_gradients(compare, params, grads, want, factor=1.0):
    for p, g, w in zip(params, grads, want, strict=True):
        assert (g.dtype, g.shape, g.device) == (p.dtype, p.shape, p.device)
        if p.dtype == torch.float16:  # which may be below its normal numbers
            np.testing.assert_allclose(array(g), factor * w, rtol=2e-3, atol=1.3e-7)
        elif p.numel():
            rounding = torch.finfo(p.dtype).eps if p.dtype == torch.bfloat16 else 0
            tolerance = 1e-12 if p.dtype == torch.float64 else 1e-6 + rounding
            compare.vectors(g.reshape(1, -1), factor * w.reshape(1, -1), tolerance)


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


@pytest.mark.skipif(not NATIVE, reason=native.load()[1])
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


@pytest.mark.skipif(not TRITON, reason=choice.triton_state())
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


@pytest.mark.skipif(not TRITON, reason=choice.triton_state())
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


@pytest.mark.skipif(not TRITON, reason=choice.triton_state())
def test_launch_metadata():
    from gaussreg_fast.backends.triton import _drift

    params, base = tensors("triton", [(10,)] * 3, dtypes=FLOATS)
    moved = {"value": 1, "gradient": 2, "accumulate": 3}
    for task, times in moved.items():
        assert _drift._bytes_moved(task, params, base) == 10 * (4 + 2 + 2) * (times + 1)


# ---------------------------------------------------------------- how lists are given


def model(seed=0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.ReLU(), torch.nn.Linear(7, 3))


def test_forms_of_lists():
    a, b = model(0), model(1).requires_grad_(False)
    want = expected(list(a.parameters()), list(b.parameters()), 1, "sum")[0]
    named = dict(b.named_parameters())
    shuffled = dict(reversed(named.items()))
    for params in (a, dict(a.named_parameters()), a.named_parameters()):
        for base in (b, named, shuffled, b.named_parameters(), b.parameters(), b.state_dict()):
            params = list(params) if not isinstance(params, (dict, torch.nn.Module)) else params
            assert gf.parameter_drift(params, base).item() == pytest.approx(want, rel=1e-6)
    assert gf.parameter_drift(a.parameters(), tuple(named.values())).item() == pytest.approx(want)


def test_only_what_requires_grad_gets_one():
    params, base = tensors("auto", [(5,), (6,), (7,)])
    params[1].requires_grad_(False)
    want = expected(params, base, 1, "sum")[0]
    for call in (
        lambda: gf.parameter_drift(params, base).backward(),
        lambda: gf.accumulate_parameter_drift(params, base),
    ):
        call()
        assert params[1].grad is None
    assert params[0].grad is not None
    assert gf.accumulate_parameter_drift(params, base).item() == pytest.approx(want, rel=1e-6)
    frozen = [p.detach() for p in params]
    assert not gf.parameter_drift(frozen, base).requires_grad


def test_gradient_of_intermediate_tensors():
    """Parameters need not be leaves: they may be what a network makes of others."""
    z = torch.randn(6, requires_grad=True)
    gf.parameter_drift([2 * z, z[1:3] ** 2], [torch.zeros(6), torch.ones(2)]).backward()
    w = z.detach().clone().requires_grad_()
    ((2 * w).square().sum() + (w[1:3] ** 2 - 1).square().sum()).backward()
    torch.testing.assert_close(z.grad, w.grad)


# ---------------------------------------------------------------- torch's machinery


def test_no_double_backward():
    params, base = tensors("auto", [(5,), (6,)])
    value = gf.parameter_drift(params, base)
    grads = torch.autograd.grad(value**2, params, create_graph=True)
    with pytest.raises(RuntimeError, match="double backward"):
        grads[0].sum().backward()


def test_a_parameter_changed_before_backward_is_noticed():
    for change in (
        lambda p, b: p.data.add_(0) if False else p.detach().add_(1),
        lambda p, b: b.add_(1),
        lambda p, b: gf.parameter_drift_decay_([p], [b], rate=0.1),
    ):
        params, base = tensors("auto", [(5,), (6,)])
        value = gf.parameter_drift(params, base)
        change(params[0], base[0])
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            value.backward()


def test_a_parameter_that_was_replaced_before_backward_is_safe():
    params, base = tensors("auto", [(5000,)])
    value = gf.parameter_drift(params, base)
    params[0].data = torch.zeros(3)
    with pytest.raises(RuntimeError):
        value.backward()


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


def test_transforms_work_or_raise():
    params, base = tensors("auto", [(33,), (4, 5)])
    named = {"a": params[0].detach(), "b": params[1].detach()}
    other = {"b": base[1], "a": base[0]}
    grads = torch.func.grad(lambda p: gf.parameter_drift(p, other))(named)
    _, want = expected(params, base, 1, "sum")
    for g, w in zip(grads.values(), want, strict=True):
        np.testing.assert_allclose(g.numpy(), w, rtol=1e-5)
    with pytest.raises(RuntimeError):
        torch.func.jvp(lambda p: gf.parameter_drift([p], base[:1]), (params[0],), (base[0],))
    with pytest.raises(RuntimeError):
        torch.func.vmap(lambda p: gf.parameter_drift([p], [base[0][:4]]))(torch.zeros(3, 4))
    for call in (gf.parameter_drift_value_and_grad, gf.accumulate_parameter_drift):
        with pytest.raises(RuntimeError, match="in eager code"):
            torch.func.grad(lambda p, call=call: call([p], [base[0]])[0])(named["a"])
    with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = [mode.from_tensor(p.detach()) for p in params]
        assert type(gf.parameter_drift(fake, base)).__name__ == "FakeTensor"
        with pytest.raises(RuntimeError, match="in eager code"):
            gf.parameter_drift_decay_(fake, base, rate=0.1)


@pytest.mark.parametrize("backend", BACKENDS)
def test_opcheck(backend):
    params, base = tensors(backend, [(33,), (4, 5)], dtypes=[torch.float32, torch.bfloat16])
    o = torch.ops.gaussreg_fast
    opcheck(o.parameter_drift.default, (params, base, [1.0, 0.5], backend))
    opcheck(o.parameter_drift.default, (params, [], [1.0, 0.5], backend))
    plain = [p.detach() for p in params]
    upstream = torch.ones((), device=plain[0].device)
    opcheck(o.parameter_drift_gradient.default, (upstream, plain, base, [1.0, 0.5], backend))


@pytest.mark.skipif(not NATIVE, reason=native.load()[1])
def test_operators_called_by_hand_are_guarded():
    """Nothing that does not match reaches the kernels: plain torch takes it, or raises."""
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


# ---------------------------------------------------------------- LoRA


def pairs(dtype=torch.float64):
    """Linear layers of several ranks, and a convolution whose B is 1 x 1."""
    generator = torch.Generator().manual_seed(0)
    shapes = [
        ((4, 30), (20, 4)),
        ((1, 7), (9, 1)),
        ((3, 5, 3, 3), (8, 3, 1, 1)),
        ((12, 6), (5, 12)),
    ]
    return [
        tuple(torch.randn(s, generator=generator, dtype=dtype).requires_grad_() for s in pair)
        for pair in shapes
    ]


def test_lora_product_is_the_drift_of_the_weights():
    factors = pairs()
    want = 0.3 * sum((b.flatten(1) @ a.flatten(1)).square().sum() for a, b in factors)
    flat = [t for pair in factors for t in pair]
    grads = torch.autograd.grad(want, flat)
    value = gf.lora_drift(factors, weight=0.3, form="product")
    torch.testing.assert_close(value, want)
    for g, w in zip(torch.autograd.grad(value, flat), grads, strict=True):
        torch.testing.assert_close(g, w)


@pytest.mark.parametrize("form", ["factors", "product"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_lora_forms(compare, form, dtype):
    factors = pairs(dtype)
    value = gf.lora_drift({f"layer {i}": p for i, p in enumerate(factors)}, weight=2, form=form)
    arrays = [(array(a).reshape(len(a), -1), array(b).reshape(len(b), -1)) for a, b in factors]
    want = {
        "factors": sum((a**2).sum() + (b**2).sum() for a, b in arrays),
        "product": sum(((b @ a) ** 2).sum() for a, b in arrays),
    }[form]
    assert value.dtype == (dtype if dtype == torch.float64 else torch.float32)
    compare.values(value, np.float64(2 * want), 1e-5)
    value.backward()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(gf.lora_drift(factors, weight=2, form=form), value)
    for (a, _), (fa, fb) in zip(factors, arrays, strict=True):
        g = 4 * fa if form == "factors" else 4 * (fb.T @ fb) @ fa
        tolerance = 1e-5 + (torch.finfo(dtype).eps if dtype == torch.bfloat16 else 0)
        compare.vectors(a.grad.reshape(1, -1), g.reshape(1, -1), tolerance)


@pytest.mark.parametrize("backend", BACKENDS)
def test_lora_factors_on_every_backend(compare, backend):
    device = DEVICE if backend == "triton" else "cpu"
    factors = [(a.float().to(device), b.half().to(device)) for a, b in pairs()]
    want = sum((array(t) ** 2).sum() for pair in factors for t in pair)
    compare.values(gf.lora_drift(factors, backend=backend), np.float64(want), 1e-6)


def test_lora_product_never_forms_the_update():
    """Of 30000 x 30000 it would take 3.6 GB."""
    a, b = torch.randn(2, 30000, requires_grad=True), torch.randn(30000, 2, requires_grad=True)
    with torch.profiler.profile(profile_memory=True) as profile:
        gf.lora_drift([(a, b)], form="product").backward()
    assert max(event.cpu_memory_usage for event in profile.events()) < 4 * a.numel() * 4


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


@pytest.mark.parametrize(
    "call",
    [gf.parameter_drift, gf.parameter_drift_value_and_grad, gf.accumulate_parameter_drift,
     lambda p, b: gf.parameter_drift_decay_(p, b, rate=0.1)],
)  # fmt: skip
def test_a_base_that_is_the_model_itself_is_refused(call):
    """It would follow the model, and the drift stay 0."""
    model = torch.nn.Linear(3, 2)
    for base in (model.state_dict(), [p.detach() for p in model.parameters()]):
        with pytest.raises(ValueError, match=r"base must be a copy.*params\[0\], 'weight'"):
            call(model, base)
    copies = [p.detach().clone() for p in model.parameters()]
    call(model, copies)
    model.weight.requires_grad_(False)  # what is not trained may be shared
    call(model, [model.weight.detach(), copies[1]])
