"""Folders that hold a pipeline in part, in a variant, or something else."""

import json
import shutil

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import folder, image_and_gradient, refusal, starting_latents

from gaussreg_fast.errors import InputError
from gaussreg_fast.latent import optimize
from gaussreg_fast.latent.models import contents, load_model

UNET = "unet/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"


def copied(tmp_path, family="sd"):
    return shutil.copytree(folder(family), tmp_path / "model")


def edit_index(path, **parts):
    index = json.loads((path / "model_index.json").read_text())
    (path / "model_index.json").write_text(json.dumps(index | parts))


def variant_of(path, name, variant):
    """Give a file of weights the name of a variant."""
    path = path / name
    return path.rename(path.with_name(f"{path.stem}.{variant}.safetensors"))


# ---------------------------------------------------------------- variants


def image_of(path, **options):
    model = load_model(str(path), device="cpu", **options)
    return image_and_gradient(model, starting_latents(model))[0]


def same_image(path, other, **options):
    return torch.equal(image_of(path, **options), image_of(other))


@pytest.mark.parametrize("variant", ["fp16", "my-var"])
@pytest.mark.parametrize("shards", [None, "40KB"])
def test_a_pipeline_saved_in_a_variant_is_found(tmp_path, shards, variant):
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(folder("sd"), safety_checker=None)
    options = {} if shards is None else {"max_shard_size": shards}
    path = tmp_path / "sd-turbo"
    pipe.save_pretrained(path, variant=variant, **options)
    assert (shards is not None) == (len(list((path / "unet").glob("*-of-*"))) > 1)
    assert same_image(path, folder("sd"))
    assert same_image(path, folder("sd"), variant=variant)
    assert load_model(str(path), device="cpu").settings["variant"] == variant


@pytest.mark.parametrize("variant", ["fp16", "my-var", "a-00001-b"])
def test_a_variant_does_not_hold_the_number_of_a_shard(variant):
    shard = "-00001-of-00002"
    names = [f"model.{variant}{shard}.bin", f"model{shard}.{variant}.bin", f"model.{variant}.bin"]
    assert [contents.variants([name]) for name in names] == [{"": {variant}}] * 3
    assert contents.variants([f"model{shard}.bin"]) == {"": {None}}


@pytest.mark.parametrize("names", [[UNET], [TEXT], [UNET, TEXT]])
def test_some_parts_may_have_a_variant_alone(tmp_path, names):
    path = copied(tmp_path)
    for name in names:
        variant_of(path, name, "fp16")
    assert same_image(path, folder("sd"))


def test_files_without_a_variant_are_preferred_and_the_option_chooses(tmp_path):
    path = copied(tmp_path)
    state = {key: value * 0.5 for key, value in load_file(path / UNET).items()}
    save_file(state, path / "unet/diffusion_pytorch_model.half.safetensors")
    assert same_image(path, folder("sd"))
    assert not same_image(path, folder("sd"), variant="half")


def test_variants_that_are_not_there_or_not_clear_are_named(tmp_path):
    path = copied(tmp_path)
    assert "has (none), got 'fp16'" in refusal(load_model, str(path), variant="fp16")
    first = variant_of(path, UNET, "fp16")
    shutil.copy(first, first.with_name("diffusion_pytorch_model.bf16.safetensors"))
    message = refusal(load_model, str(path), device="cpu")
    assert "variants alone (bf16, fp16)" in message
    assert "`variant`" in message
    variant_of(path, TEXT, "ema")
    assert "none is complete" in refusal(load_model, str(path), device="cpu")


def test_a_repository_on_the_hub_whose_weights_all_have_a_variant(tmp_path, monkeypatch):
    path = copied(tmp_path)
    for name in (UNET, TEXT, "vae/diffusion_pytorch_model.safetensors"):
        variant_of(path, name, "fp16")
    inner, asked = diffusers.DiffusionPipeline.from_pretrained.__func__, []

    def from_pretrained(cls, place, *, variant=None, **options):
        assert place == "some-one/some-model"
        asked.append(variant)
        return inner(cls, str(path), variant=variant, **options)

    pipeline = diffusers.StableDiffusionPipeline
    monkeypatch.setattr(pipeline, "from_pretrained", classmethod(from_pretrained))
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda _, name, **__: path / name)
    names = [f.relative_to(path).as_posix() for f in path.rglob("*") if f.is_file()]
    monkeypatch.setattr("huggingface_hub.list_repo_files", lambda *_, **__: names)
    model = load_model("some-one/some-model", device="cpu")
    assert asked == [None, "fp16"]
    assert model.settings["variant"] == "fp16"
    load_model("some-one/some-model", device="cpu", variant="fp16")
    assert asked == [None, "fp16", "fp16"]


# ---------------------------------------------------------------- parts


