"""Loading: names that it resolves, and settings that it refuses."""

import json
import shutil
import sys
import types

import pytest
import tiny_pipelines
import torch
from fresh_python import printed
from tiny_models import (
    PROMPTS,
    PUBLISHED,
    SEEDS,
    folder,
    image_and_gradient,
    loaded,
    refusal,
    relative,
    starting_latents,
)

from gaussreg_fast.latent.models import load_model

diffusers = pytest.importorskip("diffusers")

# ---------------------------------------------------------------- settings


@pytest.mark.parametrize("family", PUBLISHED)
def test_published_settings(family):
    side = tiny_pipelines.SIZES[family]
    size = {"height": side, "width": side} if family == "flux" else {}
    model = load_model(str(folder(family)), device="cpu", **size)
    assert (model.settings["steps"], model.settings["guidance"]) == PUBLISHED[family]
    assert (model.settings["height"], model.settings["width"]) == (side, side)
    assert model.settings["source"] == model.name == str(folder(family))
    assert json.loads(json.dumps(model.settings)) == model.settings


def test_sizes_other_than_square():
    model = loaded("flux", steps=1, height=16, width=40)
    assert model.latent_shape == (4, 8, 20)
    images, gradient = image_and_gradient(model, starting_latents(model))
    assert images.shape == (3, 3, 16, 40)
    assert gradient.abs().sum((1, 2, 3)).min() > 0


def test_the_embedded_pipeline_by_its_name(monkeypatch):
    module = types.ModuleType("gaussreg_fast.digits")
    module.PIPELINE = folder("sd")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    model = load_model("digits", device="cpu")
    assert model.name == "digits"
    assert model.latent_shape == (4, 16, 16)


def test_a_safety_checker_is_left_out_without_a_word(tmp_path, caplog, capfd):
    path = shutil.copytree(folder("sd"), tmp_path / "sd")
    index = json.loads((path / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    del index["requires_safety_checker"]
    (path / "model_index.json").write_text(json.dumps(index))
    model = load_model(str(path), device="cpu")
    assert model.pipe.safety_checker is None
    assert "safety" not in (caplog.text + capfd.readouterr().err).lower()


def test_importing_is_light():
    code = (
        "import sys, gaussreg_fast.latent.models as m\n"
        "assert callable(m.load_model)\n"
        "print([n for n in ('diffusers', 'transformers', 'huggingface_hub') if n in sys.modules])"
    )
    assert printed(code) == "[]"


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"steps": 0}, ["steps", "0"]),
        ({"steps": 1.5}, ["steps", "1.5"]),
        ({"guidance": -1.0}, ["guidance", "-1"]),
        ({"guidance": float("nan")}, ["guidance", "nan"]),
        ({"guidance": "much"}, ["guidance", "much"]),
        ({"height": 30}, ["divisible by 8", "30 x 32"]),
        ({"width": -8}, ["width", "-8"]),
        ({"offload": "disk"}, ["offload", "none, text, model", "disk"]),
        ({"dtype": "int8"}, ["dtype", "bfloat16", "int8"]),
        ({"dtype": torch.int32}, ["dtype", "int32"]),
        ({"device": "abacus"}, ["device", "abacus"]),
    ],
)
def test_options_out_of_range(options, words):
    message = refusal(load_model, str(folder("sd")), **{"device": "cpu", **options})
    assert all(word in message for word in words), message


@pytest.mark.skipif(torch.cuda.is_available(), reason="says that there is no GPU")
def test_a_gpu_that_is_not_there():
    assert "no GPU" in refusal(load_model, str(folder("sd")), device="cuda")


@pytest.mark.parametrize(("family", "side", "multiple"), [("flux", 18, 4), ("sana-sprint", 48, 32)])
def test_sizes_must_be_divisible(family, side, multiple):
    message = refusal(load_model, str(folder(family)), device="cpu", height=side, width=side)
    assert f"divisible by {multiple}" in message


def test_sources_that_are_no_pipeline(tmp_path):
    assert "model_index.json" in refusal(load_model, str(tmp_path))
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"x")
    assert "is a file" in refusal(load_model, str(file))
    for source in ("./nowhere", "/no/such/folder", "a/b/c", "two words"):
        assert "neither a folder nor a hub id" in refusal(load_model, source)
    for text in ("{", "[]", "{}", '{"_class_name": ["module", "Class"]}'):
        (tmp_path / "model_index.json").write_text(text)
        assert "model_index.json" in refusal(load_model, str(tmp_path))
    (tmp_path / "model_index.json").write_text('{"_class_name": "TimeTravelPipeline"}')
    assert "TimeTravelPipeline" in refusal(load_model, str(tmp_path))


