"""The embedded pipeline of digits: its parts, what it draws, its prompts and tokens."""

import math

import pytest
import torch
from draws import seeded
from fresh_python import printed

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from shipped_digits import FILES, RECORD

from gaussreg_fast import digits
from gaussreg_fast.digits import data, measures, stages
from gaussreg_fast.digits.classifiers import load_classifier
from gaussreg_fast.digits.words import WORDS, digit_of
from gaussreg_fast.errors import InputError


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


# ---------------------------------------------------------------- the pipeline


def test_the_package_is_light_to_import():
    heavy = "{'diffusers', 'transformers', 'sklearn', 'matplotlib', 'safetensors'}"
    code = (
        f"import sys, gaussreg_fast.digits as d; print(len(d.REWARDS), {heavy} & {{*sys.modules}})"
    )
    assert printed(code).split() == ["7", "set()"]


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
    """The digits are deformed, like those that the pipeline was trained on."""
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
