"""The statistics of the frontier experiment, on curves whose answer is known."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gaussreg_fast.experiments import statistics
from gaussreg_fast.experiments.frontier import analysis

STEPS = 21


def curves(slope, latents=60, seeds=2, noise=0.5, seed=0, speed=1.0):
    """Rewards rise from 0 to `speed`; the held-out score is slope * reward, plus noise that a
    latent keeps."""
    rng = np.random.default_rng(seed)
    reward = np.linspace(0, speed, STEPS)
    result = []
    for _ in range(seeds):
        own = rng.normal(size=(latents, 1)) * noise
        result.append({"reward": np.tile(reward, (latents, 1)), "held_out": slope * reward + own})
    return result


@settings(deadline=None)
@given(
    steps=st.lists(st.floats(0.01, 10), min_size=3, max_size=30),
    measure=st.lists(st.floats(-10, 10), min_size=30, max_size=30),
    share=st.floats(0, 1),
)
def test_a_rising_reward_is_interpolated_as_numpy_does(steps, measure, share):
    reward = np.cumsum(steps)
    values = np.array(measure[: len(reward)])
    level = reward[0] + share * (reward[-1] - reward[0])
    expected = np.interp(level, reward, values)
    assert statistics.at_level(reward, values, level) == pytest.approx(expected, abs=1e-6)


def test_the_first_crossing_counts():
    reward = np.array([0.0, 2.0, 0.0, 4.0])
    steps = np.arange(4.0)
    assert statistics.at_level(reward, steps, 1.0) == 0.5
    assert statistics.at_level(reward, steps, 3.0) == 2.75
    assert statistics.at_level(reward, steps, -1.0) == 0
    assert np.isnan(statistics.at_level(reward, steps, 5.0))


def test_the_matched_reward_is_where_a_fifth_of_the_votes_is_lost():
    data = curves(1.0, speed=3.0)
    for part in data:
        part["agree"] = np.tile(np.linspace(0.9, 0.5, STEPS), (60, 1))
    # 0.9 -> 0.72 is 0.45 of the way down, where the reward is 0.45 of its way up.
    assert analysis.hacked_reward(data) == pytest.approx(0.45 * 3)
    for part in data:
        part["agree"] = np.ones((60, STEPS))
    assert analysis.hacked_reward(data) == pytest.approx(1.5)  # half of the gain


def test_resamples_keep_every_seed_its_share():
    weights = analysis.resamples(curves(1.0, latents=30, seeds=3), draws=50)
    assert weights.shape == (50, 90)
    np.testing.assert_allclose(weights.sum(1), 1)
    for part in np.split(weights, 3, axis=1):
        np.testing.assert_allclose(part.sum(1), 1 / 3)
    assert len(np.unique(weights.round(9))) > 2


def test_intervals_are_those_of_the_mean():
    """Bootstrap intervals of a mean: the normal ones, about."""
    one = curves(0.0, latents=400, seeds=1, noise=1.0)
    found = analysis.compare(one, one, 0.5, ["held_out"])["iterations"]["held_out"]
    data = one[0]["held_out"][:, -1]
    error = data.std() / math.sqrt(len(data))
    assert found["value"] == pytest.approx(data.mean())
    assert found["low"] == pytest.approx(data.mean() - 1.96 * error, abs=0.3 * error)
    assert found["high"] == pytest.approx(data.mean() + 1.96 * error, abs=0.3 * error)


def test_differences_are_paired():
    """Variation that both methods' latents share does not widen the difference's interval."""
    base, better = curves(-1.0, noise=5.0), curves(-0.8, noise=5.0)
    found = analysis.compare(better, base, 0.5, ["held_out"])
    difference = found["difference_reward"]["held_out"]
    assert difference["value"] == pytest.approx(0.1)
    assert difference["high"] - difference["low"] < 1e-6
    assert found["reward"]["held_out"]["high"] - found["reward"]["held_out"]["low"] > 1
    assert analysis.verdict(difference, lost=-0.5) == "better"
    assert found["reached"]["value"] == pytest.approx(10)


def test_a_slower_guard_is_no_better_at_matched_reward():
    """Half the way up the same line: ahead after as many iterations, level at the same reward."""
    base, slow = curves(-1.0), curves(-1.0, speed=0.6)
    found = analysis.compare(slow, base, 0.5, ["held_out"])
    assert analysis.verdict(found["difference_iterations"]["held_out"], -1.0) == "better"
    assert found["difference_reward"]["held_out"]["value"] == pytest.approx(0, abs=1e-9)
    never = analysis.compare(curves(-1.0, speed=0.3), base, 0.5, ["held_out"])
    assert analysis.verdict(never["difference_reward"]["held_out"], -0.5) == "not reached"


def test_noise_is_a_tie():
    """Independent arms of the same law: 5 % may be called different, not more."""
    calls = [
        analysis.verdict(
            analysis.compare(
                curves(-1.0, seed=2 * k + 1), curves(-1.0, seed=2 * k + 2), 0.5, ["held_out"]
            )["difference_reward"]["held_out"],
            lost=0.0,
        )
        for k in range(40)
    ]
    assert calls.count("tie") >= 34


@pytest.mark.parametrize(
    ("low", "value", "high", "said"),
    [(0.1, 0.2, 0.3, "better"), (-0.3, -0.2, -0.1, "worse"), (-0.1, 0.2, 0.5, "tie"),
     (0.01, 0.04, 0.07, "tie"), (-0.07, -0.04, -0.01, "tie"),
     (math.nan, math.nan, math.nan, "not reached"), (None, None, None, "not reached")],
)  # fmt: skip
def test_verdicts(low, value, high, said):
    """A twentieth of the unit that the baseline lost does not count."""
    assert analysis.verdict({"value": value, "low": low, "high": high}, lost=-1.0) == said


def test_bands_end_where_the_reward_does():
    band = analysis.band(curves(-1.0, speed=0.5), "held_out", np.linspace(0, 1, 5))
    assert band["reward"] == [0, 0.25, 0.5, 0.75, 1]
    np.testing.assert_allclose(np.diff(band["value"][:3]), -0.25)
    assert np.isnan(band["value"][3:]).all()
    assert all(low < high for low, high in zip(band["low"][:3], band["high"][:3], strict=True))