@pytest.mark.parametrize("part", ["vae", "unet", "text_encoder", "tokenizer", "scheduler"])
def test_a_part_that_is_missing_is_named(tmp_path, part):
    path = copied(tmp_path)
    shutil.rmtree(path / part)
    assert f"have no {part}/;" in refusal(load_model, str(path), device="cpu")
    for value in ([None, None], None):
        edit_index(path, **{part: value})
        assert f"names no {part};" in refusal(load_model, str(path), device="cpu")


def test_parts_that_a_pipeline_can_do_without_may_be_missing(tmp_path):
    path = copied(tmp_path)
    edit_index(path, feature_extractor=[None, None], image_encoder=[None, None])
    load_model(str(path), device="cpu")


@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json"])
def test_a_tokenizer_without_its_files_is_refused(tmp_path, file):
    """transformers makes an empty one, and every prompt would give the same image."""
    path = copied(tmp_path)
    (path / "tokenizer" / file).unlink()
    message = refusal(load_model, str(path), device="cpu")
    assert "incomplete" in message
    assert "tokenizer/" in message


@pytest.mark.parametrize("name", [UNET, TEXT, "vae/diffusion_pytorch_model.safetensors"])
def test_weights_that_a_checkpoint_lacks_are_named(tmp_path, name):
    """transformers gives them random values, with a warning alone."""
    path = copied(tmp_path)
    state = load_file(path / name)
    lost = sorted(state)[3]
    del state[lost]
    save_file(state, path / name, metadata={"format": "pt"})
    message = refusal(load_model, str(path), device="cpu")
    assert f"the checkpoint of {name.partition('/')[0]} lacks" in message
    assert lost.split(".")[-2] in message


def test_pointers_of_git_lfs_are_no_weights(tmp_path):
    path = copied(tmp_path)
    (path / TEXT).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    message = refusal(load_model, str(path), device="cpu")
    assert TEXT in message
    assert "git lfs pull" in message


@pytest.mark.parametrize("family", ["sdxl", "flux", "sana-sprint", "lcm", "pixart"])
def test_whole_pipelines_of_every_family_are_complete(family):
    path = folder(family)
    index = json.loads((path / "model_index.json").read_text())
    contents.check_parts(path, index, contents.file_names(path), ["vae", "scheduler", "tokenizer"])


# ---------------------------------------------------------------- something else


def test_a_loaded_pipeline_is_no_source(tmp_path):
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(folder("sd"), safety_checker=None)
    said = "got a StableDiffusionPipeline object; save the whole pipeline"
    assert said in refusal(load_model, pipe)
    run = {"prompts": ["a"], "rewards": ["toy_latents:brightness"], "out": tmp_path / "run"}
    for model in (pipe, {"source": pipe}):
        assert said in refusal(optimize, model=model, **run)
    assert "must be a string, got int" in refusal(load_model, 3)
    load_model(folder("sd"), device="cpu")  # a path is a name


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["pytorch_lora_weights.safetensors"], "LoRA"),
        (["adapter_config.json", "adapter_model.safetensors"], "LoRA"),
        (["config.json", "diffusion_pytorch_model.safetensors"], "one part of a pipeline"),
        (["dreamshaper_8.safetensors", "README.md"], "from_single_file"),
        (["v1-5-pruned.ckpt"], "load v1-5-pruned.ckpt with the method from_single_file"),
        (["turbo/model_index.json"], "there is one in turbo: give that folder"),
    ],
)
def test_folders_and_repositories_without_an_index_say_what_to_do(
    tmp_path, monkeypatch, names, said
):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    message = refusal(load_model, str(tmp_path))
    assert said in message
    assert "it has no model_index.json" in message
    monkeypatch.setattr("gaussreg_fast.latent.hub.download", lambda *_: None)
    monkeypatch.setattr("huggingface_hub.list_repo_files", lambda *_, **__: names)
    assert said in refusal(load_model, "some-one/some-model")


def test_files_that_are_no_pipeline_say_what_to_do(tmp_path):
    file = tmp_path / "cats.safetensors"
    save_file({"unet.down.lora_A.weight": torch.zeros(2)}, file)
    assert "LoRA" in refusal(load_model, str(file))
    save_file({"model.diffusion_model.weight": torch.zeros(2)}, file)
    assert "load cats.safetensors with the method from_single_file" in refusal(
        load_model, str(file)
    )
    index = folder("sd") / "model_index.json"
    assert f"give its folder, '{index.parent}'" in refusal(load_model, str(index))


def test_words_are_more_than_special_tokens():
    class Tokenizer:
        all_special_tokens = ("<s>", "</s>")

        def __init__(self, *words):
            self.words = words

        def get_vocab(self):
            return dict.fromkeys((*self.all_special_tokens, *self.words), 0)

    contents.check_loaded("m", {"tokenizer": Tokenizer("a"), "scheduler": object()})
    with pytest.raises(InputError, match="tokenizer_2/ has no vocabulary"):
        contents.check_loaded("m", {"tokenizer": Tokenizer("a"), "tokenizer_2": Tokenizer()})
