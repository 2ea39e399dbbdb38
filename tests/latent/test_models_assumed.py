"""What is assumed of pipelines: of known ones, and of those without an adapter."""

import json
import shutil
from pathlib import Path

import pytest
import tiny_pipelines
import torch
from tiny_models import (
    PROMPTS,
    SEEDS,
    folder,
    image_and_gradient,
    loaded,
    refusal,
    relative,
    starting_latents,
)

from gaussreg_fast.errors import InputError
from gaussreg_fast.latent.models import load_model
from gaussreg_fast.latent.models.generic import Generic
from gaussreg_fast.latent.models.options import Options

diffusers = pytest.importorskip("diffusers")


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


def test_a_folder_is_known_by_its_own_name_and_not_by_those_above_it(tmp_path, monkeypatch):
    size = {"device": "cpu", "height": 32, "width": 32}
    for name in ("sdxl-turbo/base-sdxl", "somebody--sdxl-turbo", "sdxl-turbo/snapshots/0a1b2c"):
        path = renamed(folder("sdxl"), tmp_path / name, _name_or_path="me/sdxl-turbo/mine")
        assert "steps must be given" in refusal(load_model, path, **size)
    turbo = Path(renamed(folder("sdxl"), tmp_path / "mine/sdxl-turbo", _name_or_path=None))
    link = tmp_path / "link"
    link.symlink_to(turbo)
    monkeypatch.chdir(turbo)
    for source in (".", "unet/..", f"{turbo}/", str(link)):
        assert load_model(source, **size).settings["steps"] == 1


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
        ("StableDiffusionImg2ImgPipeline", "takes no latents"),
        ("StableDiffusionInpaintPipeline", "fails with a prompt and latents alone"),
        ("StableDiffusionInstructPix2PixPipeline", "`image` input cannot be undefined"),
        ("StableDiffusionAttendAndExcitePipeline", "needs token_indices beside the prompt"),
        ("LatentConsistencyModelPipeline", "EulerAncestralDiscreteScheduler.set_timesteps()"),
        ("TextToVideoSDPipeline", "makes videos"),
    ],
)
def test_pipelines_that_cannot_be_driven_by_noise(tmp_path, name, why):
    path = renamed(folder("sd"), tmp_path / "p", _class_name=name)
    message = refusal(load_model, path, device="cpu", steps=1)
    assert f"{name} cannot be optimised" in message
    assert why in message


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("Flux2Pipeline", "only the packing of FLUX.1 is known"),  # its image is optional
        ("Flux2KleinPipeline", "only the packing of FLUX.1 is known"),
        ("FluxKontextPipeline", "only the packing of FLUX.1 is known"),
        ("QwenImagePipeline", "only the packing of FLUX.1 is known"),
        ("WanPipeline", "makes videos"),
        ("StableAudioPipeline", "makes sound"),
        ("AudioLDM2Pipeline", "makes sound"),
        ("BlipDiffusionPipeline", "needs reference_image"),
        ("KandinskyPriorPipeline", "no unet or transformer with in_channels"),
    ],
)
def test_the_reason_of_a_refusal_is_the_right_one(name, why):
    """It shows in the class, of which no part is needed."""
    kind = getattr(diffusers, name, None)
    if kind is None:
        pytest.skip(f"diffusers {diffusers.__version__} has no {name}")
    options = Options(torch.device("cpu"), torch.float32, 1, None, 32, 32, False, False, "none")
    message = refusal(Generic, kind.__new__(kind), "some/model", options)
    assert f"{name} cannot be optimised: " in message
    assert why in message
    assert "from an image" not in message


def test_memory_that_runs_out_while_a_pipeline_is_tried_is_not_its_fault(monkeypatch):
    error = RuntimeError("DefaultCPUAllocator: can't allocate memory")

    def fails(self, prompts):
        raise error

    monkeypatch.setattr(Generic, "encode", fails)
    with pytest.raises(RuntimeError) as raised:
        load_model(str(folder("lcm")), device="cpu")
    assert raised.value is error


