"""The native backend against the float64 reference: every size, type and option."""

import functools
import math

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import gaussreg_fast as gf
from gaussreg_fast import native, reference

pytestmark = pytest.mark.skipif(native.load()[0] is None, reason=native.load()[1])

SETTINGS = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
POWERS = [2**n for n in range(6, 17)]  # the fused kernels
OTHERS = [32, 33, 100, 101, 1000, 1001, 25600, 36864]  # round torch.fft
SIZES = POWERS + OTHERS
MEASURES = [("amplitude", "exact"), ("amplitude", "mpgr"), ("power", "exact")]
ORDERS = [(1, 2), (8,), (3, 5), (4, 1), (2, 6, 4), (1, 2, 3, 4, 5, 6, 7, 8)]
FORMS = ["root", "absolute", "squared"]
PERMUTATIONS = ["shared", "per_sample", "none", "index", "indices"]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
BLOCK_SIZES = [16, 5, 8, 1, 32]


def noise(*shape, seed=0, dtype=torch.float32):
    """Off its mean and scale: no loss is near its minimum, no odd moment near 0."""
    z = np.random.default_rng(seed + 1000 * math.prod(shape[1:])).standard_normal(shape)
    # High powers of heavy tails have gradients that float16 does not hold.
    z = z + 0.2 * z**3 + 0.4 if dtype == torch.float32 else 0.6 * z + 0.4
    return torch.from_numpy(z).to(dtype)


def rounding(dtype):
    return 0.0 if dtype == torch.float32 else torch.finfo(dtype).eps


def permutation_of(kind, x, seed):
    """The argument of a call, and the index (B, D) that it stands for."""
    batch, size = len(x), x[0].numel()
    if kind == "none":
        return kind, None
    samples = batch if kind in ("per_sample", "indices") else 1
    rows = reference.permutation(torch.tensor([seed]), size, samples=samples).expand(batch, size)
    if kind == "index":
        return rows[0].int(), rows
    return (rows, rows) if kind == "indices" else (kind, rows)


def check_loss(
    compare, x, *, kind="shared", measure=MEASURES[0], reduction="none", seed=5, **options
):
    """Compares the loss and its gradient, with autograd and without, to the reference's."""
    argument, index = permutation_of(kind, x, seed)
    statistic, target = measure
    mu = reference.block_target(target, statistic)
    flags = {"orders": (1, 2), "form": "root", "power_weight": 25.0, "block_size": 16, **options}
    rows = x.double().flatten(1)
    loss, grad = reference.loss_and_gradient(rows, index, target=mu, statistic=statistic, **flags)
    scale = 1 / len(x) if reduction == "mean" else 1.0
    loss = loss if reduction == "none" else loss.sum() * scale
    call = {
        "statistic": statistic, "target": target, "permutation": argument, "seed": seed,
        "reduction": reduction, "backend": "native", **flags,
    }  # fmt: skip
    z = x.detach().requires_grad_()
    value = gf.gaussianity_loss(z, **call)
    value.sum().backward()
    again, got = gf.gaussianity_value_and_grad(x, **call)
    assert (value.dtype, got.dtype, got.shape) == (torch.float32, x.dtype, x.shape)
    assert torch.equal(value, again)
    assert torch.equal(gf.gaussianity_loss(x, **call), again)  # without a gradient: the same bits
    torch.testing.assert_close(z.grad, got, rtol=2e-7 + 2 * rounding(x.dtype), atol=1e-7)
    compare.values(value, loss, 1e-5)
    near = 0
    if flags["power_weight"]:
        _, a, _ = reference.permuted_statistics(rows, index, [], flags["block_size"], statistic)
        near = int(((a - mu).abs() <= 1e-6).sum())
    if near:  # the gradient jumps there
        compare.leave_out("block within 1e-6 of its target", near)
        return
    compare.vectors(got, (grad * scale).reshape(x.shape), 1e-4 + rounding(x.dtype))


def check_statistics(compare, x, *, kind, orders, block_size, statistic, used="both", seed=7):
    """Compares both outputs, and the gradient by x for random upstream gradients."""
    argument, index = permutation_of(kind, x, seed)
    rows = x.double().flatten(1)
    m, a, y = reference.permuted_statistics(rows, index, orders, block_size, statistic)
    z = x.detach().requires_grad_()
    outputs = gf.permuted_statistics(
        z, orders=orders, block_size=block_size, statistic=statistic, permutation=argument,
        seed=seed, backend="native",
    )  # fmt: skip
    for got, want in zip(outputs, (m, a), strict=True):
        assert got.dtype == torch.float32
        compare.vectors(got, want, 1e-5, "value")
    generator = torch.Generator().manual_seed(1)
    upstream = [torch.randn(t.shape, generator=generator) for t in (m, a)]
    chosen = {"both": (0, 1), "moments": (0,), "amplitudes": (1,)}[used]
    torch.autograd.backward([outputs[i] for i in chosen], [upstream[i] for i in chosen])
    g_m, g_a = (g.double() * (i in chosen) for i, g in enumerate(upstream))
    want = reference.permuted_statistics_pullback(
        rows, y, index, orders, block_size, statistic, g_m, g_a
    )
    compare.vectors(z.grad, want.reshape(x.shape), 1e-4 + rounding(x.dtype))


# ---------------------------------------------------------------- every size


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("size", SIZES)
def test_loss_of_every_size(compare, size, batch):
    n = SIZES.index(size) + batch
    kind = PERMUTATIONS[n % len(PERMUTATIONS)]
    check_loss(compare, noise(batch, size), kind=kind, measure=MEASURES[n % 3])


