"""The frontier experiment on the embedded model, at a small size."""

import json
import os

import numpy as np
import pytest

from gaussreg_fast._files import json_text
from gaussreg_fast.experiments.frontier import analysis as frontier_analysis
from gaussreg_fast.experiments.frontier import report as frontier_report
from gaussreg_fast.experiments.frontier import study as frontier

DESIGN = frontier.Design(latents=10, seeds=(0, 1), iterations=6, shuffles=3)


@pytest.fixture(scope="module")
def result():
    calls = []
    experiment = frontier.Experiment(None, calls.append)
    arms = frontier.arms(DESIGN, frontier.TUNED)
    curves = {arm.name: experiment.curves(DESIGN, arm) for arm in arms}
    assert len(calls) == frontier.iterations_of(DESIGN, len(arms))
    return (
        arms,
        curves,
        frontier_report.as_json(DESIGN, arms, curves, {"kl": {0.3: -1.0, 1.0: float("nan")}}),
    )


def test_all_guards_start_alike_and_raise_the_reward(result):
    arms, curves, _ = result
    assert len(arms) == 8
    base = curves[frontier.BASELINE]
    for arm in arms:
        for seed, part in enumerate(curves[arm.name]):
            for name in frontier.MEASURES:
                assert part[name].shape == (10, 7)
                np.testing.assert_array_equal(part[name][:, 0], base[seed][name][:, 0])
            assert (part["reward"][:, -1] > part["reward"][:, 0]).mean() > 0.8
            assert part[frontier.PICTURES].shape == (10, 7, 16, 16)


def test_seeds_share_no_noise():
    seeds = [sample.seed for seed in (0, 1, 2, 100) for sample in frontier.FULL.samples(seed)]
    assert len(set(seeds)) == len(seeds) == 800
    assert {s.prompt for s in DESIGN.samples(0)} == set(frontier.PROMPTS)


def test_the_first_steps_are_of_the_same_length(result):
    """Guards differ in direction alone: after one clipped step all are as far from the start."""
    arms, curves, _ = result
    first = np.array([curves[arm.name][0]["distance"][:, 1] for arm in arms[:-1]])
    expected = 10.0 * 0.01 * 1.9 / np.sqrt(1024)  # lr, clip, Nesterov's first step
    np.testing.assert_allclose(first, expected, rtol=1e-3)


def test_cells_are_kept_and_not_run_again(tmp_path):
    calls = []
    design = frontier.Design(latents=10, seeds=(0,), iterations=2)
    arm = frontier.arm("mpgr", 1.0, design)
    experiment = frontier.Experiment(tmp_path, calls.append)
    first = experiment.curves(design, arm)
    assert len(list(tmp_path.iterdir())) == 1
    experiment._run = None  # nothing may be run any more
    second = experiment.curves(design, arm)
    for name in (*frontier.MEASURES, frontier.PICTURES):
        np.testing.assert_array_equal(first[0][name], second[0][name])
    assert len(calls) == 2 * 3
    with pytest.raises(TypeError):  # another design is another cell
        experiment.curves(frontier.Design(latents=10, seeds=(0,), iterations=3), arm)


@pytest.mark.parametrize("keep", [0, 1, 300, 0.5, 0.99])
def test_a_cell_that_is_cut_short_is_run_again(tmp_path, keep):
    design = frontier.Design(latents=10, seeds=(0,), iterations=1)
    arm = frontier.arm("mpgr", 1.0, design)
    experiment = frontier.Experiment(tmp_path, lambda name: None)
    (first,) = experiment.curves(design, arm)
    (path,) = tmp_path.iterdir()
    os.truncate(path, keep if isinstance(keep, int) else int(keep * path.stat().st_size))
    (second,) = experiment.curves(design, arm)
    for name in (*frontier.MEASURES, frontier.PICTURES):
        np.testing.assert_array_equal(first[name], second[name])


def test_the_table_says_what_the_curves_say(result):
    arms, curves, summary = result
    rows = frontier_report.table_rows(summary)
    assert [row[0] for row in rows] == [arm.name for arm in arms]
    level = frontier_analysis.hacked_reward(curves["none"])
    assert summary["matched_reward"] == level
    for arm, row, stored in zip(arms, rows, summary["arms"], strict=True):
        own = curves[arm.name]
        last = np.concatenate([part["reward"][:, -1] for part in own]).mean()
        assert row[2] == f"{last:.3f}"
        reached = frontier_analysis.at_reward(own, "held_out", level)
        assert stored["reward"]["held_out"]["value"] == pytest.approx(reached, nan_ok=True)
    none = summary["arms"][0]["difference_reward"]["held_out"]
    assert none["value"] == none["low"] == none["high"] == 0


def test_it_is_saved_and_read_back(result, tmp_path):
    _, curves, summary = result
    paths = frontier_report.save(summary, curves, tmp_path)
    assert [p.name for p in paths] == ["frontier.png", "frontier.md", "frontier.json"]
    stored = json.loads((tmp_path / "frontier.json").read_text())
    assert stored == json.loads(json_text(summary))
    assert frontier_report.markdown(stored) == (tmp_path / "frontier.md").read_text()
    statements = frontier_report.statements(stored)
    assert len(statements) == 2
    for arm in stored["arms"][1:]:
        assert all(arm["name"] in line for line in statements)


def test_tuning_chooses_the_weight_with_the_best_held_out_score(monkeypatch):
    """The curves are made up: a weight that never reaches the reward cannot be chosen."""

    def curves(self, design, arm):
        weight = arm.guard.weight
        speed = {0.3: 0.9, 1.0: 0.8, 3.0: 0.1}[weight]
        score = {0.3: 0.2, 1.0: 0.5, 3.0: 9.0}[weight]
        ramp = np.tile(np.linspace(0, 1, 11), (4, 1))
        return [{"reward": ramp * speed, "held_out": ramp * score, "agree": 1 - ramp}]

    monkeypatch.setattr(frontier.Experiment, "curves", curves)
    experiment = frontier.Experiment(None, lambda name: None)
    scores = experiment.tune()
    assert set(frontier.best_weights(scores).values()) == {1.0}
    assert all(np.isnan(by_weight[3.0]) for by_weight in scores.values())
    assert frontier.best_weights({"kl": {0.3: np.nan, 1.0: np.nan}}) == {"kl": 0.3}
