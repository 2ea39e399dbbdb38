"""Random calls of the losses, on every backend, against the reference in float64.

With test_random_drift.py and test_random_arguments.py these are more than 10,000 calls.
"""

import functools

import near_float64
import numpy as np
import pytest
import torch
from backends_here import quiet_interpreter
from hypothesis import assume, given
from hypothesis import strategies as st
from random_tensors import FINITE, SEEDS, backend_for, calls, samples, size_of

import gaussreg_fast as gf
from gaussreg_fast import arrays, reference

pytestmark = [pytest.mark.slow, quiet_interpreter]


@st.composite
def permutations(draw, x):
    """The arguments of a draw, and the index (B, D), or None, that they stand for."""
    batch, size = len(x), size_of(x)
    kind = draw(st.sampled_from(("shared", "shared", "per_sample", "none", "index", "indices")))
    if kind == "none":
        return {"permutation": kind}, None
    seed = draw(st.one_of(st.integers(-(2**63), 2**63 - 1), SEEDS))
    count = batch if kind in ("per_sample", "indices") else 1
    tensor = torch.tensor([seed])
    rows = reference.permutation(tensor, size, samples=count) if count else None
    index = rows.expand(batch, size) if count else torch.empty(0, size, dtype=torch.int64)
    if kind in ("index", "indices"):
        given_rows = index if kind == "indices" else rows[0]
        dtype = draw(st.sampled_from((torch.int64, torch.int32)))
        return {"permutation": given_rows.to(dtype)}, index
    form = draw(st.sampled_from(("int", "tensor", "numpy")))
    as_given = {"int": seed, "tensor": tensor, "numpy": np.int64(seed)}[form]
    return {"permutation": kind, "seed": as_given}, index


ORDERS = st.lists(st.integers(1, 8), min_size=1, max_size=4, unique=True).map(tuple)
REDUCTIONS = st.sampled_from(("none", "mean", "sum"))
FORMS = st.sampled_from(("root", "absolute", "squared"))
SHARES = {"none": lambda batch: torch.linspace(-1, 2, batch, dtype=torch.float32).double()}
SHARES["mean"] = lambda batch: torch.full((batch,), 1 / max(1, batch), dtype=torch.float64)
SHARES["sum"] = lambda batch: torch.ones(batch, dtype=torch.float64)


def with_gradient(function, x, reduction):
    """Returns a loss of x, and its gradient by autograd for an upstream gradient that is not 1."""
    z = x.detach().requires_grad_()
    value = function(z)
    value.backward(SHARES["none"](len(x)).to(value.dtype) if reduction == "none" else None)
    return value.detach(), z.grad


def check_losses(got, each, x, reduction, weighted=True):
    """Compares a loss and its gradient with `each`, the losses of rows and their gradients."""
    if len(x) == 0:
        assert (got[0].numel(), got[0].sum().item()) == (int(reduction != "none"), 0.0)
        assert got[1].shape == x.shape
        return
    finite = x.isfinite().flatten(1).all(1)
    share = SHARES[reduction](len(x))[:, None]
    share = share if weighted or reduction != "none" else torch.ones_like(share)

    def exact(rows):
        loss, grad = each(rows)
        grad = (grad * share).reshape(x.shape)
        return (loss if reduction == "none" else (loss * share[:, 0]).sum(), grad)

    rows = x.detach().double().reshape(len(x), size_of(x))
    if finite.all():
        near_float64.check(got, exact, rows, dtype=x.dtype)
        return
    assert got[0].isnan().equal(~finite if reduction == "none" else torch.tensor(True))
    if not finite.any():
        return
    rows = torch.where(finite[:, None], rows, 1.0)
    kept = (got[0][finite], got[1][finite]) if reduction == "none" else (got[1][finite],)
    near_float64.check(
        kept, lambda r: [t[finite] for t in exact(r) if t.dim()], rows, dtype=x.dtype
    )


@st.composite
def spectral(draw, x):
    """Options of the power spectrum of x, and the target that they stand for."""
    assume(size_of(x) >= 2)
    statistic = draw(st.sampled_from(("amplitude", "amplitude", "power")))
    target = draw(st.sampled_from(("exact", "mpgr"))) if statistic == "amplitude" else "exact"
    most = size_of(x) // 2
    sizes = st.one_of(
        st.integers(1, min(most, 40)), st.sampled_from([b for b in (1, 4, 16, 32) if b <= most])
    )
    options = {"block_size": draw(sizes), "statistic": statistic}
    return options, target, reference.block_target(target, statistic)


def _varies(x):
    if len(x) == 0 or size_of(x) == 1:
        return len(x) == 0
    size = x.double().abs().flatten(1)
    return bool((size.std(1, correction=0) > 1e-2 * size.mean(1)).all())


def _is_steep(x, orders, form):
    """Whether an odd moment is 0 but for rounding, where its root is infinitely steep."""
    if form != "root" or len(x) == 0:
        return False
    powers = [x.double().nan_to_num(0, 0, 0).flatten(1) ** n for n in orders if n % 2 and n > 1]
    return any((p.mean(1).abs() < 1e-4 * p.abs().mean(1)).any() for p in powers)