@pytest.mark.parametrize("kind", PERMUTATIONS)
@pytest.mark.parametrize("shape", [(2, 4, 32, 32), (2, 3, 30, 30)], ids=str)
def test_loss_of_latents_with_every_permutation(compare, shape, kind):
    check_loss(compare, noise(*shape), kind=kind)


@pytest.mark.parametrize("size", [2**18, 2**20])
def test_loss_of_large_samples(compare, size):
    check_loss(compare, noise(1, size), orders=(1, 2, 4))


@pytest.mark.parametrize("size", SIZES)
def test_statistics_of_every_size(compare, size):
    n = SIZES.index(size)
    check_statistics(
        compare, noise(2, size), kind=PERMUTATIONS[n % len(PERMUTATIONS)], orders=(4, 1, 3),
        block_size=16, statistic=("amplitude", "power")[n % 2],
    )  # fmt: skip


# ---------------------------------------------------------------- every option with every other


@st.composite
def inputs(draw):
    size = draw(st.sampled_from([64, 128, 512, 1024, 4096, 100, 101, 1000]))
    dtype = draw(st.sampled_from(DTYPES))
    return noise(draw(st.sampled_from((1, 3))), size, seed=draw(st.integers(0, 9)), dtype=dtype)


@SETTINGS
@given(
    inputs(),
    st.fixed_dictionaries(
        {
            "block_size": st.sampled_from([*BLOCK_SIZES, 3, 24]),
            "kind": st.sampled_from(PERMUTATIONS),
            "orders": st.sampled_from(ORDERS),
            "form": st.sampled_from(FORMS),
            "measure": st.sampled_from(MEASURES),
            "power_weight": st.sampled_from([25.0, 0.5, 0.0]),
            "reduction": st.sampled_from(["none", "mean", "sum"]),
            "seed": st.integers(-(2**63), 2**63 - 1),
        }
    ),
)
def test_loss_options(compare, x, options):
    check_loss(compare, x, **options)


@SETTINGS
@given(
    inputs(),
    st.fixed_dictionaries(
        {
            "block_size": st.sampled_from([*BLOCK_SIZES, 3, 24]),
            "kind": st.sampled_from(PERMUTATIONS),
            "orders": st.sampled_from(ORDERS),
            "statistic": st.sampled_from(["amplitude", "power"]),
            "used": st.sampled_from(["both", "moments", "amplitudes"]),
            "seed": st.integers(-(2**63), 2**63 - 1),
        }
    ),
)
def test_statistics_options(compare, x, options):
    check_statistics(compare, x, **options)


# ---------------------------------------------------------------- the other losses

LOSSES = {
    "moment": functools.partial(gf.moment_loss, orders=(4, 1, 2)),
    "squared": functools.partial(gf.moment_loss, orders=(2, 3), form="squared"),
    "weightless": functools.partial(gf.gaussianity_loss, power_weight=0.0, orders=(1, 8)),
    "kl": gf.kl_loss,
    "kurtosis": gf.kurtosis_loss,
    "norm": gf.norm_loss,
    "power_spectrum": functools.partial(gf.power_spectrum_loss, seed=4),
    "power_spectrum_8": functools.partial(gf.power_spectrum_loss, seed=4, block_size=8),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((2, 64), torch.float32),
        ((3, 1001), torch.bfloat16),
        ((2, 256), torch.float16),
        ((1, 40000), torch.float32),
    ],
    ids=str,
)
def test_other_losses(compare, name, shape, dtype):
    x = noise(*shape).to(dtype)  # heavy tails, or the kurtosis loss would be close to 0
    results = []
    for z, backend in ((x, "native"), (x.double(), "torch")):
        z = z.detach().requires_grad_()
        value = LOSSES[name](z, reduction="none", backend=backend)
        value.sum().backward()
        results.append((value, z.grad))
    (value, grad), (want, want_grad) = results
    assert (value.dtype, grad.dtype) == (torch.float32, dtype)
    compare.values(value, want, 1e-5)
    compare.vectors(grad, want_grad, 1e-4 + rounding(dtype))
    with torch.no_grad():
        assert torch.equal(LOSSES[name](x, reduction="none", backend="native"), value)


@pytest.mark.parametrize("size", [1, 2, 3, 31, 63, 65, 511, 513])
def test_moments_of_a_few_numbers(compare, size):
    check_loss(compare, noise(2, size), power_weight=0.0, orders=(1, 2, 4))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("size", "block_size"),
    [(size, 16) for size in [*POWERS, 96, 25600, 36864]]
    + [(size, b) for size in (64, 1024) for b in (2, 8, 32)]
    + [(1000, 5), (70, 5), (144, 3), (64, 4)],
)
def test_projection(compare, size, block_size, dtype):
    x = noise(2, size, dtype=dtype)
    got = gf.project_white_noise(x, block_size=block_size, backend="native")
    want = gf.project_white_noise(x.double(), block_size=block_size, backend="torch")
    assert (got.dtype, got.shape) == (dtype, x.shape)
    compare.vectors(got, want, 1e-4 + rounding(dtype), "projection")


@pytest.mark.parametrize("size", [64, 100])
def test_float64_is_left_to_torch(size):
    x = noise(2, size).double()
    calls = [
        functools.partial(gf.gaussianity_value_and_grad, x, seed=1),
        functools.partial(gf.permuted_statistics, x, orders=(1, 2, 3), seed=1),
        lambda **k: (gf.kl_loss(x, **k), gf.project_white_noise(x, block_size=2, **k)),
    ]
    for call in calls:
        for got, want in zip(call(backend="native"), call(backend="torch"), strict=True):
            assert got.dtype == torch.float64
            assert torch.equal(got, want)