@pytest.mark.parametrize("harm", ["absent", "torn", "other shape"])
def test_weights_that_cannot_be_read(tmp_path, harm):
    path = shutil.copytree(folder("sd"), tmp_path / "sd")
    weights = path / "unet" / "diffusion_pytorch_model.safetensors"
    if harm == "absent":
        weights.unlink()
    elif harm == "torn":
        weights.write_bytes(weights.read_bytes()[:1000])
    else:
        config = json.loads((path / "unet" / "config.json").read_text())
        config["cross_attention_dim"] = 24
        (path / "unet" / "config.json").write_text(json.dumps(config))
    message = refusal(load_model, str(path), device="cpu")
    assert str(path) in message
    assert "could not be loaded" in message


def test_a_hub_that_cannot_be_reached(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    message = refusal(load_model, "nobody-at-all/no-such-model", device="cpu")
    for word in ("nobody-at-all/no-such-model", "model_index.json", "model: /path/to/folder"):
        assert word in message


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("GatedRepoError", ["gated", "licence", "model: /path/to/folder"]),
        ("RepositoryNotFoundError", ["no local folder", "model: /path/to/folder"]),
        ("RevisionNotFoundError", ["revision 'v9'"]),
        ("EntryNotFoundError", ["no model_index.json"]),
        ("OSError", ["model_index.json", "no space left", "model: /path/to/folder"]),
    ],
)
def test_a_hub_that_refuses(monkeypatch, kind, words):
    errors = pytest.importorskip("huggingface_hub.errors")
    error = getattr(errors, kind, OSError)

    def download(*_, **__):
        # Their constructors want the server's answer.
        raise error.__new__(error, "no space left\non the device")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    message = refusal(load_model, "some-one/some-model", device="cpu", revision="v9")
    assert all(word in message for word in ["some-one/some-model", *words]), message


@pytest.mark.parametrize("package", ["diffusers", "transformers", "accelerate"])
def test_a_missing_package(monkeypatch, package):
    path = str(folder("sd"))  # made, where it is the first, with the package
    monkeypatch.setitem(sys.modules, package, None)
    message = refusal(load_model, path, device="cpu")
    assert "pip install 'gaussreg_fast[latent]'" in message
    assert package in message


def test_a_pipeline_whose_own_import_fails(monkeypatch):
    """diffusers imports a pipeline when it is asked for, and makes a RuntimeError of a failure."""
    path = str(folder("sd"))
    for name in ("diffusers", "diffusers.pipelines", "diffusers.pipelines.stable_diffusion"):
        module = sys.modules[name]
        monkeypatch.delitem(vars(module), "StableDiffusionPipeline", raising=False)
    monkeypatch.setitem(
        sys.modules, "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion", None
    )
    message = refusal(load_model, path, device="cpu")
    assert "pip install 'gaussreg_fast[latent]'" in message


def test_latents_prompts_and_seeds_that_do_not_fit():
    model = loaded("sd", steps=1)
    conditioning = model.encode(PROMPTS)
    for shape in ((3, 4, 16, 8), (2, 4, 16, 16), (4, 16, 16), (3, 1024)):
        message = refusal(model.generate, torch.zeros(shape), conditioning, seeds=SEEDS)
        assert "(3, 4, 16, 16)" in message
        assert str(shape) in message
    latents = starting_latents(model)
    assert "float32" in refusal(model.generate, latents.half(), conditioning, seeds=SEEDS)
    assert "seeds" in refusal(model.generate, latents, conditioning, seeds=[1])
    for prompts in ([], "a cat", ["a cat", None]):
        assert "prompts" in refusal(model.encode, prompts)


# ---------------------------------------------------------------- any other pipeline


def renamed(path, target, **index):
    """Copy a pipeline's folder, with other entries in its index."""
    shutil.copytree(path, target)
    before = json.loads((target / "model_index.json").read_text())
    (target / "model_index.json").write_text(json.dumps(before | index))
    return str(target)


def test_pipelines_of_many_steps_must_be_told_theirs():
    assert "steps must be given" in refusal(load_model, str(folder("sana")), device="cpu")


