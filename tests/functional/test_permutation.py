"""Permutation v1: fixed for ever, the same in every backend, a bijection for every D."""

import hashlib
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import gaussreg_fast
from gaussreg_fast import reference
from gaussreg_fast.backends import native

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
needs_native = pytest.mark.skipif(
    Path(native.__file__).parents[2].joinpath("_native_missing.txt").exists(),
    reason="native is not built",
)
# Around 2^16, up to which both halves of an index fit into bytes, and below it, with 7 and 8 bits.
TO_BYTES = [2**14, 2**14 + 1, 2**15, 36864, 2**16 - 1, 2**16, 2**16 + 1]
SEEDS = st.integers(INT64_MIN, INT64_MAX) | st.sampled_from([0, -1, INT64_MIN, INT64_MAX])

# D, seed, sample, the first five values, the first 16 digits of sha256 over the little-endian
# int64 array. Never to be regenerated: a change here is a new version of the permutation.
GOLDEN = [
    (1, 0, 0, [0], "af5570f5a1810b7a"),
    (2, 0, 0, [1, 0], "4cbbd8ca5215b8d1"),
    (2, 2**63 - 1, 0, [0, 1], "9d34149fbd1fe777"),
    (5, 0, 0, [4, 1, 2, 3, 0], "db540909ba90c43a"),
    (5, -1, 0, [3, 0, 1, 4, 2], "4bf7b9aae269bc4f"),
    (5, 2**63 - 1, 0, [1, 4, 3, 2, 0], "2bf7530708b0f5be"),
    (31, 0, 0, [9, 11, 21, 0, 8], "70bc9044204e1b9d"),
    (31, -1, 0, [23, 0, 17, 22, 27], "ca964dcb31c6869d"),
    (32, 0, 0, [9, 11, 21, 0, 8], "98e8d15442695074"),
    (32, -1, 0, [23, 0, 17, 22, 27], "2cd1211116fe0d75"),
    (33, 0, 0, [9, 18, 4, 15, 24], "2b5c87e53282e8e3"),
    (33, 1, 0, [26, 9, 4, 10, 3], "fc3c7cf64eb4275b"),
    (33, -1, 0, [10, 28, 19, 16, 27], "5ff396467e09ae78"),
    (33, 2**63 - 1, 0, [20, 2, 21, 22, 30], "57c7470dcd3a6ef5"),
    (100, 0, 0, [5, 6, 43, 16, 69], "40117277a096df9b"),
    (100, -1, 0, [53, 48, 60, 96, 30], "bc8724dcdad23e88"),
    (100, 2**63 - 1, 0, [82, 29, 65, 1, 14], "d3042fb74f7836ab"),
    (4096, 0, 0, [1278, 414, 1521, 1153, 473], "fc48a29e3a202fe0"),
    (4096, 1, 0, [934, 209, 2087, 2437, 1849], "e3e653f91cd64071"),
    (4096, -1, 0, [42, 197, 3838, 3973, 3190], "6fa7f068f20b55fa"),
    (4096, 2**63 - 1, 0, [3367, 965, 509, 917, 795], "06ee8d2a70014be7"),
    (4097, -1, 0, [3737, 1165, 435, 1506, 88], "c0789ef0a1215636"),
    (4097, 2**63 - 1, 0, [2275, 3027, 163, 2556, 3687], "f3c2fb2c4b0cb702"),
    (65536, 1, 0, [34365, 5617, 25861, 17664, 16833], "7224b2dfa873f04f"),
    (65536, -1, 0, [28972, 29766, 41223, 55507, 10302], "c6e9eb5b241a03e1"),
    (2**20 + 7, -1, 0, [80505, 628745, 134654, 951740, 638258], "aeb68ed9f0366806"),
    (4096, -(2**63), 0, [3700, 985, 2109, 157, 1338], "57b0f508b23c3b17"),
    (4096, 123456789, 0, [1088, 1954, 2012, 3188, 1135], "6c4cb60820371681"),
    (5, 0, 1, [2, 1, 4, 3, 0], "c0fbc0bc99260360"),
    (33, 1, 1, [28, 32, 4, 29, 18], "116bb214dbac045c"),
    (100, -1, 2, [3, 7, 59, 85, 18], "06d2e54adaa2fc96"),
    (4096, 0, 1, [1214, 3678, 3363, 2827, 206], "193a8339b6120006"),
    (4096, 0, 2, [746, 3752, 2974, 168, 1429], "062b2e072552e5e4"),
    (4096, 0, 63, [450, 1264, 2225, 1090, 2246], "f00a761456d57fe5"),
    (4097, 2**63 - 1, 1, [3471, 297, 2557, 3637, 1862], "6d42c5b5e7e9f218"),
    (65536, 1, 3, [47127, 43228, 13622, 62485, 32869], "ba0d09ca1d3a5530"),
]

