"""The optimisation loop on a model small enough to check every step by hand."""

import math

import pytest
import torch
from toy_latents import (
    OPTIMIZERS,
    SHAPE,
    ToyModel,
    brightness,
    contrast,
    problem,
    red,
    run,
    samples,
    sgd,
)

import gaussreg_fast
from gaussreg_fast.errors import InputError
from gaussreg_fast.latent.guards import GUARDS, Guard
from gaussreg_fast.latent.loop import Batch
from gaussreg_fast.latent.problem import FAILED, RUNNING, STOPPED, starting_noise

EVERY_GUARD = [Guard(name) for name in GUARDS if name != "projection"]
EVERY_GUARD += [Guard("projection", project="gradient"), Guard("projection", project="both")]
EVERY_GUARD += [Guard("mpgr", rescale=True)]
GUARD_NAMES = [f"{g.name}-{g.project}-{g.rescale}" for g in EVERY_GUARD]


def rows(batch):
    return (batch.latents.detach() - batch.start).flatten(1)


# ---------------------------------------------------------------- what a step does


def test_iterates_are_one_more_than_steps_and_the_first_is_the_noise():
    batch = Batch(problem(iterations=3), samples(2))
    records = run(batch)
    assert [r.iteration for r in records] == [0, 1, 2, 3]
    assert torch.equal(records[0].latents, starting_noise(samples(2), SHAPE))
    assert torch.equal(records[-1].latents, batch.latents.detach())
    assert all(r.images.shape == (2, 3, 8, 8) for r in records)


def test_noise_depends_on_the_seed_alone():
    whole = starting_noise(samples(4), SHAPE)
    for k, sample in enumerate(samples(4)):
        assert torch.equal(starting_noise([sample], SHAPE)[0], whole[k])
    assert abs(float(whole.std()) - 1) < 0.05


