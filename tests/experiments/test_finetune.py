"""The worked examples of fine-tuning on the embedded digits, at a small size."""

import json
import sys
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from gaussreg_fast.__main__ import main
from gaussreg_fast._files import json_text
from gaussreg_fast.digits import PROMPTS, REWARDS, WEIGHTS
from gaussreg_fast.digits.data import Digits
from gaussreg_fast.experiments import measures
from gaussreg_fast.experiments.digits_model import DigitsModel
from gaussreg_fast.experiments.personalisation import report as shown
from gaussreg_fast.experiments.personalisation import study as personalisation
from gaussreg_fast.experiments.personalisation.study import Arm, Personalisation
from gaussreg_fast.experiments.reward_tuning import report as tilted
from gaussreg_fast.experiments.reward_tuning import study as reward_tuning
from gaussreg_fast.experiments.reward_tuning.study import KINDS, RewardTuning

SMALL = partial(personalisation.Design, measured=(4, 20), per_prompt=4, ddim_steps=4)
RATE = 5e-4  # learns in twenty steps
TILTS = reward_tuning.Design(gains=(0.5, 1.0), pool=48, drawn=16, ddim_steps=4, steps=30)


@pytest.fixture(scope="module")
def model():
    return DigitsModel()


@pytest.fixture(scope="module")
def other(model):
    """A UNet somewhat beside the pretrained one."""
    unet = model.copy()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in unet.parameters():
            p += 0.02 * p.abs().mean() * torch.randn(p.shape, generator=generator)
    return unet


# ---------------------------------------------------------------- the model of many steps


def test_many_steps_draw_what_the_prompts_say(model):
    prompts = [prompt for prompt in PROMPTS for _ in range(10)]
    latents, _ = model.sample(model.pretrained, model.embed(prompts), steps=8, eta=1.0, seed=3)
    images = model.decode(latents)
    assert images.shape == (100, 1, 16, 16)
    assert measures.agreement(images, prompts).mean() > 0.85
    assert measures.spreads(images).min() > 0.1  # not ten times the same


def test_path_kl_of_the_sampler_is_that_of_its_means(model, other):
    """Each step's KL uses diffusers' scheduler: its means without noise, and its variance."""
    hidden, steps, eta = model.embed(PROMPTS[:3]), 5, 0.7
    latents, kl = model.sample(other, hidden, steps=steps, eta=eta, seed=1, base=model.pretrained)
    scheduler = model._scheduler
    scheduler.set_timesteps(steps)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, 16, 8, 8, generator=generator)
    want = torch.zeros(3, dtype=torch.float64)
    with torch.no_grad():
        for t in scheduler.timesteps.tolist():
            v, v0 = (unet(x, t, hidden).sample for unet in (other, model.pretrained))
            silent = torch.zeros_like(x)
            mean, base = (
                scheduler.step(u, t, x, eta=eta, variance_noise=silent).prev_sample.double()
                for u in (v, v0)
            )
            if t >= 200:
                variance = eta**2 * scheduler._get_variance(t, t - 200).double()
                want += (mean - base).square().sum((1, 2, 3)) / (2 * variance)
            x = scheduler.step(v, t, x, eta=eta, generator=generator).prev_sample
    torch.testing.assert_close(latents, x)
    torch.testing.assert_close(kl.double(), want, rtol=1e-3, atol=0)
    assert want.min() > 0.01
    _, own = model.sample(
        model.pretrained, hidden, steps=steps, eta=eta, seed=1, base=model.pretrained
    )
    assert (own == 0).all()