MASK64 = 2**64 - 1


def mix64(z):
    z &= MASK64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK64
    return z ^ (z >> 31)


def permutation_by_ints(seed, sample, size):
    """The algorithm again, in Python's own integers, one element at a time."""
    bits = max(2, (size - 1).bit_length())
    low, high = bits // 2, bits - bits // 2
    state = mix64(seed + 0x9E3779B97F4A7C15) + sample * 0xD1B54A32D192ED03
    words = [mix64(state + (r + 1) * 0x9E3779B97F4A7C15) for r in range(24 if bits < 6 else 12)]

    def network(value):
        left, right = divmod(value, 2**low)
        for r, word in enumerate(words):
            key, addend = (word >> 32) | 1, word % 2**32
            if r % 2 == 0:
                left ^= (right * key + addend) % 2**32 >> (32 - high)
            else:
                right ^= (left * key + addend) % 2**32 >> (32 - low)
        return left * 2**low + right

    result = []
    for start in range(size):
        value = network(start)
        while value >= size:
            value = network(value)
        result.append(value)
    return result


def by_torch(seed, size, **options):
    return reference.permutation(torch.tensor(seed), size, **options)


MAKERS = [
    pytest.param(by_torch, id="torch"),
    pytest.param(native.permutation, id="native", marks=needs_native),
]


def digest(permutation):
    return hashlib.sha256(permutation.numpy().astype("<i8").tobytes()).hexdigest()[:16]


@pytest.mark.parametrize(("size", "seed", "sample", "first", "sha"), GOLDEN)
@pytest.mark.parametrize("make", MAKERS)
def test_golden_values(make, size, seed, sample, first, sha):
    result = make(seed, size, samples=sample + 1)[sample]
    assert result.dtype == torch.int64
    assert result[:5].tolist() == first
    assert digest(result) == sha


@pytest.mark.parametrize(("size", "seed", "sample", "first", "sha"), GOLDEN)
def test_golden_values_of_the_public_function(size, seed, sample, first, sha):
    """It gives the shared permutation, which is sample 0."""
    result = gaussreg_fast.permutation(seed, size)
    assert (digest(result) == sha) == (sample == 0)


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS, size=st.integers(1, 600), sample=st.integers(0, 3))
def test_the_algorithm_written_twice_agrees(seed, size, sample):
    rows = by_torch(seed, size, samples=sample + 1)
    assert rows[sample].tolist() == permutation_by_ints(seed, sample, size)


@needs_native
@settings(max_examples=150, deadline=None)
@given(
    seed=SEEDS,
    size=st.integers(1, 3000) | st.sampled_from(TO_BYTES),
    samples=st.none() | st.integers(1, 4),
    inverse=st.booleans(),
)
def test_native_is_torch_bit_for_bit(seed, size, samples, inverse):
    want = by_torch(seed, size, samples=samples, inverse=inverse)
    got = native.permutation(seed, size, samples=samples, inverse=inverse)
    assert want.shape == ((size,) if samples is None else (samples, size))
    assert got.dtype == want.dtype
    assert torch.equal(got, want)


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("inverse", [False, True])
def test_row_0_is_the_shared_permutation_and_more_rows_change_no_row(make, inverse):
    rows = make(77, 300, samples=5, inverse=inverse)
    assert torch.equal(rows[0], make(77, 300, inverse=inverse))
    assert torch.equal(rows[:3], make(77, 300, samples=3, inverse=inverse))
    assert len({tuple(row) for row in rows.tolist()}) == 5


