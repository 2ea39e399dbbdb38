"""How random permutation v1 is: every criterion passes it and fails the same network at 4 rounds.

Seeds are fixed, so each figure is the same in every run. All are z-scores, about N(0, 1) for
truly random permutations. `python tests/functional/test_permutation_quality.py` prints them.
"""

import functools
import math

import numpy as np
import pytest
import torch
from scipy import stats

import gaussreg_fast

SEED = torch.tensor(2024)
COUNT = 20_000
SIZES = (33, 64, 100, 256)
LIMIT = 4.0  # for |z|; the weak network has to exceed WEAK
WEAK = 10.0


# ---------------------------------------------------------------- permutations to judge


def by_seed(count, size):
    """The permutations of consecutive seeds."""
    return np.stack([gaussreg_fast.permutation(seed, size).numpy() for seed in range(count)])


def by_sample(count, size):
    """The permutations of one seed, one per sample."""
    return torch.ops.gaussreg_fast.permutation(SEED, size, count, False, "auto").numpy()


def mix64(z):
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def weakened(count, size, rounds=4):
    """The network of permutation v1 with another number of rounds, consecutive seeds."""
    golden = np.array([0x9E3779B97F4A7C15], dtype=np.uint64)
    bits = (size - 1).bit_length()
    low, high = bits // 2, bits - bits // 2
    state = mix64(np.arange(count, dtype=np.uint64) + golden)
    words = [mix64(state + golden * np.uint64(r + 1))[:, None] for r in range(rounds)]

    def network(value):
        left, right = value >> low, value & ((1 << low) - 1)
        for r, word in enumerate(words):
            key, addend = (word >> np.uint64(32)).astype(np.uint32) | 1, word.astype(np.uint32)
            if r % 2 == 0:
                left = left ^ ((right * key + addend) >> (32 - high))
            else:
                right = right ^ ((left * key + addend) >> (32 - low))
        return (left << low) | right

    value = network(np.broadcast_to(np.arange(size, dtype=np.uint32), (count, size)))
    while (outside := value >= size).any():
        value = np.where(outside, network(value), value)
    return value.astype(np.int64)


def random(count, size):
    generator = torch.Generator().manual_seed(size)
    return torch.stack([torch.randperm(size, generator=generator) for _ in range(count)]).numpy()


# ---------------------------------------------------------------- criteria on (count, D) arrays


def chi_square_z(chi, freedom):
    return (chi - freedom) / math.sqrt(2 * freedom)


def positions(p):
    """Element v lands on position j equally often, for all v and j."""
    count, size = p.shape
    table = np.bincount((p + size * np.arange(size)).ravel(), minlength=size * size)
    chi = ((table - count / size) ** 2).sum() / (count / size)
    return chi_square_z(chi * (size - 1) / size, (size - 1) ** 2)


def fixed_points(p):
    """The number of fixed points has the Poisson(1) law."""
    number = np.minimum((p == np.arange(p.shape[1])).sum(1), 6)
    law = stats.poisson.pmf(np.arange(7), 1)
    law[6] = 1 - law[:6].sum()
    expected = law * len(p)
    chi = ((np.bincount(number, minlength=7) - expected) ** 2 / expected).sum()
    return chi_square_z(chi, 6)


def standardised(p):
    """Values 0..D-1 scaled to mean 0 and variance 1."""
    size = p.shape[1]
    return (p - (size - 1) / 2) / math.sqrt((size**2 - 1) / 12)


def distance_correlation(p, distance):
    """Per position j: z of the correlation of p[j] and p[j + distance], -1/(D-1) at random."""
    q = standardised(p)
    products = q[:, distance:] * q[:, :-distance]
    gap = products.mean(0) + 1 / (p.shape[1] - 1)
    return gap / (products.std(0) / math.sqrt(len(p)))


def neighbours(p):
    z = distance_correlation(p, 1)
    return chi_square_z((z**2).sum(), len(z))


