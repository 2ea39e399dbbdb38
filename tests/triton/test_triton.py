"""The Triton backend against the float64 reference: every route, type and option.

Without a GPU the kernels run in Triton's interpreter, on CPU tensors.
"""

import functools
import itertools
import random

import against_reference
import draws
import pytest
import torch
from against_reference import DTYPES, FORMS, MEASURES, ORDERS, PERMUTATIONS, SPLITS_OF_2048
from backends_here import TRITON_DEVICE, needs_triton, quiet_interpreter

import gaussreg_fast as gf
from gaussreg_fast.backends.triton import parameters

pytestmark = [needs_triton, quiet_interpreter]
skewed = functools.partial(draws.skewed_noise, device=TRITON_DEVICE)


def pairwise(**factors):
    """Few cases in which any two values of two factors meet."""
    rng = random.Random(0)
    sizes = {name: len(values) for name, values in factors.items()}

    def pairs_of(case):
        return {(a, case[a], b, case[b]) for a, b in itertools.combinations(sizes, 2)}

    missing = set()
    for a, b in itertools.combinations(sizes, 2):
        missing |= {(a, i, b, j) for i in range(sizes[a]) for j in range(sizes[b])}
    cases = []
    while missing:
        a, i, b, j = min(missing)
        drawn = [{n: rng.randrange(size) for n, size in sizes.items()} for _ in range(60)]
        drawn = [{**case, a: i, b: j} for case in drawn]
        best = max(drawn, key=lambda case: len(pairs_of(case) & missing))
        missing -= pairs_of(best)
        cases.append({name: factors[name][k] for name, k in best.items()})
    return cases


def named(case):
    """Return pytest's name of a case."""
    return "-".join(str(value).replace(" ", "").removeprefix("torch.") for value in case.values())


def check_loss(compare, x, *, call="loss", **options):
    against_reference.check_loss(compare, x, "triton", call=call, **options)


check_statistics = functools.partial(against_reference.check_statistics, backend="triton")


@pytest.fixture
def three_launches(monkeypatch):
    """Takes D = 2048 the way of 65536 and more, where the interpreter takes seconds a call."""
    monkeypatch.setattr(parameters, "FUSED_DIMENSIONS", (64, 1024))
    split = parameters.Large((4, 8, 2), (4, 2, 4), 8, 1, 2, edge_radix=4)
    monkeypatch.setitem(parameters.LARGE, 2048, split)
    assert parameters.route(2048, 16, 10**6) == "large"


# ---------------------------------------------------------------- every route


@pytest.mark.parametrize("dimension", [2**n for n in range(6, 16)])
def test_every_dimension_of_one_launch(compare, dimension):
    assert parameters.route(dimension, 16, 227 * 1024) == "fused"
    n = dimension.bit_length()
    check_loss(
        compare, skewed(2 if dimension < 8192 else 1, dimension), kind=PERMUTATIONS[n % 3],
        measure=MEASURES[n % 2],
    )  # fmt: skip


@pytest.mark.parametrize("dimension", [32, 33, 1000, 1001, 4097])
def test_dimensions_that_are_no_power_of_two(compare, dimension):
    check_loss(compare, skewed(2, dimension), kind=PERMUTATIONS[dimension % 3])


def test_65536_numbers_in_three_launches(compare):
    check_loss(compare, skewed(1, 4, 128, 128), kind="per_sample", orders=(1, 2, 4))


@pytest.mark.slow
@pytest.mark.parametrize("dimension", [2**n for n in range(17, 20)])
def test_every_dimension_of_three_launches(compare, dimension):
    assert parameters.route(dimension, 16, 227 * 1024) == "large"
    check_loss(compare, skewed(1, dimension), kind="none" if dimension == 262144 else "shared")


@pytest.mark.slow
def test_pieces_of_a_batch_of_65536(monkeypatch):
    x = skewed(2, 65536)
    call = functools.partial(
        gf.gaussianity_value_and_grad, x, permutation="per_sample", seed=3, reduction="none",
        backend="triton",
    )  # fmt: skip
    want = call()
    monkeypatch.setattr(parameters, "large_chunk", lambda dimension: 1)
    assert all(map(torch.equal, call(), want))


@pytest.mark.slow
@pytest.mark.parametrize("dimension", [25600, 36864])
def test_latents_of_other_shapes(compare, dimension):
    check_loss(compare, skewed(1, dimension))


@pytest.mark.slow
@pytest.mark.parametrize("dimension", [32768, 65536])
def test_statistics_of_large_samples(compare, dimension):
    check_statistics(
        compare, skewed(1, dimension), kind="shared", orders=(4, 1), block_size=16,
        statistic="power", used="both",
    )  # fmt: skip


# ---------------------------------------------------------------- every option with every other

LOSS_CASES = pairwise(
    dimension=[64, 128, 512, 1024, 101, 1000],
    block_size=[1, 2, 8, 16, 32, 3, 24],
    dtype=DTYPES,
    kind=PERMUTATIONS,
    orders=ORDERS,
    form=FORMS,
    measure=MEASURES,
    power_weight=[25.0, 0.5],
    reduction=["none", "mean", "sum"],
    call=["loss", "value_and_grad"],
)
LARGE_CASES = pairwise(
    batch=[2, 4, 13],  # from FEW on samples of one permutation are taken in groups of 8
    dtype=DTYPES,
    kind=PERMUTATIONS,
    orders=[(4, 1), (2,), (1,), (1, 2, 3, 4, 5, 6, 7, 8)],
    form=FORMS,
    measure=MEASURES,
    call=["loss", "value_and_grad"],
)
STATISTICS_CASES = pairwise(
    dimension=[64, 256, 101, 1000],
    block_size=[1, 16, 32, 3],
    dtype=DTYPES,
    kind=PERMUTATIONS,
    orders=[(1, 2), (8,), (4, 1, 3), (1, 2, 3, 4, 5, 6, 7, 8)],
    statistic=["amplitude", "power"],
    used=["both", "moments", "amplitudes"],
)


