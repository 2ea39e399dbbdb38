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
    assert "pipeline_stable_diffusion" in message
    assert "pip install" not in message  # of packages that are all there


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
