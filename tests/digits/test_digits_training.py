"""The digits that are shipped, how they are deformed, and the training on them."""

import dataclasses
import json
import math

import pytest
import torch
import torch.nn.functional as F
from draws import seeded

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from shipped_digits import FILES, RECORD

from gaussreg_fast.digits import components, data, stages

# ---------------------------------------------------------------- data


def test_shipped_digits_are_scikit_learns(real):
    datasets = pytest.importorskip("sklearn.datasets")
    bunch = datasets.load_digits()
    assert torch.equal(real.pixels, torch.from_numpy(bunch.images).to(torch.uint8))
    assert torch.equal(real.labels, torch.from_numpy(bunch.target).long())


def test_images_keep_the_digits_brightness_and_range(real):
    images = real.images()
    assert images.shape == (1797, 1, 16, 16)
    assert images.min() == 0
    assert images.max() <= 1
    averaged = F.avg_pool2d(images, 2)
    torch.testing.assert_close(averaged, real.pixels[:, None] / 16, rtol=0, atol=0.25)
    assert abs(averaged.mean() - real.pixels.float().mean() / 16) < 0.02


def test_split_is_a_partition_with_every_class_in_each_part(real):
    parts = data.split(real.labels, 0)
    assert sorted(torch.cat([parts.train, parts.test]).tolist()) == list(range(1797))
    assert sorted(torch.cat([parts.first, parts.second]).tolist()) == sorted(parts.train.tolist())
    assert set(parts.mixed.tolist()) < set(parts.train.tolist())
    for index in dataclasses.asdict(parts).values():
        counts = real.labels[index].bincount(minlength=10)
        assert counts.max() - counts.min() <= 0.1 * counts.max() + 1
    assert torch.equal(data.split(real.labels, 0).test, parts.test)
    assert not torch.equal(data.split(real.labels, 1).test, parts.test)


def test_deformations_are_small_random_and_reproducible(real):
    images = real.images()[:100]
    one, again, other = (data.deform(images, seeded(s)) for s in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    torch.testing.assert_close(
        data.deform(images, seeded(), strength=0.0), images, rtol=0, atol=1e-5
    )
    assert 0.02 < (one - images).square().mean().sqrt() < 0.35
    spoilt = data.blemish(images, seeded())
    assert spoilt.min() >= 0
    assert spoilt.max() <= 1


# ---------------------------------------------------------------- training

TINY = [
    "--classifier-steps=3",
    "--vae-steps=3",
    "--teacher-steps=3",
    "--student-steps=3",
    "--batch=4",
    "--copies=1",
    "--pairs=20",
    "--ddim-steps=2",
    "--measured=2",
    "--threads=1",
]


def files_of(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "training.json"  # which holds the seconds
    }


def test_training_twice_gives_the_same_bytes_and_replaces_whole_folders(tmp_path, capsys):
    pytest.importorskip("sklearn")
    train = pytest.importorskip("gaussreg_fast.digits.train")
    threads = torch.get_num_threads()
    try:
        state = torch.get_rng_state()
        assert train.main([f"--out={tmp_path / 'one'}", *TINY]) == 0
        assert torch.equal(torch.get_rng_state(), state)
        torch.rand(3)  # the global generator is not what it draws from
        first = files_of(tmp_path / "one")
        (tmp_path / "one" / "stale").touch()
        assert train.main([f"--out={tmp_path / 'one'}", *TINY]) == 0
    finally:
        torch.set_num_threads(threads)
    assert files_of(tmp_path / "one") == first
    assert {path.name for path in tmp_path.iterdir()} == {"one"}
    record = json.loads((tmp_path / "one" / "training.json").read_text("utf-8"))
    assert record["plan"].keys() == RECORD["plan"].keys()
    assert record["seconds"].keys() == RECORD["seconds"].keys()
    assert record["losses"].keys() == RECORD["losses"].keys()
    assert set(first) == set(files_of(FILES))
    capsys.readouterr()


def test_training_never_replaces_what_is_not_its_own(tmp_path, capsys):
    train = pytest.importorskip("gaussreg_fast.digits.train")
    threads = torch.get_num_threads()
    try:
        (tmp_path / "mine").mkdir()
        assert train.main([f"--out={tmp_path / 'mine'}", *TINY]) == 2
        assert "training.json" in capsys.readouterr().err
        assert train.main([f"--out={tmp_path / 'no' / 'where'}", *TINY]) == 2
        assert str(tmp_path / "no") in capsys.readouterr().err
    finally:
        torch.set_num_threads(threads)
    assert [path.name for path in tmp_path.rglob("*")] == ["mine"]


def test_stage_seeds_do_not_depend_on_the_global_generator():
    draws = []
    for _ in range(2):
        torch.rand(1)
        with stages.seeded(5) as generator:
            draws.append((torch.rand(2), torch.rand(2, generator=generator)))
    assert all(torch.equal(a, b) for a, b in zip(*draws, strict=True))


def test_the_training_record_is_whole():
    assert math.isfinite(sum(RECORD["losses"].values()))
    assert sum(RECORD["seconds"].values()) < 40 * 60
    assert {"torch", "diffusers", "transformers", "scikit-learn"} <= RECORD["versions"].keys()
    assert components.LATENT_CHANNELS * components.LATENT_SIZE**2 >= 1024