def test_values_are_those_of_the_rewards():
    rewards = {"brightness": (brightness, 2.0), "red": (red, -0.5)}
    record = Batch(problem(rewards=rewards), samples(3)).step()
    one, two = brightness(record.images, []), red(record.images, [])
    for name, value in {
        "brightness": one, "red": two, "reward": 2 * one - two / 2,
        "held_out/contrast": contrast(record.images, []), "held_out": contrast(record.images, []),
    }.items():  # fmt: skip
        torch.testing.assert_close(record.values[name], value.double(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("guard", [Guard("kl", 0.3), Guard("norm", 0.01)], ids=lambda g: g.name)
def test_steps_are_those_of_the_formulas(guard, momentum):
    """Nesterov's SGD on -reward + weight * loss, clipped per sample, in float64 by autograd."""
    lr, limit, model = 3.0, 0.02, ToyModel()
    batch = Batch(
        problem(guard=guard, optimizer=sgd(lr, momentum), clip=limit, iterations=4), samples(3)
    )
    run(batch)
    x = starting_noise(samples(3), SHAPE).double()
    model.mix = model.mix.double()
    loss = {"kl": gaussreg_fast.kl_loss, "norm": gaussreg_fast.norm_loss}[guard.name]
    velocity = torch.zeros_like(x)
    for _ in range(4):
        leaf = x.requires_grad_()
        image = model.generate(leaf, model.encode([s.prompt for s in samples(3)]), seeds=[0] * 3)
        total = -image.mean((1, 2, 3)) + guard.weight * loss(leaf, reduction="none")
        (g,) = torch.autograd.grad(total.sum(), leaf)
        norm = g.flatten(1).norm(dim=1)
        g = g * (limit / norm).clamp(max=1)[:, None, None, None]
        velocity = momentum * velocity + g
        x = (x - lr * (g + momentum * velocity if momentum else g)).detach()
    torch.testing.assert_close(batch.latents.detach().double(), x, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("guard", EVERY_GUARD, ids=GUARD_NAMES)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_samples_do_not_see_each_other(guard, name):
    if guard.name == "prno":
        guard = Guard("prno", options={"shuffles": 5})
    options = {"guard": guard, "optimizer": OPTIMIZERS[name], "clip": 0.01, "iterations": 3}
    together = Batch(problem(**options), samples(4))
    run(together)
    for k, sample in enumerate(samples(4)):
        alone = Batch(problem(**options), [sample])
        run(alone)
        torch.testing.assert_close(together.latents[k], alone.latents[0], rtol=2e-4, atol=2e-5)
        assert not torch.equal(alone.latents[0], alone.start[0])


def test_every_gradient_is_clipped_by_itself():
    pushes = {0: 1e-4, 1: 1.0, 2: 100.0}

    def reward(images, prompts):
        return brightness(images, prompts) * torch.tensor([pushes[int(p[-1])] for p in prompts])

    free = Batch(
        problem(rewards={"r": (reward, 1.0)}, optimizer=sgd(1.0), iterations=1), samples(3)
    )
    record = free.step()
    norms = record.values["reward_gradient"]
    tight = Batch(
        problem(rewards={"r": (reward, 1.0)}, optimizer=sgd(1.0), clip=1e-3, iterations=1),
        samples(3),
    )
    tight.step()
    moved = rows(tight).norm(dim=1).double()
    torch.testing.assert_close(moved, norms.clamp(max=1e-3), rtol=1e-3, atol=1e-6)
    assert (norms > 1e-3).tolist() == [False, True, True]


def test_a_rescaled_guard_pulls_as_hard_as_the_reward_whatever_its_scale():
    def step(scale, weight):
        options = {
            "rewards": {"r": (brightness, scale)}, "optimizer": sgd(1 / scale), "iterations": 1,
            "guard": Guard("kl", weight, rescale=True),
        }  # fmt: skip
        batch = Batch(problem(**options), samples(2))
        batch.step()
        return rows(batch)

    torch.testing.assert_close(step(1.0, 0.7), step(1e4, 0.7), rtol=1e-2, atol=1e-5)
    alone, both = step(1.0, 0.0), step(1.0, 0.7)
    pull = (both - alone).norm(dim=1)
    torch.testing.assert_close(pull, 0.7 * alone.norm(dim=1), rtol=1e-3, atol=1e-6)


def test_projections_are_of_the_gradient_and_of_both():
    batch = Batch(problem(guard=Guard("projection", project="gradient"), iterations=1), samples(2))
    record = batch.step()
    leaf = record.latents.clone().requires_grad_()
    image = batch.problem.model.generate(
        leaf, batch.problem.model.encode([s.prompt for s in samples(2)]), seeds=[0, 0]
    )
    (gradient,) = torch.autograd.grad(-brightness(image, []).sum(), leaf)
    expected = -50 * gaussreg_fast.project_white_noise(gradient)
    torch.testing.assert_close(rows(batch), expected.flatten(1), rtol=1e-3, atol=1e-3)

    both = Batch(problem(guard=Guard("projection", project="both"), iterations=3), samples(2))
    run(both)
    x = both.latents.detach()
    torch.testing.assert_close(gaussreg_fast.project_white_noise(x), x, rtol=1e-4, atol=1e-4)


def test_a_projected_gradient_of_zero_moves_nothing():
    batch = Batch(
        problem(rewards={"zero": (lambda i, p: 0 * brightness(i, p), 1.0)},
                guard=Guard("projection", project="gradient")), samples(2))  # fmt: skip
    run(batch)
    assert torch.equal(batch.latents.detach(), batch.start)


def test_the_guard_alone_can_be_followed():
    """Without rewards the guard alone moves the noise."""
    start = 1.5 * starting_noise(samples(2), SHAPE)
    batch = Batch(problem(rewards={}, guard=Guard("kl"), optimizer=sgd(100.0)), samples(2), start)
    records = run(batch)
    assert (records[-1].values["guard"] < 0.01 * records[0].values["guard"]).all()


def test_permutations_are_drawn_anew_and_repeat_with_the_seed():
    def final(seed):
        batch = Batch(problem(guard=Guard("mpgr"), optimizer=sgd(1.0), seed=seed), samples(1))
        return run(batch)[-1].latents

    assert torch.equal(final(1), final(1))
    assert not torch.equal(final(1), final(2))


# ---------------------------------------------------------------- trouble stays where it is


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_reward_that_is_not_finite_ends_its_sample_alone(bad):
    def reward(images, prompts):
        value = brightness(images, prompts)
        calls.append(1)
        broken = torch.tensor([p.endswith("1") and len(calls) == 3 for p in prompts])
        return torch.where(broken, bad, value)

    calls = []
    batch = Batch(problem(rewards={"r": (reward, 1.0)}), samples(3))
    records = run(batch)
    assert batch.status.tolist() == [RUNNING, FAILED, RUNNING]
    assert [len(r.samples) for r in records] == [3, 3, 3, 2, 2, 2, 2, 2, 2]
    assert records[2].status.tolist() == [RUNNING, FAILED, RUNNING]
    clean = Batch(problem(), samples(3))
    run(clean)
    assert torch.equal(batch.latents[[0, 2]], clean.latents[[0, 2]])
    assert torch.equal(batch.latents[1].detach(), records[2].latents[1])
    assert batch.latents.isfinite().all()
    assert batch.selection.iteration[1] < 2
    assert batch.selection.latents.isfinite().all()


def test_a_gradient_that_is_not_finite_ends_its_sample_alone():
    class Poison(torch.autograd.Function):
        @staticmethod
        def forward(ctx, images):
            return images.clone()

        @staticmethod
        def backward(ctx, gradient):
            if len(gradient) == 1:  # the other, when this one is gone
                return gradient
            return torch.cat([gradient[:1] * math.nan, gradient[1:]])

    batch = Batch(problem(rewards={"r": (lambda i, p: brightness(Poison.apply(i), p), 1.0)},
                          iterations=1), samples(2))  # fmt: skip
    run(batch)
    assert batch.status.tolist() == [FAILED, RUNNING]
    assert batch.latents.isfinite().all()
    assert torch.equal(batch.latents[0].detach(), batch.start[0])


def test_all_samples_failing_ends_the_batch():
    batch = Batch(
        problem(rewards={"r": (lambda i, p: brightness(i, p) * math.nan, 1.0)}), samples(2)
    )
    assert len(run(batch)) == 1
    assert torch.equal(batch.selection.latents, batch.start)


@pytest.mark.parametrize(
    ("latents", "said"),
    [
        (torch.zeros(2, 4, 8, 7), r"shape \(2, 4, 8, 8\), got \(2, 4, 8, 7\)"),
        (torch.zeros(1, *SHAPE), r"got \(1, 4, 8, 8\)"),
        (torch.full((2, *SHAPE), math.nan), "finite"),
        (torch.full((2, *SHAPE), 1e300, dtype=torch.float64), "finite in float32"),
        (torch.zeros(2, *SHAPE, dtype=torch.complex64), "real floating"),
    ],
)
def test_latents_that_do_not_fit(latents, said):
    with pytest.raises(InputError, match=said):
        Batch(problem(), samples(2), latents)


def test_rewards_without_a_gradient_are_refused():
    constant = torch.zeros(2, requires_grad=True)
    for reward in (lambda i, p: brightness(i, p).detach(), lambda i, p: constant * 1):
        batch = Batch(problem(rewards={"r": (reward, 1.0)}), samples(2))
        with pytest.raises(InputError, match="differentiable"):
            batch.step()


# ---------------------------------------------------------------- which iterate is kept


def scripted(values):
    """A held-out reward that reads its values from a list, one per call."""
    it = iter(values)
    return lambda images, prompts: torch.full((len(images),), next(it))


def test_the_best_is_chosen_by_the_held_out_reward():
    held = scripted([0.0, 3.0, 9.0, math.nan, 5.0, 8.0, 9.0, 0.0, 1.0])
    batch = Batch(problem(held_out={"h": (held, 1.0)}), samples(2))
    records = run(batch)
    assert batch.selection.iteration.tolist() == [2, 2]
    assert torch.equal(batch.selection.latents, records[2].latents)
    rewards = torch.stack([r.values["reward"] for r in records])
    assert (rewards.argmax(0) == 8).all()  # the target would have chosen the last


def test_the_best_is_the_latest_that_passes_for_noise():
    options = {"optimizer": sgd(80.0), "iterations": 25}
    batch = Batch(problem(select="gaussianity", p_value=0.01, **options), samples(4))
    records = run(batch)
    p = torch.stack([r.values["p_value"] for r in records])
    for k in range(4):
        passing = (p[:, k] >= 0.01).nonzero()[:, 0].tolist()
        assert batch.selection.iteration[k] == (max(passing) if passing else 0)
    assert (p[-1] < 1e-4).all()
    assert (batch.selection.iteration > 0).any()


def test_last_keeps_the_last():
    batch = Batch(problem(select="last"), samples(2))
    run(batch)
    assert torch.equal(batch.selection.latents, batch.latents.detach())


def test_patience_ends_a_sample_and_freezes_it():
    def held(images, prompts):
        calls.append(1)
        return torch.tensor(
            [float(len(calls) if p.endswith("0") else -len(calls)) for p in prompts]
        )

    calls = []
    options = {"held_out": {"h": (held, 1.0)}, "patience": 3, "optimizer": sgd(5.0, 0.9)}
    batch = Batch(problem(**options), samples(2))
    records = run(batch)
    assert batch.status.tolist() == [RUNNING, STOPPED]
    assert batch.selection.iteration.tolist() == [8, 0]
    assert [len(r.samples) for r in records] == [2, 2, 2, 2, 1, 1, 1, 1, 1]
    assert torch.equal(batch.latents[1].detach(), records[3].latents[1])
    clean = Batch(problem(optimizer=sgd(5.0, 0.9)), samples(1))
    run(clean)
    torch.testing.assert_close(batch.latents[0], clean.latents[0])


def test_evaluations_can_be_rarer():
    held_calls = []

    def held(images, prompts):
        held_calls.append(1)
        return contrast(images, prompts)

    batch = Batch(problem(held_out={"h": (held, 1.0)}, evaluate_every=3, iterations=7), samples(1))
    records = run(batch)
    seen = [r.iteration for r in records if not r.values["held_out"].isnan().any()]
    assert seen == [0, 3, 6, 7]
    assert len(held_calls) == 4
    assert [r.iteration for r in records if not r.values["p_value"].isnan().any()] == seen
    assert int(batch.selection.iteration) in seen


def test_the_samplers_own_noise_is_not_the_starting_noise():
    """A sampler of several steps draws from its seeds: not once more what it starts from."""
    seen = []

    class Model(ToyModel):
        def generate(self, latents, conditioning, *, seeds):
            seen.append(list(seeds))
            return super().generate(latents, conditioning, seeds=seeds)

    batch = Batch(problem(model=Model()), samples(3))
    run(batch)
    assert all(seeds == seen[0] for seeds in seen)  # a function of the latents
    assert len(set(seen[0])) == 3
    for seed, start in zip(seen[0], batch.start, strict=True):
        again = torch.randn(*SHAPE, generator=torch.Generator().manual_seed(seed))
        assert abs(float(torch.corrcoef(torch.stack([again.ravel(), start.ravel()]))[0, 1])) < 0.25


def test_prompts_are_encoded_once():
    batch = Batch(problem(), samples(3))
    run(batch)
    assert batch.problem.model.encoded == [tuple(s.prompt for s in samples(3))]