def test_training_lowers_the_denoising_loss(model):
    """The model has never seen these images; the same seed draws the same times and noises."""
    stripes = (torch.arange(16) // 2 % 2).float().expand(4, 1, 16, 16)
    clean, _ = model.encode(stripes)
    hidden = model.embed(["a handwritten sks seven"]).expand(4, -1, -1)
    unet = model.copy()

    def loss(seed):
        return model.denoising_loss(unet, clean, hidden, torch.Generator().manual_seed(seed))

    before = loss(0).detach()
    assert before.shape == (4,)
    torch.testing.assert_close(loss(0).detach(), before)
    optimizer = torch.optim.Adam(unet.parameters(), lr=1e-3)
    for seed in range(1, 9):
        optimizer.zero_grad()
        loss(seed).mean().backward()
        optimizer.step()
    assert loss(0).mean() < 0.8 * before.mean()


def test_the_pretrained_model_predicts_what_the_loss_wants(model):
    """On real digits its error is far below that of predicting zero."""
    digits = Digits.load(WEIGHTS / "digits.safetensors")
    clean, _ = model.encode(digits.images()[:64])
    hidden = model.embed(PROMPTS)[digits.labels[:64]]

    def loss(unet):
        generator = torch.Generator().manual_seed(0)
        return model.denoising_loss(unet, clean, hidden, generator).mean()

    class Nothing(torch.nn.Module):
        def forward(self, x, times, hidden):
            return SimpleNamespace(sample=torch.zeros_like(x))

    with torch.no_grad():
        assert loss(model.pretrained) < 0.45 * loss(Nothing())
        assert 0.8 < loss(Nothing()) < 1.2  # v has unit variance, as noise and latents have


def test_spread_and_nearest():
    images = torch.zeros(3, 1, 16, 16)
    images[1], images[2] = 1, 0.5
    torch.testing.assert_close(measures.spread(images), torch.tensor(2 / 3))
    weights = torch.tensor([1.0, 1, 0])  # only the black and the white one are ever drawn
    torch.testing.assert_close(measures.spread(images, weights), torch.tensor(1.0))
    found = measures.nearest(images, images[:2])
    torch.testing.assert_close(found, torch.tensor([0, 0, 0.5]), atol=1e-6, rtol=0)


def test_agreement_and_whose_image_is_nearer():
    digits = Digits.load(WEIGHTS / "digits.safetensors")
    real, labels = digits.images()[:200], digits.labels[:200]
    right = [PROMPTS[label] for label in labels]
    wrong = [PROMPTS[(label + 1) % 10] for label in labels]
    assert measures.agreement(real, right).mean() > 0.95
    assert measures.agreement(real, wrong).mean() < 0.05
    mirrored = digits.images()[digits.labels == 7].flip(-1)
    assert measures.nearer_to_prompt(real, right, mirrored).all()
    signs = mirrored[::2]
    prompts = (list(PROMPTS) * 20)[: len(signs)]
    assert measures.nearer_to_prompt(signs, prompts, mirrored[1::2]).float().mean() < 0.1


def test_intervals_of_means():
    values = torch.cat([torch.full((40,), float(k)) for k in range(10)])
    found = measures.mean_estimate(values)  # prompts differ, but nothing within them
    assert [found[key] for key in ("value", "low", "high")] == pytest.approx([4.5] * 3)
    values = torch.randn(4000, generator=torch.Generator().manual_seed(0))
    found = measures.mean_estimate(values)
    assert found["high"] - found["low"] == pytest.approx(2 * 1.96 / 4000**0.5, rel=0.15)


# ---------------------------------------------------------------- personalisation


@pytest.fixture(scope="module")
def courses():
    ticks = []
    experiment = Personalisation(SMALL())
    arms = (Arm(lr=RATE), Arm("penalty", 500, RATE), Arm("decay", 60, RATE))
    result = [experiment.run(arm, lambda: ticks.append(0)) for arm in arms]
    assert len(ticks) == 3 * 20
    return experiment, result


def test_drift_keeps_the_model_nearer(courses):
    experiment, (free, penalty, decay) = courses
    for course in (free, penalty, decay):
        assert course.steps == [0, 4, 20]
        assert course.distance[0] == free.distance[0]
        assert course.drift[0] == course.moved[0] == 0
        assert torch.equal(course.known[0], free.known[0])
        # It is learnt, whatever holds the model back.
        assert course.distance[-1] < 0.75 * course.distance[0]
    for kept in (penalty, decay):
        assert kept.drift[-1] < 0.5 * free.drift[-1]
        assert kept.moved[-1] < 0.9 * free.moved[-1]
        assert kept.known[-1].mean() > free.known[-1].mean() + 0.1
    assert len(experiment.shown) == 4
    assert experiment.best_distance < free.distance[0]


def test_the_same_seed_is_the_same_course(courses):
    _, (free, *_) = courses
    short = Personalisation(SMALL(measured=(4,)))
    again = short.run(Arm(lr=RATE), lambda: None)
    assert again.distance == free.distance[:2]
    assert torch.equal(again.known[-1], free.known[1])


def test_the_report_of_personalisation(courses, tmp_path):
    experiment, result = courses
    figures = shown.as_json(experiment, result)
    paths = shown.save(figures, experiment, result, tmp_path)
    assert [p.name for p in paths] == [f"personalisation.{e}" for e in ("png", "md", "json")]
    assert paths[0].read_bytes().startswith(b"\x89PNG")
    read = json.loads(paths[2].read_text())
    assert shown.markdown(read) == paths[1].read_text()
    rows = shown.table_rows(read)
    names = ["pretrained", "nothing, lr 0.0005", "penalty 500", "decay 60"]
    assert [row[0] for row in rows] == names
    first, best = read["arms"][0]["distance"][0], read["best_distance"]
    assert read["matched_distance"] == pytest.approx(first + 0.75 * (best - first))
    assert read["arms"][0]["known_last"]["value"] == result[0].known[-1].mean().item()


def test_the_matched_distance_reached_and_not(courses, monkeypatch):
    experiment, result = courses
    monkeypatch.setattr(shown, "LEARNT", 0.3)
    figures = shown.as_json(experiment, result)
    arm, level = figures["arms"][0], figures["matched_distance"]
    want = [np.interp(-level, -np.array(arm["distance"]), arm[name]) for name in ("steps", "known")]
    assert (np.diff(arm["distance"]) < 0).all()  # as interpolation needs it
    found = [arm["steps_there"], arm["known_there"]["value"]]
    assert found == pytest.approx(want)
    assert arm["known_there"]["low"] <= want[1] <= arm["known_there"]["high"]
    monkeypatch.setattr(shown, "LEARNT", 5.0)
    figures = json.loads(json_text(shown.as_json(experiment, result)))
    assert figures["arms"][0]["steps_there"] is None
    assert shown.table_rows(figures)[1][-3:-1] == ["not reached", ""]


# ---------------------------------------------------------------- reward tuning


@pytest.fixture(scope="module")
def tuning():
    return RewardTuning(TILTS)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_earn_the_gain_and_are_of_mean_one(tuning, kind):
    reward = tuning.pool.reward.double()
    for gain in TILTS.gains:
        tilt = tuning.tilt(reward_tuning.Arm(kind, gain))
        by_prompt = tilt.weights.view(10, -1)
        torch.testing.assert_close(by_prompt.mean(1), torch.ones(10, dtype=torch.float64))
        earned = (tilt.weights * reward).mean() - reward.mean()
        assert earned.item() == pytest.approx(gain * tuning.scale, rel=1e-4)
        order = reward.view(10, -1).argsort(1)
        assert (by_prompt.gather(1, order).diff(dim=1) >= 0).all()


def test_divergences_differ_in_what_they_leave(tuning):
    """At the same gain KL costs the least in KL, and forward KL in forward KL."""
    kl, gamma, forward = (tuning.tilt(reward_tuning.Arm(k, 1.0)).weights for k in KINDS)

    def costs(w):
        return (w * w.log()).mean().item(), -w.log().mean().item()

    assert costs(kl)[0] < costs(gamma)[0] < costs(forward)[0]
    assert costs(forward)[1] < costs(gamma)[1] < costs(kl)[1]


def test_training_earns_reward(tuning, tmp_path):
    ticks, results = [], []
    for arm in (reward_tuning.Arm(), reward_tuning.Arm("gamma", 1.0)):
        tilt = tuning.tilt(arm)
        unet = tuning.train(tilt, lambda: ticks.append(0))
        results.append(tilted.Result(arm, tilt, tuning.draw(unet), 1.0))
    assert len(ticks) == 2 * TILTS.steps
    control, trained = (result.sampled for result in results)
    assert (trained.reward - control.reward).mean() > 0.3 * tuning.scale
    assert trained.path_kl.mean() > control.path_kl.mean() > 0
    assert (tuning.before.path_kl == 0).all()
    figures = tilted.as_json(tuning, results)
    paths = tilted.save(figures, results, tmp_path)
    assert paths[0].read_bytes().startswith(b"\x89PNG")
    read = json.loads(paths[2].read_text())
    assert tilted.markdown(read) == paths[1].read_text()
    for arm, result in zip(figures["arms"], results, strict=True):
        for name, values in (("path_kl", result.sampled.path_kl), ("spread", None)):
            interval = arm["trained"][name]
            assert interval["low"] < interval["value"] < interval["high"]
            if values is not None:
                assert interval["value"] == pytest.approx(values.mean().item(), rel=1e-5)
    weights = figures["arms"][1]["weights"]
    assert weights["gain"] == pytest.approx(1.0, rel=1e-3)
    shares = results[1].tilt.weights.view(10, -1) / TILTS.pool
    assert weights["effective"] == pytest.approx((1 / (shares**2).sum(1)).mean() / TILTS.pool)
    assert figures["arms"][0]["weights"]["effective"] == pytest.approx(1)
    assert weights["kl"] > 0


def test_the_reward_is_that_of_the_images(tuning):
    images = tuning.before.images
    prompts = [prompt for prompt in PROMPTS for _ in range(TILTS.drawn)]
    want = REWARDS["digits-slant"]()(images.expand(-1, 3, -1, -1), prompts)
    torch.testing.assert_close(tuning.before.reward, want)


# ---------------------------------------------------------------- the command


def test_the_command_runs_both(monkeypatch, tmp_path, capsys):
    design = partial(reward_tuning.Design, gains=(0.5,), pool=8, drawn=4, ddim_steps=2, steps=1)
    monkeypatch.setattr(reward_tuning, "Design", design)
    small = partial(SMALL, measured=(1, 2), per_prompt=2, ddim_steps=2)
    monkeypatch.setattr(personalisation, "Design", small)
    command = ["gaussreg-fast", "demo", "--out", str(tmp_path)]
    both = ["--experiment", "personalisation", "--experiment", "reward-tuning"]
    monkeypatch.setattr(sys, "argv", [*command, *both])
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    output = capsys.readouterr().out
    names = {
        f"{n}.{e}" for n in ("personalisation", "reward-tuning") for e in ("png", "md", "json")
    }
    assert {path.name for path in tmp_path.iterdir()} == names
    assert all(name in output.replace("\n", "") for name in names)
    assert "decay 50" in output
    assert max(map(len, output.splitlines())) <= 80 + len(str(tmp_path))
    assert "forward_kl, 0.5" in output
