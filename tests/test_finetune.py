"""The worked examples of fine-tuning on the embedded digits, at a small size."""

import json
import sys
from functools import partial

import pytest
import torch

from gaussreg_fast.latent.__main__ import main
from gaussreg_fast.latent.digits import PROMPTS, REWARDS
from gaussreg_fast.latent.finetune import measures, personalisation, reward_tuning
from gaussreg_fast.latent.finetune import personalisation_report as shown
from gaussreg_fast.latent.finetune import reward_tuning_report as tilted
from gaussreg_fast.latent.finetune.model import DigitsModel
from gaussreg_fast.latent.finetune.personalisation import Arm, Personalisation
from gaussreg_fast.latent.finetune.reward_tuning import KINDS, RewardTuning

SMALL = partial(personalisation.Design, measured=(4, 20), per_prompt=4, ddim_steps=4)
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
    spreads = [measures.spread(part) for part in images.chunk(10)]
    assert min(spreads) > 0.1  # not ten times the same


def test_path_kl_of_the_sampler_is_that_of_its_means(model, other):
    """Every step's by diffusers' scheduler: its means with no noise, its own variance."""
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
    """Of what the model has never seen; the same seed is the same times and noises."""
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


def test_spread_and_nearest():
    images = torch.zeros(3, 1, 16, 16)
    images[1], images[2] = 1, 0.5
    torch.testing.assert_close(measures.spread(images), torch.tensor(2 / 3))
    weights = torch.tensor([1.0, 1, 0])  # only the black and the white one are ever drawn
    torch.testing.assert_close(measures.spread(images, weights), torch.tensor(1.0))
    found = measures.nearest(images, images[:2])
    torch.testing.assert_close(found, torch.tensor([0, 0, 0.5]), atol=1e-6, rtol=0)


# ---------------------------------------------------------------- personalisation


@pytest.fixture(scope="module")
def courses():
    ticks = []
    experiment = Personalisation(SMALL())
    arms = (Arm(), Arm("penalty", 500), Arm("decay", 60))
    result = [experiment.run(arm, lambda: ticks.append(0)) for arm in arms]
    assert len(ticks) == 3 * 20
    return experiment, result


def test_drift_keeps_the_model_nearer(courses):
    experiment, (free, penalty, decay) = courses
    for course in (free, penalty, decay):
        assert course.steps == [0, 4, 20]
        assert course.distance[0] == free.distance[0]
        assert course.drift[0] == course.moved[0] == 0
        assert course.agreement[0] == free.agreement[0]
        # It is learnt, whatever holds the model back.
        assert course.distance[-1] < 0.75 * course.distance[0]
    for kept in (penalty, decay):
        assert kept.drift[-1] < 0.5 * free.drift[-1]
        assert kept.moved[-1] < 0.9 * free.moved[-1]
    assert len(experiment.shown) == 4
    assert experiment.best_distance < free.distance[0]


def test_the_report_of_personalisation(courses, tmp_path):
    experiment, result = courses
    figures = shown.as_json(experiment, result)
    paths = shown.save(figures, result, tmp_path)
    assert [p.name for p in paths] == [f"personalisation.{e}" for e in ("png", "md", "json")]
    assert paths[0].read_bytes().startswith(b"\x89PNG")
    read = json.loads(paths[2].read_text())
    assert shown.markdown(read) == paths[1].read_text()
    rows = shown.table_rows(read)
    assert [row[0] for row in rows] == ["pretrained", "nothing", "penalty 500", "decay 60"]
    first, best = read["arms"][0]["distance"][0], read["best_distance"]
    assert read["matched_distance"] == pytest.approx(first + 0.8 * (best - first))


def test_where_the_matched_distance_is_not_reached(courses):
    experiment, result = courses
    figures = shown.as_json(experiment, result)
    figures["arms"][1]["steps_there"] = float("nan")
    assert shown.table_rows(figures)[2][-2:] == ["not reached", ""]


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
    """At the same gain KL takes the least in KL, and forward KL in forward KL."""
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
        results.append(tilted.Result(arm, tilt, tuning.draw(unet)))
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
    assert 0 < weights["effective"] < 1
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
    assert "decay 30" in output
    assert "forward_kl, 0.5" in output