@pytest.mark.parametrize("case", LOSS_CASES, ids=named)
def test_loss_options(compare, case):
    x = skewed(2, case["dimension"], seed=1, dtype=case["dtype"])
    check_loss(compare, x, **{k: v for k, v in case.items() if k not in ("dimension", "dtype")})


@pytest.mark.parametrize("case", LARGE_CASES, ids=named)
@pytest.mark.usefixtures("three_launches")
def test_loss_options_in_three_launches(compare, case):
    x = skewed(case["batch"], 2048, seed=2, dtype=case["dtype"])
    check_loss(compare, x, **{k: v for k, v in case.items() if k not in ("batch", "dtype")})


@pytest.mark.parametrize("case", STATISTICS_CASES, ids=named)
def test_statistics_options(compare, case):
    x = skewed(2, case["dimension"], seed=3, dtype=case["dtype"])
    rest = {k: v for k, v in case.items() if k not in ("dimension", "dtype")}
    check_statistics(compare, x, **rest)


@pytest.mark.parametrize("batch", [2, 5])
@pytest.mark.parametrize("split", SPLITS_OF_2048.values(), ids=SPLITS_OF_2048)
@pytest.mark.usefixtures("three_launches")
def test_splits_of_three_launches(compare, monkeypatch, split, batch):
    monkeypatch.setitem(parameters.LARGE, 2048, split)
    check_loss(compare, skewed(batch, 2048), kind="shared", orders=(1, 2, 3))


@pytest.mark.parametrize("batch", [2, 5])
@pytest.mark.parametrize("kind", PERMUTATIONS)
@pytest.mark.usefixtures("three_launches")
def test_statistics_in_three_launches(compare, kind, batch):
    used = ("both", "moments", "amplitudes")[PERMUTATIONS.index(kind) % 3]
    check_statistics(
        compare, skewed(batch, 2048), kind=kind, orders=(4, 1, 3), block_size=16,
        statistic="amplitude" if kind == "shared" else "power", used=used,
    )  # fmt: skip


@pytest.mark.parametrize("task", ["loss", "statistics"])
@pytest.mark.usefixtures("three_launches")
def test_a_sample_of_a_group_does_not_depend_on_the_others(monkeypatch, task):
    """Nor on the piece of the batch that it is in, nor on NaN beside it."""
    x = skewed(13, 2048)

    def call(x):
        if task == "loss":
            return gf.gaussianity_value_and_grad(x, seed=3, reduction="none", backend="triton")
        x = x.detach().requires_grad_()
        moments, blocks = gf.permuted_statistics(x, orders=(1, 2), seed=3, backend="triton")
        gradient = torch.autograd.grad(moments.sum() + (blocks**2).sum(), x)
        return *(t.detach() for t in (moments, blocks)), *gradient

    want = call(x)
    monkeypatch.setattr(parameters, "large_chunk", lambda dimension: 1)
    assert all(map(torch.equal, call(x), want))
    x[2, 77] = float("nan")
    others = torch.arange(13) != 2
    for got, before in zip(call(x), want, strict=True):
        assert torch.equal(got[others], before[others])
        assert got[2].isnan().any()


# ---------------------------------------------------------------- losses of moments

MOMENT_LOSSES = {
    "moment": functools.partial(gf.moment_loss, orders=(4, 1, 2)),
    "squared": functools.partial(gf.moment_loss, orders=(2, 3), form="squared"),
    "weightless": functools.partial(gf.gaussianity_loss, power_weight=0.0, orders=(1, 8)),
    "kl": gf.kl_loss,
    "kurtosis": gf.kurtosis_loss,
    "norm": gf.norm_loss,
}


@pytest.mark.parametrize("name", MOMENT_LOSSES)
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((2, 64), torch.float32), ((3, 1001), torch.bfloat16), ((1, 40000), torch.float32)],
    ids=str,
)
def test_losses_of_moments(compare, name, shape, dtype):
    x = skewed(*shape, dtype=dtype)
    results = []
    for z, backend in ((x, "triton"), (x.double(), "torch")):
        z = z.detach().requires_grad_()
        value = MOMENT_LOSSES[name](z, reduction="none", backend=backend)
        value.sum().backward()
        results.append((value, z.grad))
    (value, grad), (want, want_grad) = results
    assert (value.dtype, grad.dtype) == (torch.float32, dtype)
    compare.values(value, want, 1e-5)
    compare.vectors(grad, want_grad, 1e-4 + (0 if dtype == torch.float32 else 2**-7))
    with torch.no_grad():
        assert torch.equal(MOMENT_LOSSES[name](x, reduction="none", backend="triton"), value)


@pytest.mark.parametrize("dimension", [1, 2, 3, 31])
def test_moments_of_a_few_numbers(compare, dimension):
    x = skewed(2, dimension)
    check_loss(compare, x, power_weight=0.0, orders=(1, 2, 4))


def test_power_spectrum_loss_alone(compare):
    for dimension in (64, 100):
        x = skewed(2, dimension).requires_grad_()
        gf.power_spectrum_loss(x, seed=1, reduction="none", backend="triton").sum().backward()
        z = x.detach().double().requires_grad_()
        gf.power_spectrum_loss(z, seed=1, reduction="none", backend="torch").sum().backward()
        compare.vectors(x.grad, z.grad, 1e-4)