def test_a_pipeline_with_an_optional_image_is_taken(tmp_path, monkeypatch):
    call = diffusers.LatentConsistencyModelPipeline.__call__.__wrapped__

    class EditOrMakePipeline(diffusers.LatentConsistencyModelPipeline):
        def __call__(
            self, prompt=None, image=None, latents=None, generator=None, output_type="pil",
            return_dict=True, num_inference_steps=4, height=None, width=None,
        ):  # fmt: skip
            assert image is None
            return call(
                self, prompt=prompt, latents=latents, generator=generator, output_type=output_type,
                return_dict=return_dict, num_inference_steps=num_inference_steps, height=height,
                width=width,
            )  # fmt: skip

    monkeypatch.setattr(diffusers, "EditOrMakePipeline", EditOrMakePipeline, raising=False)
    path = renamed(folder("lcm"), tmp_path / "p", _class_name="EditOrMakePipeline")
    model = load_model(path, device="cpu")
    want = image_and_gradient(loaded("lcm"), starting_latents(model))
    for ours, theirs in zip(image_and_gradient(model, starting_latents(model)), want, strict=True):
        assert torch.equal(ours, theirs)
    message = refusal(load_model, path, device="cpu", guidance=3.0)
    assert "call takes no guidance_scale, got 3.0" in message


@pytest.mark.parametrize("size", [[12, 20], 16])
def test_sizes_in_the_configuration_are_defaults(tmp_path, size):
    path = renamed(folder("lcm"), tmp_path / "p")
    config = json.loads((tmp_path / "p/unet/config.json").read_text())
    (tmp_path / "p/unet/config.json").write_text(json.dumps(config | {"sample_size": size}))
    height, width = size if isinstance(size, list) else (size, size)
    assert load_model(path, device="cpu").latent_shape == (4, height, width)


# ---------------------------------------------------------------- noise of the sampler


def test_a_sampler_with_noise_of_its_own_is_refused(tmp_path):
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(stochastic_sampling=True)
    path = tiny_pipelines.build("flux", tmp_path, scheduler=scheduler)
    model = load_model(str(path), device="cpu", height=32, width=32)
    x, conditioning = starting_latents(model), model.encode(PROMPTS)
    for _ in range(2):
        message = refusal(model.generate, x, conditioning, seeds=SEEDS)
        assert "FlowMatchEulerDiscreteScheduler" in message
        assert "stochastic_sampling to false" in message


def test_any_draw_from_the_global_generator_is_refused(monkeypatch):
    model = load_model(str(folder("lcm")), device="cpu", steps=2)
    inner = model.pipe.scheduler.step

    def step(*args, **kwargs):
        torch.randn(1)
        return inner(*args, **kwargs)

    x, conditioning = starting_latents(model), model.encode(PROMPTS)
    monkeypatch.setattr(model.pipe.scheduler, "step", step)
    message = refusal(model.generate, x, conditioning, seeds=SEEDS)
    assert "LCMScheduler, which draws noise that no seed of a sample determines" in message
    monkeypatch.undo()
    model.generate(x, conditioning, seeds=SEEDS)


def test_noise_that_the_seeds_determine_is_none_of_its_own(tmp_path):
    """SANA passes its generators to the scheduler, which takes its noise from them."""
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(stochastic_sampling=True)
    path = tiny_pipelines.build("sana", tmp_path, scheduler=scheduler)
    model = load_model(str(path), device="cpu", steps=2)
    x, conditioning = starting_latents(model), model.encode(PROMPTS)
    try:
        first = model.generate(x, conditioning, seeds=SEEDS)
    except InputError as error:  # in older releases the scheduler ignores them
        pytest.skip(str(error))
    assert torch.equal(model.generate(x, conditioning, seeds=SEEDS), first)
    assert not torch.equal(model.generate(x, conditioning, seeds=[1, 2, 3]), first)


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