def assert_inverse_bijections(forward, backward, size):
    """Both hold 0..size-1 only, and each undoes the other, so both are bijections."""
    identity = torch.arange(size)
    for p in (forward, backward):
        assert p.shape == (size,)
        assert int(p.min()) == 0
        assert int(p.max()) == size - 1
    assert torch.equal(forward[backward], identity)
    assert torch.equal(backward[forward], identity)


def test_every_length_up_to_4096_is_a_bijection():
    for size in range(1, 4097):
        seed = size * 0x2545F4914F6CDD1D % 2**63
        forward = gaussreg_fast.permutation(seed, size)
        assert_inverse_bijections(
            forward, gaussreg_fast.permutation(seed, size, inverse=True), size
        )


@pytest.mark.parametrize("size", [1, 2, 3, 31, 32, 33, 63, 64, 65, 1000, 4095, 4096, 4097])
def test_bijections_of_the_torch_backend(size):
    forward, backward = by_torch(-size, size), by_torch(-size, size, inverse=True)
    assert_inverse_bijections(forward, backward, size)


@pytest.mark.parametrize("size", [2**20 + 1, 3_141_592, 9_999_991, 2**24 - 1, 2**24])
def test_long_bijections(size):
    forward = gaussreg_fast.permutation(size, size)
    backward = gaussreg_fast.permutation(size, size, inverse=True)
    assert_inverse_bijections(forward, backward, size)


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_a_seed_may_be_a_tensor(shape):
    seed, want = torch.full(shape, -5), gaussreg_fast.permutation(-5, 100)
    assert torch.equal(gaussreg_fast.permutation(seed, 100), want)
    assert torch.equal(reference.permutation(seed, 100), want)


def test_every_bit_of_the_seed_matters():
    seeds = [0, *(1 << bit for bit in range(63)), INT64_MIN]
    permutations = {tuple(gaussreg_fast.permutation(s, 64).tolist()) for s in seeds}
    assert len(permutations) == len(seeds)


def test_no_generator_is_read_or_moved():
    state = torch.get_rng_state()
    first = gaussreg_fast.permutation(3, 64)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(1)
    assert torch.equal(gaussreg_fast.permutation(3, 64), first)


def test_losses_use_this_permutation():
    """`permutation="shared"` and "per_sample" are the golden one and its rows."""
    x = torch.randn(3, 100, generator=torch.Generator().manual_seed(0))
    loss = gaussreg_fast.power_spectrum_loss
    for mode, index in (
        ("shared", gaussreg_fast.permutation(9, 100)),
        ("per_sample", by_torch(9, 100, samples=3)),
    ):
        keyed = loss(x, permutation=mode, seed=9, reduction="none")
        assert torch.equal(keyed, loss(x, permutation=index, reduction="none"))


@pytest.mark.parametrize(
    ("seed", "error"),
    [
        (None, TypeError),
        (1.0, TypeError),
        (True, TypeError),
        ("1", TypeError),
        (INT64_MAX + 1, ValueError),
        (INT64_MIN - 1, ValueError),
        (torch.tensor([1, 2]), ValueError),
        (torch.tensor([], dtype=torch.int64), ValueError),
        (torch.tensor(1, dtype=torch.int32), ValueError),
        (torch.tensor(1.0), ValueError),
        (torch.tensor(1, device="meta"), ValueError),
    ],
)
def test_bad_seeds(seed, error):
    with pytest.raises(error, match="seed"):
        gaussreg_fast.permutation(seed, 10)


@pytest.mark.parametrize("size", [0, -1, 2**31 + 1, 10.0, True, None, "10"])
def test_bad_lengths(size):
    with pytest.raises(ValueError, match=r"\bD\b"):
        gaussreg_fast.permutation(0, size)