@st.composite
def loss_calls(draw):
    """A loss, its x and options, and a function of rows: their losses and gradients in float64."""
    x = draw(samples(smallest=2, largest=1100))  # with D = 1 a sum of roots may cancel to 0
    name = draw(st.sampled_from(("gaussianity", "value_and_grad", "power", "moment", *OLDER)))
    options = {"reduction": draw(REDUCTIONS), "backend": draw(backend_for(x))}
    flags, index = {"orders": (), "form": "root", "power_weight": 0.0}, None
    if name in OLDER:
        # Where all |x| are the same, v = 0 or the kurtosis is stationary: only rounding is left.
        assume(_varies(x))
        flags |= {"form": name, "orders": OLDER[name]}
    elif name != "power":
        flags |= {"orders": draw(ORDERS), "form": draw(FORMS)}
        assume(not _is_steep(x, flags["orders"], flags["form"]))
        options |= flags
    if name == "moment":
        del options["power_weight"]
    elif name not in OLDER:
        flags["power_weight"] = 1.0 if name == "power" else draw(st.sampled_from((25.0, 1, 0.0)))
        if name != "power":
            options["power_weight"] = flags["power_weight"]
        measure, target, mu = draw(spectral(x))
        drawn, index = draw(permutations(x))
        flags |= {**measure, "target": mu}
        options |= {**measure, **drawn, "target": target}
    return name, x, options, lambda rows: reference.loss_and_gradient(rows, index, **flags)


OLDER = {"kl": (1, 2), "kurtosis": (2, 4), "norm": (2,)}
LOSSES = {
    "gaussianity": gf.gaussianity_loss, "power": gf.power_spectrum_loss, "moment": gf.moment_loss,
    "kl": gf.kl_loss, "kurtosis": gf.kurtosis_loss, "norm": gf.norm_loss,
}  # fmt: skip


@calls(4000)
@given(loss_calls())
def test_losses_and_their_gradients(case):
    name, x, options, each = case
    before = x.clone()
    if name == "value_and_grad":
        got = gf.gaussianity_value_and_grad(x, **options)
    else:
        got = with_gradient(lambda z: LOSSES[name](z, **options), x, options["reduction"])
    assert torch.equal(before.nan_to_num(7), x.nan_to_num(7)), "x was written to"
    assert got[1].dtype == x.dtype
    assert got[0].dtype == (torch.float64 if x.dtype == torch.float64 else torch.float32)
    check_losses(got, each, x, options["reduction"], weighted=name != "value_and_grad")


@st.composite
def statistics_calls(draw):
    x = draw(samples(smallest=2, largest=1100, kinds=FINITE))
    measure, _, _ = draw(spectral(x))
    drawn, index = draw(permutations(x))
    options = {"orders": draw(ORDERS), "backend": draw(backend_for(x)), **measure, **drawn}
    return x, options, index, draw(st.sampled_from(((1, 1), (1, 0), (0, 1)))), draw(SEEDS)


