"""The embedded pipeline of digits: what it draws, its rewards, its data, and its training."""

import dataclasses
import json
import math
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from gaussreg_fast import digits
from gaussreg_fast.digits import components, data, measures, stages
from gaussreg_fast.digits.classifiers import load_classifier
from gaussreg_fast.digits.words import WORDS, digit_of
from gaussreg_fast.errors import InputError

FILES = digits.WEIGHTS
RECORD = json.loads((FILES / "training.json").read_text("utf-8"))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def pipe():
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(digits.PIPELINE, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def drawn():
    """600 images, 60 of each digit, of a seed that the training has not measured with."""
    return measures.draw(digits.PIPELINE, 60, seed=1234)


@pytest.fixture(scope="module")
def real():
    return data.Digits.load(FILES / "digits.safetensors")


# ---------------------------------------------------------------- the pipeline


def test_the_package_is_light_to_import():
    heavy = "{'diffusers', 'transformers', 'sklearn', 'matplotlib', 'safetensors'}"
    code = (
        f"import sys, gaussreg_fast.digits as d; print(len(d.REWARDS), {heavy} & {{*sys.modules}})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["7", "set()"]


def test_weights_are_small_and_nothing_else_is_shipped():
    assert sum(path.stat().st_size for path in FILES.rglob("*") if path.is_file()) < 8e6
    assert {path.name for path in FILES.iterdir()} == {
        "pipeline",
        "teacher",
        "classifiers.safetensors",
        "digits.safetensors",
        "training.json",
    }
    assert not list(FILES.rglob("*.bin"))


def test_pipeline_has_real_components_of_the_stated_shape(pipe):
    names = {key: type(value).__name__ for key, value in pipe.components.items() if value}
    assert names == {
        "vae": "AutoencoderKL",
        "text_encoder": "CLIPTextModel",
        "tokenizer": "CLIPTokenizer",
        "unet": "UNet2DConditionModel",
        "scheduler": "DDIMScheduler",
    }
    assert (pipe.unet.config.in_channels, pipe.unet.config.sample_size) == (16, 8)
    assert pipe.vae_scale_factor == 2
    assert {p.dtype for m in (pipe.unet, pipe.vae, pipe.text_encoder) for p in m.parameters()} == {
        torch.float32
    }


def test_one_step_starts_at_the_last_timestep_without_signal(pipe):
    pipe.scheduler.set_timesteps(1)
    assert pipe.scheduler.timesteps.tolist() == [999]
    assert pipe.scheduler.alphas_cumprod[-1] == 0
    assert pipe.scheduler.init_noise_sigma == 1


def test_one_step_call_is_the_decoded_negative_velocity(pipe):
    noise = torch.randn(2, 16, 8, 8, generator=seeded())
    with torch.no_grad():
        hidden = pipe.text_encoder(
            pipe.tokenizer(
                ["a handwritten two", "a handwritten 7"],
                padding="max_length",
                return_tensors="pt",
            ).input_ids
        ).last_hidden_state
        latents = -pipe.unet(noise, 999, hidden).sample
        expected = (pipe.vae.decode(latents).sample / 2 + 0.5).clamp(0, 1)
    images = pipe(
        ["a handwritten two", "a handwritten 7"],
        latents=noise,
        num_inference_steps=1,
        guidance_scale=0.0,
        output_type="pt",
    ).images
    assert images.shape == (2, 3, 16, 16)
    torch.testing.assert_close(images, expected, rtol=0, atol=1e-5)


def test_latents_of_real_digits_have_mean_zero_and_unit_variance(pipe, real):
    """Of deformed ones, which the pipeline has learnt from."""
    chosen = real.images()[torch.randperm(1797, generator=seeded())[:600]]
    x = (2 * data.deform(chosen, seeded(9)) - 1).expand(-1, 3, -1, -1)
    with torch.no_grad():
        latents = pipe.vae.encode(x).latent_dist.sample(seeded()) * pipe.vae.config.scaling_factor
        back = pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample
    assert latents.shape[1:] == (16, 8, 8)
    assert latents.mean(dim=(0, 2, 3)).abs().max() < 0.15
    torch.testing.assert_close(latents.var(), torch.tensor(1.0), rtol=0.05, atol=0)
    assert ((back - x) / 2).square().mean().sqrt() < 0.04


# ---------------------------------------------------------------- what it draws


@pytest.mark.parametrize("name", ["a", "b"])
def test_one_step_images_show_the_prompts_digit(drawn, name):
    images, labels = drawn
    classifier = load_classifier(name, FILES / "classifiers.safetensors")
    share = stages.accuracy(classifier, images.mean(dim=1, keepdim=True), labels)
    assert share >= 0.9
    assert abs(share - RECORD["measures"][f"prompt_accuracy_{name}"]) < 0.05
    assert RECORD["measures"][f"prompt_accuracy_{name}"] >= 0.9
    assert RECORD["measures"]["images"] >= 500


def test_numerals_and_words_draw_the_same_digit(pipe):
    noise = torch.randn(10, 16, 8, 8, generator=seeded(5))
    classifier = load_classifier("a", FILES / "classifiers.safetensors")
    for name in ("the digit {}", "a handwritten {}"):
        prompts = [name.format(digit) for digit in range(10)]
        images = pipe(
            prompts, latents=noise, num_inference_steps=1, guidance_scale=0.0, output_type="pt"
        ).images
        right = stages.accuracy(classifier, images.mean(dim=1, keepdim=True), torch.arange(10))
        assert right >= 0.8, prompts


def test_a_digit_is_drawn_in_many_ways(drawn, real):
    """Class means would have no diversity at all."""
    images, labels = drawn
    ours = pairwise(images.mean(dim=1, keepdim=True), labels)
    theirs = pairwise(real.images(), real.labels)
    assert ours.mean() / theirs.mean() >= 0.5
    assert (ours / theirs).min() > 0.35
    assert abs(ours.mean() / theirs.mean() - RECORD["measures"]["diversity_ratio"]) < 0.05


def pairwise(grey, labels):
    """(10,): the mean root mean square distance of two images of a digit, by the whole matrix."""
    result = []
    for digit in range(10):
        flat = grey[labels == digit].flatten(1).double()
        squares = (flat[:, None] - flat[None]).square().mean(dim=2)
        result.append(squares.sqrt().sum() / (len(flat) * (len(flat) - 1)))
    return torch.stack(result)


def test_drawn_digits_are_as_near_to_real_ones_as_unseen_and_deformed_ones(drawn, real):
    """The pipeline has learnt from deformed digits."""
    parts = data.split(real.labels, RECORD["plan"]["seed"])
    train, test = real.take(parts.train), real.take(parts.test)
    nearest = []
    deformed = (data.deform(test.images(), seeded()), test.labels)
    for grey, labels in ((drawn[0].mean(dim=1, keepdim=True), drawn[1]), deformed):
        one, other = grey.flatten(1).double(), train.images().flatten(1).double()
        squares = one.square().sum(1, True) + other.square().sum(1) - 2 * one @ other.T
        distances = (squares.clamp(min=0) / 256).sqrt()
        distances[labels[:, None] != train.labels] = math.inf
        nearest.append(distances.amin(dim=1).mean().item())
    assert nearest[0] < nearest[1]
    assert nearest[0] == pytest.approx(RECORD["measures"]["nearest_distance"], rel=0.05)


def test_the_noise_matters_and_has_a_gradient(pipe):
    noise = torch.randn(4, 16, 8, 8, generator=seeded(3), requires_grad=True)
    with torch.no_grad():
        ids = pipe.tokenizer(["a handwritten six"] * 4, padding="max_length", return_tensors="pt")
        hidden = pipe.text_encoder(ids.input_ids).last_hidden_state
    images = pipe.vae.decode(-pipe.unet(noise, 999, hidden).sample).sample / 2 + 0.5
    images.mean().backward()
    strength = noise.grad.square().mean(dim=(0, 2, 3)).sqrt()
    assert strength.min() > 0.05 * strength.max()  # no channel of the noise is without effect
    assert torch.pdist(images.detach().flatten(1)).min() / 768**0.5 > 0.05


# ---------------------------------------------------------------- prompts and tokens


def test_prompts_are_the_ten_digits():
    assert [digit_of(prompt) for prompt in digits.PROMPTS] == list(range(10))
    assert digits.PROMPTS[3] == "a handwritten three"


@pytest.mark.parametrize(
    ("prompt", "digit"),
    [("a handwritten 3", 3), ("Seven!", 7), ("the digit 0", 0), ("two, or 2", 2)],
)
def test_digit_of(prompt, digit):
    assert digit_of(prompt) == digit


@pytest.mark.parametrize("prompt", ["a cat", "", "someone", "12", "a three and a four"])
def test_prompts_without_one_digit_are_named(prompt):
    with pytest.raises(InputError, match="zero, one, two, three") as caught:
        digit_of(prompt)
    assert repr(prompt) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_tokenizer_knows_words_and_numerals_as_single_tokens(pipe):
    for name in (*WORDS, *map(str, range(10)), "handwritten", "the", "digit", "drawing"):
        ids = pipe.tokenizer(name).input_ids
        assert len(ids) == 3, name
        assert pipe.tokenizer.decode(ids[1:-1]).strip() == name
    ids = pipe.tokenizer("A  Handwritten THREE").input_ids
    assert ids == pipe.tokenizer("a handwritten three").input_ids
    other = pipe.tokenizer("caf\u00e9 \u4e09").input_ids
    assert pipe.tokenizer.unk_token_id not in other[1:-1]


def test_tokenizer_has_the_files_of_older_transformers(pipe):
    from tokenizers import Tokenizer
    from tokenizers.models import BPE

    folder = digits.PIPELINE / "tokenizer"
    model = BPE.from_file(
        str(folder / "vocab.json"), str(folder / "merges.txt"), end_of_word_suffix="</w>"
    )
    expected = pipe.tokenizer("handwritten", add_special_tokens=False).input_ids
    assert Tokenizer(model).encode("handwritten").ids == expected


# ---------------------------------------------------------------- rewards

NAMES = list(digits.REWARDS)
CLASSED = ["digits-class", "digits-class-a", "digits-class-b", "digits-nearest"]


def canvas(*boxes, size=16):
    """A white rectangle on black for each (top, bottom, left, right)."""
    image = torch.zeros(1, 3, size, size)
    for top, bottom, left, right in boxes:
        image[:, :, top:bottom, left:right] = 1
    return image


def test_ink():
    reward = digits.REWARDS["digits-ink"]()
    images = torch.rand(5, 3, 16, 16, generator=seeded())
    torch.testing.assert_close(reward(images, ["a cat"] * 5), images.mean(dim=(1, 2, 3)))
    assert reward(torch.ones(1, 3, 16, 16), [""]).item() == 1


def test_slant_is_that_of_lines_and_ignores_brightness_and_place():
    reward = digits.REWARDS["digits-slant"]()
    diagonal = torch.eye(16)[:12].flip(0).expand(1, 3, 12, 16)  # rises to the right
    diagonal = F.pad(diagonal, (0, 0, 2, 2))
    assert reward(diagonal, [""]).item() == pytest.approx(1, abs=1e-3)
    assert reward(diagonal.flip(3), [""]).item() == pytest.approx(-1, abs=1e-3)
    assert reward(diagonal / 2, [""]).item() == pytest.approx(1, abs=1e-3)
    assert reward(diagonal.roll(1, dims=2), [""]).item() == pytest.approx(1, abs=1e-3)
    assert reward(canvas((2, 14, 7, 9)), [""]).item() == pytest.approx(0, abs=1e-5)
    assert reward(torch.zeros(1, 3, 16, 16), [""]).item() == 0
    noise = torch.rand(50, 3, 16, 16, generator=seeded())
    assert reward(noise, [""] * 50).abs().max() <= 1


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_thickness_is_the_width_of_a_long_bar(width):
    reward = digits.REWARDS["digits-thickness"]()
    bar = canvas((1, 15, 5, 5 + width))
    exact = 2 * 14 * width / (2 * 14 + 2 * width)
    assert reward(bar, [""]).item() == pytest.approx(exact, rel=0.12)
    assert reward(bar / 2, [""]).item() == pytest.approx(exact, rel=0.15)


def test_class_rewards_know_real_digits(real):
    images = real.images()[:200].expand(-1, 3, -1, -1)
    right = [digits.PROMPTS[label] for label in real.labels[:200].tolist()]
    wrong = [digits.PROMPTS[(label + 3) % 10] for label in real.labels[:200].tolist()]
    for name in CLASSED[:3]:
        reward = digits.REWARDS[name]()
        assert reward(images, right).exp().mean() > 0.9
        assert reward(images, wrong).exp().mean() < 0.05
        summed = sum(reward(images[:5], [prompt] * 5).exp() for prompt in digits.PROMPTS)
        torch.testing.assert_close(summed, torch.ones(5))


def test_held_out_classifiers_are_good_and_differ_from_the_target(real):
    parts = data.split(real.labels, RECORD["plan"]["seed"])
    test = real.take(parts.test)
    weights = FILES / "classifiers.safetensors"
    for name in ("a", "b", "target"):
        share = stages.accuracy(load_classifier(name, weights), test.images(), test.labels)
        assert share >= 0.97
        assert share == pytest.approx(RECORD["classifier_accuracy"][name], abs=0.003)
    assert len({type(load_classifier(n, weights)[1]).__name__ for n in ("a", "b", "target")}) == 3


def test_nearest_against_the_whole_distance_matrix(real):
    reward = digits.REWARDS["digits-nearest"]()
    images = torch.rand(4, 3, 16, 16, generator=seeded())
    prompts = ["a handwritten 1", "nine", "the digit 4", "0"]
    expected = []
    for image, digit in zip(images, (1, 9, 4, 0), strict=True):
        others = real.images()[real.labels == digit].expand(-1, 3, -1, -1)
        expected.append(-(image - others).square().mean(dim=(1, 2, 3)).sqrt().min())
    torch.testing.assert_close(reward(images, prompts), torch.stack(expected))
    zero = real.images()[real.labels == 0][:1].expand(-1, 3, -1, -1).clone().requires_grad_()
    reward(zero, ["zero"]).sum().backward()
    assert zero.grad.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [16, 40])
def test_gradients_by_finite_differences(name, size):
    reward = digits.REWARDS[name]()
    generator = seeded(7)
    images = torch.rand(2, 3, size, size, generator=generator, dtype=torch.float64) * 0.8 + 0.1
    prompts = ["a handwritten 2", "a handwritten eight"]
    direction = torch.randn(images.shape, generator=generator, dtype=torch.float64)
    leaf = images.clone().requires_grad_()
    values = reward(leaf, prompts)
    assert values.dtype == torch.float64
    assert values.shape == (2,)
    (gradient,) = torch.autograd.grad(values.sum(), leaf)
    step = 1e-6
    above, below = (reward(images + s * step * direction, prompts).sum() for s in (1, -1))
    slope = (above - below) / (2 * step)
    assert slope.abs() > 1e-6
    torch.testing.assert_close((gradient * direction).sum(), slope, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_samples_are_independent_and_in_float32(name):
    reward = digits.REWARDS[name]()
    assert reward.name == name
    images = torch.rand(3, 3, 16, 16, generator=seeded(1))
    prompts = list(digits.PROMPTS[:3])
    whole = reward(images, prompts)
    singles = [reward(images[i : i + 1], prompts[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(whole, torch.cat(singles), rtol=1e-5, atol=1e-6)
    half = reward(images.bfloat16(), prompts)
    assert whole.dtype == half.dtype == torch.float32
    assert whole.isfinite().all()
    black = reward(torch.zeros(1, 3, 16, 16, requires_grad=True), prompts[:1])
    assert black.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_a_prompt_without_a_digit(name):
    reward, image = digits.REWARDS[name](), torch.rand(1, 3, 16, 16, generator=seeded())
    if name in CLASSED:
        with pytest.raises(InputError, match=r"zero, one.*'a cat'"):
            reward(image, ["a cat"])
    else:
        assert reward(image, ["a cat"]).isfinite().all()


@pytest.mark.parametrize(
    ("images", "prompts", "says"),
    [
        (torch.rand(2, 1, 16, 16), ["one"] * 2, "(B, 3, H, W)"),
        (torch.rand(3, 16, 16), ["one"], "(3, 16, 16)"),
        (torch.ones(1, 3, 16, 16, dtype=torch.uint8), ["one"], "uint8"),
        (torch.rand(2, 3, 16, 16), ["one"], "must be 2"),
        (torch.rand(3, 3, 16, 16), "one", "one string"),
    ],
)
def test_bad_calls_say_what_came_and_what_is_allowed(images, prompts, says):
    with pytest.raises(InputError) as caught:
        digits.REWARDS["digits-ink"]()(images, prompts)
    assert says in str(caught.value)


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
