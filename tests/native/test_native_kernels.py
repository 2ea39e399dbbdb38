"""The native backend against the float64 reference: every size, type and option."""

import functools

import against_reference
import pytest
import torch
from against_reference import (
    DTYPES,
    FORMS,
    MEASURES,
    ORDERS,
    PERMUTATIONS,
    rounding,
)
from backends_here import needs_native
from draws import skewed_noise
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import gaussreg_fast as gf

pytestmark = needs_native

SETTINGS = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
POWERS = [2**n for n in range(6, 17)]
# With every odd radix of the fused kernels; some leave part of the last tile unused.
MULTIPLES = [192, 576, 1088, 1216, 2816, 3584, 6656, 25600, 36864, 63232]
OTHERS = [32, 33, 100, 101, 1000, 1001, 1472]  # round torch.fft
SIZES = POWERS + MULTIPLES + OTHERS
BLOCK_SIZES = [16, 5, 8, 1, 32]


check_loss = functools.partial(against_reference.check_loss, backend="native")
check_statistics = functools.partial(against_reference.check_statistics, backend="native")


# ---------------------------------------------------------------- every size


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("size", SIZES)
def test_loss_of_every_size(compare, size, batch):
    n = SIZES.index(size) + batch
    kind = PERMUTATIONS[n % len(PERMUTATIONS)]
    check_loss(compare, skewed_noise(batch, size), kind=kind, measure=MEASURES[n % 3])


@pytest.mark.parametrize("kind", PERMUTATIONS)
@pytest.mark.parametrize("shape", [(2, 4, 32, 32), (2, 3, 30, 30)], ids=str)
def test_loss_of_latents_with_every_permutation(compare, shape, kind):
    check_loss(compare, skewed_noise(*shape), kind=kind)


@pytest.mark.parametrize("size", [2**18, 2**20])
def test_loss_of_large_samples(compare, size):
    check_loss(compare, skewed_noise(1, size), orders=(1, 2, 4))


@pytest.mark.parametrize("size", SIZES)
def test_statistics_of_every_size(compare, size):
    n = SIZES.index(size)
    check_statistics(
        compare, skewed_noise(2, size), kind=PERMUTATIONS[n % len(PERMUTATIONS)], orders=(4, 1, 3),
        block_size=16, statistic=("amplitude", "power")[n % 2],
    )  # fmt: skip


# ---------------------------------------------------------------- every option with every other


@st.composite
def inputs(draw):
    size = draw(st.sampled_from([64, 128, 512, 1024, 4096, 192, 1216, 1536, 100, 101, 1000]))
    dtype = draw(st.sampled_from(DTYPES))
    return skewed_noise(
        draw(st.sampled_from((1, 3))), size, seed=draw(st.integers(0, 9)), dtype=dtype
    )


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
    x = skewed_noise(*shape).to(dtype)  # heavy tails, or the kurtosis loss would be close to 0
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
    check_loss(compare, skewed_noise(2, size), power_weight=0.0, orders=(1, 2, 4))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("size", "block_size"),
    [(size, 16) for size in [*POWERS, *MULTIPLES, 96]]
    + [(size, b) for size in (64, 1024) for b in (2, 8, 32)]
    + [(1000, 5), (70, 5), (144, 3), (64, 4)],
)
def test_projection(compare, size, block_size, dtype):
    x = skewed_noise(2, size, dtype=dtype)
    got = gf.project_white_noise(x, block_size=block_size, backend="native")
    want = gf.project_white_noise(x.double(), block_size=block_size, backend="torch")
    assert (got.dtype, got.shape) == (dtype, x.shape)
    compare.vectors(got, want, 1e-4 + rounding(dtype), "projection")


@pytest.mark.parametrize("size", [64, 100])
def test_float64_is_left_to_torch(size):
    x = skewed_noise(2, size).double()
    calls = [
        functools.partial(gf.gaussianity_value_and_grad, x, seed=1),
        functools.partial(gf.permuted_statistics, x, orders=(1, 2, 3), seed=1),
        lambda **k: (gf.kl_loss(x, **k), gf.project_white_noise(x, block_size=2, **k)),
    ]
    for call in calls:
        for got, want in zip(call(backend="auto"), call(backend="torch"), strict=True):
            assert got.dtype == torch.float64
            assert torch.equal(got, want)
