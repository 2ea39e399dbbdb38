"""The loop in any ambient state of torch, as node graphs and notebooks leave it behind."""

import contextlib

import pytest
import torch
from ambient_states import STATES, WITHOUT_GRAPH
from toy_latents import OPTIMIZERS, SHAPE, problem, run, samples

from gaussreg_fast.latent import optimize
from gaussreg_fast.latent.guards import GUARDS, Guard
from gaussreg_fast.latent.loop import Batch
from gaussreg_fast.latent.problem import starting_noise
from gaussreg_fast.latent.selection import Selection

EVERY_STATE = {**STATES, **WITHOUT_GRAPH}
GUARD_NAMES = [name for name in GUARDS if name != "projection"]


@pytest.fixture(params=EVERY_STATE)
def state(request):
    return EVERY_STATE[request.param]


def test_noise_is_that_of_the_seed(state):
    want = starting_noise(samples(2), SHAPE)
    with state():
        got = starting_noise(samples(2), SHAPE)
    assert got.dtype == torch.float32
    assert torch.equal(got, want)


@pytest.mark.parametrize("name", GUARD_NAMES)
def test_guards_give_the_same_loss_and_gradient(state, name):
    x = starting_noise(samples(2), SHAPE)
    options = {"shuffles": 3} if name == "prno" else {}
    want = Guard(name, options=options).loss_and_gradient(x, 3)
    with state():
        inside = x.clone()  # in inference mode it is a tensor that autograd cannot use
        got = Guard(name, options=options).loss_and_gradient(inside, 3)
    for g, w in zip(got, want, strict=True):
        assert torch.equal(g, w)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_batches_make_the_same_steps(state, name):
    """Batches that are made, stepped, saved and resumed in a state."""
    guard = Guard("mpgr", rescale=True)
    given = problem(guard=guard, optimizer=OPTIMIZERS[name], iterations=4)
    latents = starting_noise(samples(2), SHAPE)
    whole = Batch(given, samples(2), latents)
    records = run(whole)
    with state():
        batch = Batch(given, samples(2), latents.clone())
        got = [batch.step(), batch.step()]
        resumed = Batch(given, samples(2), latents.clone())
        resumed.load_state(batch.state())
        got += run(resumed)
        images = resumed.images(resumed.latents)
    assert torch.equal(images, whole.images(whole.latents))
    for mine, other in zip(got, records, strict=True):
        assert torch.equal(mine.latents, other.latents)
        for column, values in other.values.items():
            assert torch.equal(mine.values[column].nan_to_num(7), values.nan_to_num(7)), column
    for key, value in whole.state().items():
        assert torch.equal(resumed.state()[key], value), key


def test_the_number_of_an_iteration_is_not_rounded(state):
    """In bfloat16 257 would be 256, and no longer later than it."""
    with state():
        selection = Selection.start("gaussianity", 0.01, torch.zeros(1, 2, device="cpu"))
        for iteration in (256, 257):
            latents = torch.full((1, 2), float(iteration), device="cpu")
            measures = torch.ones(1, device="cpu")
            rows = torch.zeros(1, dtype=torch.int64, device="cpu")
            selection.update(iteration, rows, latents, measures, measures)
        assert selection.iteration.tolist() == [257]


SETTINGS = {
    "prompts": ["a handwritten three"],
    "rewards": ["digits-ink", "digits-class-b"],
    "held_out": ["digits-class-a"],
    "guard": "mpgr",
    "iterations": 2,
}


@pytest.fixture(scope="module")
def usual_run(tmp_path_factory):
    return optimize(SETTINGS, out=tmp_path_factory.mktemp("usual") / "run")


RUN_STATES = [["inference_mode"], ["no_grad", "autocast"], ["default bfloat16", "default meta"]]


@pytest.mark.parametrize("names", RUN_STATES, ids=" and ".join)
def test_whole_runs_end_in_the_same_bits(usual_run, tmp_path, names):
    with contextlib.ExitStack() as stack:
        for name in names:
            stack.enter_context(EVERY_STATE[name]())
        result = optimize(SETTINGS, out=tmp_path / "run")
    assert torch.get_default_dtype() == torch.float32
    for kind, latents in usual_run.latents.items():
        assert torch.equal(result.latents[kind], latents)
    for mine, other in zip(result.samples, usual_run.samples, strict=True):
        assert mine.keys() == other.keys()
        assert all(mine[key] == other[key] or other[key] != other[key] for key in other)
