"""The saved state of a batch: resuming from it, and states that do not belong to the batch."""

import shutil

import pytest
import torch
from toy_latents import OPTIMIZERS, problem, run, samples

from gaussreg_fast.errors import InputError
from gaussreg_fast.latent import optimize
from gaussreg_fast.latent.guards import Guard
from gaussreg_fast.latent.loop import Batch
from gaussreg_fast.latent.problem import Sample


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("at", [0, 1, 5, 9])
def test_a_saved_state_goes_on_to_the_same_bits(name, at):
    options = {"guard": Guard("mpgr", rescale=True), "optimizer": OPTIMIZERS[name], "patience": 4}
    whole = Batch(problem(**options), samples(3))
    records = run(whole)
    first = Batch(problem(**options), samples(3))
    for _ in range(at):
        if not first.done:
            first.step()
    second = Batch(problem(**options), samples(3))
    second.load_state(first.state())
    rest = run(second)
    assert len(rest) == max(len(records) - at, 0)
    for old, new in zip(records[at:], rest, strict=True):
        assert old.samples == new.samples
        for column in old.values:
            assert torch.equal(
                old.values[column].nan_to_num(7), new.values[column].nan_to_num(7)
            ), column
    for one, two in zip(whole.state().items(), second.state().items(), strict=True):
        assert one[0] == two[0]
        assert torch.equal(one[1], two[1]), one[0]


def test_a_state_of_other_latents_is_refused():
    state = Batch(problem(), samples(3)).state()
    with pytest.raises(InputError, match=r"\(3, 4, 8, 8\)"):
        Batch(problem(), samples(2)).load_state(state)


@pytest.mark.parametrize(
    ("changes", "own_samples", "said"),
    [
        ({}, samples(3)[::-1], "samples"),
        ({}, [*samples(2), Sample(2, "a prompt 2", 99)], "samples.*99.*got.*12"),
        ({}, samples(3, "another prompt"), "samples"),
        ({"optimizer": OPTIMIZERS["adam"]}, samples(3), "optimizer 'Adam', got 'SGD'"),
        ({"select": "last"}, samples(3), "selection 'last', got 'held_out'"),
    ],
)
def test_a_state_that_belongs_to_another_batch_is_refused(changes, own_samples, said):
    """Its rows fit by their shapes, but they would be other samples or other numbers."""
    state = Batch(problem(), samples(3)).state()
    batch = Batch(problem(**changes), own_samples)
    with pytest.raises(InputError, match=f"saved state must be of the {said}"):
        batch.load_state(state)
    assert torch.equal(batch.latents, batch.start)


def test_a_state_that_does_not_say_whose_it_is_is_refused():
    state = Batch(problem(), samples(3)).state()
    del state["identity"]
    with pytest.raises(InputError, match="must say which samples it holds"):
        Batch(problem(), samples(3)).load_state(state)


def test_a_state_that_was_loaded_stays_as_it_was():
    """A batch goes on with copies, so that the same state can be loaded again."""
    first = Batch(problem(optimizer=OPTIMIZERS["adam"]), samples(3))
    for _ in range(3):
        first.step()
    state = first.state()
    before = {key: value.clone() for key, value in state.items()}
    second = Batch(problem(optimizer=OPTIMIZERS["adam"]), samples(3))
    second.load_state(state)
    run(second)
    assert all(torch.equal(state[key], value) for key, value in before.items())


def test_a_checkpoint_in_another_batchs_folder_is_refused_by_name(tmp_path):
    settings = {
        "prompts": ["a handwritten three", "a handwritten one"],
        "rewards": ["digits-ink"],
        "guard": "norm",
        "iterations": 1,
        "batch_size": 1,
    }
    optimize(settings, out=tmp_path / "run")
    first, second = (tmp_path / "run" / "batches" / name for name in ("0000", "0001"))
    shutil.copy(second / "state.safetensors", first / "state.safetensors")
    (first / "result.safetensors").unlink()
    with pytest.raises(InputError, match=r"0000/state.safetensors: the saved state must be of the"):
        optimize(settings, out=tmp_path / "run")