def half_distance(p):
    z = distance_correlation(p, p.shape[1] // 2)
    return chi_square_z((z**2).sum(), len(z))


def consecutive(p):
    """The mean correlation of each permutation with the next, 0 at random, variance 1/(D-1)."""
    q = standardised(p)
    r = (q[1:] * q[:-1]).mean(1)
    return r.mean() * math.sqrt(len(r) * (p.shape[1] - 1))


def consecutive_squares(p):
    """The mean of the squares of those correlations."""
    q = standardised(p)
    r = (q[1:] * q[:-1]).mean(1)
    return chi_square_z((r**2).sum() * (p.shape[1] - 1), len(r))


def all_pairs(p):
    """The mean squared correlation over all pairs of permutations, and so of positions."""
    count, size = p.shape
    q = standardised(p)
    squares = (np.square(q.T @ q).sum() / size**2 - count) / 2
    return chi_square_z(squares * (size - 1), count * (count - 1) / 2)


def arrangements(p):
    """Test whether all D! permutations of a tiny D are equally frequent."""
    count, size = p.shape
    cells = math.factorial(size)
    seen = np.unique(p @ size ** np.arange(size), return_counts=True)[1]
    chi = ((seen - count / cells) ** 2).sum() / (count / cells) + (
        cells - len(seen)
    ) * count / cells
    return chi_square_z(chi, cells - 1)


CRITERIA = (
    positions,
    fixed_points,
    neighbours,
    half_distance,
    consecutive,
    consecutive_squares,
    all_pairs,
)


@functools.cache
def judged(make, size, count=COUNT):
    p = make(count, size)
    return {criterion.__name__: criterion(p) for criterion in CRITERIA}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("make", [by_seed, by_sample, random], ids=lambda f: f.__name__)
def test_permutations_are_random(make, size):
    """`random`, torch.randperm, shows that the criteria judge true randomness rightly."""
    scores = judged(make, size)
    assert max(map(abs, scores.values())) < LIMIT, scores


@pytest.mark.parametrize("make", [by_seed, by_sample], ids=lambda f: f.__name__)
@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_all_permutations_of_a_tiny_length_are_equally_likely(make, size):
    assert abs(arrangements(make(COUNT, size))) < LIMIT


def repeated(count, size):
    return np.repeat(random(count // 2, size), 2, axis=0)


def mirrored(count, size):
    """Successors alike or reversed, by turns: correlated, but not on average."""
    p = repeated(count, size)
    p[3::4] = size - 1 - p[3::4]
    return p


def test_weakened_is_the_same_network():
    assert np.array_equal(weakened(40, 100, rounds=12), by_seed(40, 100))


@pytest.mark.parametrize(
    ("bad", "criterion", "sizes"),
    [
        (weakened, "positions", (33,)),
        (weakened, "fixed_points", SIZES),
        (weakened, "neighbours", (33,)),
        (weakened, "half_distance", (33, 64, 256)),
        (weakened, "all_pairs", SIZES),
        (repeated, "consecutive", SIZES),
        (mirrored, "consecutive_squares", SIZES),
    ],
    ids=lambda v: v.__name__ if callable(v) else None,
)
def test_every_criterion_finds_a_bad_generator(bad, criterion, sizes):
    for size in sizes:
        assert judged(bad, size)[criterion] > WEAK


# ---------------------------------------------------------------- losses of structured samples

KS_COUNTS = {256: 10_000, 1024: 5_000, 4096: 2_500}
KS_LIMIT = 1e-3  # for p; the weak network has to stay under KS_WEAK
KS_WEAK = 1e-12


def structured(size):
    """Samples of mean 0 and about variance 1 that are anything but noise, as 4 x H x W."""
    j = np.arange(size)
    side = math.isqrt(size // 4)
    row, column = np.divmod(j % (size // 4), side)
    return {
        "checkerboard": np.where((row + column) % 2, 1.0, -1.0),
        "ramp": np.linspace(-math.sqrt(3), math.sqrt(3), size),
        "constant per channel": np.repeat([-1.3, -0.5, 0.5, 1.3], size // 4),
        "sinusoid": math.sqrt(2) * np.sin(2 * math.pi * 17 * j / size),
    }


def power_losses(x, p):
    """The power-spectrum loss of x under each row of p."""
    parts = [
        gaussreg_fast.power_spectrum_loss(
            x.expand(len(rows), -1), permutation=torch.from_numpy(rows), reduction="none"
        )
        for rows in np.array_split(p, 10)
    ]
    return torch.cat(parts).numpy()


@functools.cache
def ks_p_values(make, size):
    """Two-sample Kolmogorov-Smirnov p of the losses under `make` and under torch.randperm."""
    count = KS_COUNTS[size]
    p, truth = make(count, size), random(count, size)
    samples = {name: torch.from_numpy(x).float() for name, x in structured(size).items()}
    return {
        name: stats.ks_2samp(power_losses(x, p), power_losses(x, truth)).pvalue
        for name, x in samples.items()
    }


@pytest.mark.parametrize("size", KS_COUNTS)
@pytest.mark.parametrize("make", [by_seed, by_sample], ids=lambda f: f.__name__)
def test_structured_samples_lose_as_under_true_permutations(make, size):
    p_values = ks_p_values(make, size)
    assert min(p_values.values()) > KS_LIMIT, p_values


@pytest.mark.parametrize("size", KS_COUNTS)
def test_structured_samples_find_a_weak_network(size):
    p_values = ks_p_values(weakened, size)
    assert max(p_values.values()) < KS_WEAK, p_values


def main():
    families = (by_seed, by_sample, random, weakened)
    print(f"z-scores of {COUNT} permutations; accepted: |z| < {LIMIT}")
    for size in SIZES:
        for make in families:
            scores = "  ".join(f"{name} {z:+.2f}" for name, z in judged(make, size).items())
            print(f"D={size:<5} {make.__name__:10} {scores}")
    print(f"Kolmogorov-Smirnov p against torch.randperm; accepted: p > {KS_LIMIT}")
    for size, count in KS_COUNTS.items():
        for make in (by_seed, by_sample, weakened):
            values = "  ".join(f"{name} {p:.3g}" for name, p in ks_p_values(make, size).items())
            print(f"D={size:<5} n={count:<6} {make.__name__:10} {values}")


if __name__ == "__main__":
    main()