@calls(1200)
@given(statistics_calls())
def test_statistics_and_their_pullback(case):
    x, options, index, used, seed = case
    z = x.detach().requires_grad_()
    outputs = gf.permuted_statistics(z, **options)
    generator = torch.Generator().manual_seed(seed)
    upstream = [torch.randn(t.shape, generator=generator, dtype=t.dtype) for t in outputs]
    chosen = [i for i in (0, 1) if used[i]]
    torch.autograd.backward([outputs[i] for i in chosen], [upstream[i] for i in chosen])
    if len(x) == 0:
        blocks = -(-(size_of(x) // 2) // options["block_size"])
        assert [t.shape for t in outputs] == [(0, len(options["orders"])), (0, blocks)]
        assert z.grad.shape == x.shape
        return
    g_m, g_a = (g.double() * u for g, u in zip(upstream, used, strict=True))

    def exact(rows):
        flags = options["orders"], options["block_size"], options["statistic"]
        m, a, y = reference.permuted_statistics(rows, index, *flags)
        grad = reference.permuted_statistics_pullback(rows, y, index, *flags, g_m, g_a)
        return m, a, grad.reshape(x.shape)

    rows = x.detach().double().reshape(len(x), size_of(x))
    near_float64.check([*outputs, z.grad], exact, rows, dtype=x.dtype)


@calls(700)
@given(samples(largest=1100, kinds=FINITE), st.integers(2, 40), st.data())
def test_projections(x, block_size, data):
    wanted = max(1, size_of(x) // (2 * block_size)) * 2 * block_size
    flat = x.flatten(1) if len(x) else x.new_empty(0, size_of(x))
    x = flat[:, :wanted] if wanted <= size_of(x) else flat[:, :1].expand(len(x), wanted)
    backend = data.draw(backend_for(x))
    got = gf.project_white_noise(x, block_size=block_size, backend=backend)
    assert (got.dtype, got.shape) == (x.dtype, x.shape)
    if len(x) == 0:
        return
    rows = x.double()
    blocks = reference.compact_spectrum(got.double()).abs().unflatten(-1, (-1, block_size))
    rounding = {torch.float64: 1e-7, torch.float32: 1e-4}.get(x.dtype, 0.05)
    ones = torch.full(blocks.shape[:2], float(block_size)).double()
    torch.testing.assert_close(blocks.square().sum(-1), ones, rtol=2 * rounding, atol=0)
    torch.testing.assert_close(
        blocks.sum(-1), ones * reference.RAYLEIGH_MEAN, rtol=rounding, atol=0
    )
    if x.any():  # the nearest point of an empty block is any
        filled = reference.compact_spectrum(rows).abs().unflatten(-1, (-1, block_size)).amax(-1)
        if (filled > 1e-5 * rows.square().mean(1, keepdim=True).sqrt()).all():

            def exact(rows):
                return [reference.project_white_noise(rows, block_size)]

            near_float64.check([got], exact, rows, dtype=x.dtype)


def _by_autograd(loss):
    """Returns a function of rows in float64: their losses, and gradients by autograd."""

    def each(rows):
        rows = rows.detach().requires_grad_()
        value = loss(rows)
        (gradient,) = torch.autograd.grad(value.sum(), rows)
        return value.detach(), gradient

    return each


@calls(250)
@given(samples(smallest=2, largest=300, kinds=FINITE), REDUCTIONS, st.data())
def test_covariance_losses(x, reduction, data):
    drawn, index = data.draw(permutations(x))
    options = {**drawn, "reduction": reduction}
    got = with_gradient(lambda z: gf.covariance_loss(z, **options), x, reduction)

    def by_fourier(rows):
        power = torch.fft.fft(reference.gather(rows, index)).abs().square()
        c = torch.fft.ifft(power).real / rows.shape[1]
        return (c[:, 0] - 1).abs() + c[:, 1:].abs().mean(1)

    check_losses(got, _by_autograd(by_fourier), x, reduction)


# Of waves and the like the smallest eigenvalues are 0: which vectors they have is rounding.
@calls(250)
@given(samples(largest=300, kinds=("noise", "skewed", "small", "large")), REDUCTIONS, st.data())
def test_prno_losses(x, reduction, data):
    size = size_of(x)
    factor = data.draw(st.sampled_from([k for k in (1, 2, 3, 4, 8) if size % k == 0]))
    seed, shuffles = data.draw(SEEDS), data.draw(st.integers(0, 3))
    options = {"factor": factor, "shuffles": shuffles, "seed": seed, "reduction": reduction}
    got = with_gradient(lambda z: gf.prno_loss(z, **options), x, reduction)
    table = reference.permutation(torch.tensor([seed]), size, samples=shuffles or 1)
    table = table if shuffles else None
    exact = functools.partial(reference.prno_loss, shuffles=table, factor=factor)
    check_losses(got, _by_autograd(exact), x, reduction)


@calls(600)
@given(st.one_of(st.integers(1, 300), st.integers(1, 70000)), st.integers(-(2**63), 2**63 - 1))
def test_permutations_and_their_inverses(size, seed):
    forward = gf.permutation(seed, size)
    backward = gf.permutation(torch.tensor(seed), size, inverse=True)
    assert forward.equal(reference.permutation(torch.tensor([seed]), size))
    assert forward[backward].equal(torch.arange(size))


@st.composite
def arrays_of(draw):
    """A NumPy array in any layout, and its numbers as a tensor."""
    x = draw(
        samples(smallest=32, kinds=FINITE, dtypes=(torch.float32, torch.float64, torch.float16))
    )
    array = x.numpy()
    way = draw(st.sampled_from(("as it is", "backwards", "fortran", "read-only", "records")))
    if way == "backwards":
        array = array[::-1, ..., ::-1]
    elif way == "fortran":
        array = np.asfortranarray(array)
    elif way == "read-only":
        array = array.copy()
        array.setflags(write=False)
    elif way == "records":  # unaligned
        records = np.zeros(array.shape, dtype=[("flag", "u1"), ("x", array.dtype)])
        records["x"] = array
        array = records["x"]
    return array


@calls(500)
@given(arrays_of(), ORDERS, st.integers(0, 2**40), REDUCTIONS)
def test_arrays(array, orders, seed, reduction):
    before = array.copy()
    options = {"orders": orders, "seed": seed, "reduction": reduction}
    got = arrays.gaussianity_value_and_grad(array, **options)
    assert np.array_equal(before, array)
    assert got[1].dtype == array.dtype
    x = torch.from_numpy(before)
    index = reference.permutation(torch.tensor([seed]), size_of(x))
    each = functools.partial(reference.loss_and_gradient, index=index, orders=orders)
    check_losses(
        [torch.from_numpy(t) if t.shape else torch.tensor(t) for t in got],
        each,
        x,
        reduction,
        weighted=False,
    )