@pytest.mark.parametrize(
    ("family", "published"),
    [("sd", "sd-turbo"), ("sdxl", "sdxl-turbo"), ("flux", "FLUX.1-schnell")],
)
def test_a_model_of_one_step_is_known_by_its_name_alone(tmp_path, family, published):
    """Models of many steps have the same pipeline, scheduler and configuration."""
    unknown = renamed(folder(family), tmp_path / "my-model", _name_or_path="me/my-turbo-sdxl")
    size = {"device": "cpu", "height": 32, "width": 32}
    message = refusal(load_model, unknown, **size)
    assert f"steps must be given for {type(loaded(family, steps=1).pipe).__name__}" in message
    assert unknown in message
    assert "guidance 0" in message
    model = load_model(unknown, steps=30, **size)
    assert model.settings["guidance"] is None  # the pipeline's own
    names = [published, f"models--somebody--{published}/snapshots/0a1b2c"]
    for name in names:
        shutil.copytree(unknown, tmp_path / name)
        model = load_model(str(tmp_path / name), **size)
        assert (model.settings["steps"], model.settings["guidance"]) == (1, 0.0)


def test_a_turbo_whose_scheduler_was_exchanged_is_asked_for_its_steps(tmp_path):
    """Without trailing timesteps, a single step would not start at the noise."""
    scheduler = diffusers.EulerDiscreteScheduler(timestep_spacing="leading", steps_offset=1)
    path = tiny_pipelines.build("sd", tmp_path, scheduler=scheduler)
    assert "trailing timesteps" in refusal(load_model, str(path), device="cpu")


def test_a_pipeline_without_an_adapter_takes_its_own_defaults():
    model = load_model(str(folder("lcm")), device="cpu")
    assert model.settings["pipeline"] == "LatentConsistencyModelPipeline"
    assert (model.settings["steps"], model.settings["guidance"]) == (4, 8.5)


def test_a_transformer_without_an_adapter():
    """PixArt's pipeline: T5, a transformer, DDPM-like noise in each of its steps."""
    path = str(folder("pixart"))
    assert "steps must be given" in refusal(load_model, path, device="cpu")
    model = load_model(path, device="cpu", steps=2, guidance=0.0)
    assert model.latent_shape == (4, 16, 16)
    latents = starting_latents(model)
    pipe = diffusers.DiffusionPipeline.from_pretrained(path)
    want = pipe(
        prompt=PROMPTS,
        latents=latents,
        num_inference_steps=2,
        guidance_scale=0.0,
        use_resolution_binning=False,
        generator=[torch.Generator().manual_seed(seed) for seed in SEEDS],
        output_type="pt",
    ).images
    images, gradient = image_and_gradient(model, latents)
    torch.testing.assert_close(images, want, rtol=0, atol=1e-6)
    alone = image_and_gradient(model, latents[1:2], PROMPTS[1:2], SEEDS[1:2])
    torch.testing.assert_close(alone[0][0], images[1], rtol=0, atol=1e-5)
    assert relative(alone[1][0], gradient[1]) < 1e-4


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("StableDiffusionImg2ImgPipeline", "no latents"),
        ("StableDiffusionInpaintPipeline", "from an image"),
        ("StableDiffusionInstructPix2PixPipeline", "from an image"),
    ],
)
def test_pipelines_that_cannot_be_driven_by_noise(tmp_path, name, why):
    message = refusal(
        load_model, renamed(folder("sd"), tmp_path / "p", _class_name=name), device="cpu"
    )
    assert name in message
    assert why in message


def test_a_sampler_with_noise_of_its_own_is_refused(tmp_path):
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(stochastic_sampling=True)
    path = tiny_pipelines.build("flux", tmp_path, scheduler=scheduler)
    assert "stochastic_sampling" in refusal(load_model, str(path), device="cpu")


def test_what_passes_no_gradient_is_refused(monkeypatch):
    model = loaded("lcm", steps=1)
    conditioning = model.encode(PROMPTS)
    decode = model.vae.decode
    monkeypatch.setattr(
        model.vae, "decode", lambda z, **kwargs: (decode(z.detach(), **kwargs)[0].detach(),)
    )
    x = starting_latents(model).requires_grad_()
    assert "no gradient" in refusal(model.generate, x, conditioning, seeds=SEEDS)
    with torch.no_grad():
        model.generate(x, conditioning, seeds=SEEDS)
