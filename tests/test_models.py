"""Pipelines as functions of their noise, on tiny random ones of every family."""

import functools
import json
import shutil
import subprocess
import sys
import types

import pytest
import tiny_pipelines
import torch
from torch import nn

from gaussreg_fast.latent.errors import InputError
from gaussreg_fast.latent.models import LatentModel, load_model

diffusers = pytest.importorskip("diffusers")

PROMPTS = ["a cat", "a red dog on the hill", "handwritten zero"]
SEEDS = [5, 1234567, 0]
PUBLISHED = {"sd": (1, 0.0), "sdxl": (1, 0.0), "flux": (1, 0.0), "sana-sprint": (2, 4.5)}
FAMILIES = [*PUBLISHED, "sana", "lcm"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("pipelines")
    return functools.cache(lambda family: tiny_pipelines.build(family, root))


@pytest.fixture(scope="module")
def loaded(folder):
    @functools.cache
    def load(family, **options):
        side = tiny_pipelines.SIZES[family]
        options = {"device": "cpu", "height": side, "width": side, **options}
        return load_model(str(folder(family)), **options)

    return load


def noise(model, batch=3, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, *model.latent_shape, generator=generator, dtype=dtype)


def weights_of(images):
    """A linear functional with a different weight for every pixel."""
    generator = torch.Generator().manual_seed(99)
    shape = images.shape[1:]
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(images.dtype)


def score(images):
    return (images * weights_of(images)).sum((1, 2, 3))


def image_and_gradient(model, latents, prompts=PROMPTS, seeds=SEEDS):
    x = latents.clone().requires_grad_()
    images = model.generate(x, model.encode(prompts), seeds=seeds)
    (gradient,) = torch.autograd.grad(score(images).sum(), x)
    return images.detach(), gradient


def relative(got, want):
    return float((got.double() - want.double()).norm() / want.double().norm())


# ---------------------------------------------------------------- against the pipelines


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_images_are_those_of_the_ordinary_call(folder, loaded, family, steps):
    model = loaded(family, steps=steps)
    latents = noise(model)
    pipe = diffusers.DiffusionPipeline.from_pretrained(folder(family))
    pipe.set_progress_bar_config(disable=True)
    own = {
        "flux": {"max_sequence_length": 256},
        "sana": {"use_resolution_binning": False},
        "sana-sprint": {"use_resolution_binning": False, "intermediate_timesteps": None},
    }
    given = latents
    if family == "flux":
        given = pipe._pack_latents(latents, len(latents), *model.latent_shape)
    side = tiny_pipelines.SIZES[family]
    want = pipe(
        prompt=PROMPTS,
        latents=given,
        height=side,
        width=side,
        num_inference_steps=steps,
        guidance_scale=model.settings["guidance"],
        generator=[torch.Generator().manual_seed(seed) for seed in SEEDS],
        output_type="pt",
        **own.get(family, {}),
    ).images
    got = model.generate(latents.requires_grad_(), model.encode(PROMPTS), seeds=SEEDS)
    assert isinstance(model, LatentModel)
    assert got.dtype == torch.float32
    assert got.shape == (3, 3, side, side)
    assert got.requires_grad
    torch.testing.assert_close(got.detach(), want, rtol=0, atol=1e-6)
    assert got.min() >= 0
    assert got.max() <= 1
    assert min((want[i] - want[j]).abs().mean() for i, j in [(0, 1), (0, 2), (1, 2)]) > 0.01


def sigma_max():
    """sqrt((1 - a) / a) at the last of SD's 1000 timesteps, betas linear in their roots."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    kept = torch.cumprod(1 - betas, 0)[-1]
    return float(((1 - kept) / kept).sqrt())


def tokens(latents):
    """FLUX's packing, patch by patch."""
    _, _, height, width = latents.shape
    patches = [
        latents[:, :, i : i + 2, j : j + 2].flatten(1)
        for i in range(0, height, 2)
        for j in range(0, width, 2)
    ]
    return torch.stack(patches, 1)


def untokens(packed, height, width):
    rows = []
    for i in range(height // 2):
        patches = packed[:, i * (width // 2) : (i + 1) * (width // 2)]
        rows.append(torch.cat([p.unflatten(1, (-1, 2, 2)) for p in patches.unbind(1)], 3))
    return torch.cat(rows, 2)


@pytest.mark.parametrize("family", ["sd", "sdxl", "flux", "sana-sprint"])
def test_what_the_denoiser_receives_and_makes(loaded, family):
    """One step by hand, from the noise to the pixels, with autograd's gradient of that."""
    model = loaded(family, steps=1)
    latents = noise(model)
    calls = []
    handle = model.denoiser.register_forward_hook(
        lambda _, args, kwargs, out: calls.append((args, kwargs, out)), with_kwargs=True
    )
    images, gradient = image_and_gradient(model, latents)
    handle.remove()
    ((args, kwargs, _),) = calls
    received = args[0] if args else kwargs["hidden_states"]
    sigma = sigma_max()
    expected = {
        "sd": lambda z: z * sigma / (sigma**2 + 1) ** 0.5,
        "sdxl": lambda z: z * sigma / (sigma**2 + 1) ** 0.5,
        "flux": tokens,
        "sana-sprint": lambda z: z,  # at t = pi / 2 there is nothing but noise
    }[family]
    torch.testing.assert_close(received.detach(), expected(latents), rtol=1e-5, atol=1e-5)

    x = latents.clone().requires_grad_()
    given = expected(x)
    if args:
        output = model.denoiser(given, *args[1:], **kwargs)[0]
    else:
        output = model.denoiser(**{**kwargs, "hidden_states": given})[0]
    _, height, width = model.latent_shape
    clean = {
        "sd": lambda: sigma * x - sigma * output,
        "sdxl": lambda: sigma * x - sigma * output,
        "flux": lambda: x - untokens(output, height, width),  # the velocity, over all of time
        "sana-sprint": lambda: -output,  # s = 1: (-z + v) / 1 is the noise of x0 = -that
    }[family]()
    if family == "sana-sprint":
        clean = given - output
    vae = model.vae.config
    decoded = model.vae.decode(
        clean / vae.scaling_factor + (getattr(vae, "shift_factor", None) or 0), return_dict=False
    )[0]
    want = (decoded / 2 + 0.5).clamp(0, 1)
    (want_gradient,) = torch.autograd.grad(score(want).sum(), x)
    torch.testing.assert_close(images, want.detach(), rtol=0, atol=2e-5)
    assert relative(gradient, want_gradient) < 1e-3


# ---------------------------------------------------------------- gradients


@pytest.mark.parametrize("family", FAMILIES)
def test_gradient_by_finite_differences(loaded, family):
    model = loaded(family, steps=2)
    latents = noise(model)
    conditioning = model.encode(PROMPTS)
    _, gradient = image_and_gradient(model, latents)
    direction = gradient / gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    direction = direction + noise(model, seed=7) / gradient[0].numel() ** 0.5
    # SANA's attention divides by sums of ReLUs, where tiny models jump: a short way is needed.
    eps = 1e-3
    with torch.no_grad():
        ends = [
            score(model.generate(latents + t * direction, conditioning, seeds=SEEDS).double())
            for t in (eps, -eps)
        ]
    slope = (ends[0] - ends[1]) / (2 * eps)
    want = (gradient.double() * direction.double()).sum((1, 2, 3))
    torch.testing.assert_close(slope, want, rtol=1e-2, atol=0)


def test_gradient_in_float64(tmp_path):
    scheduler = diffusers.DDIMScheduler(
        timestep_spacing="trailing",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        clip_sample=False,
        steps_offset=1,
    )
    path = tiny_pipelines.build("sd", tmp_path, scheduler=scheduler)
    model = load_model(str(path), device="cpu", dtype="float64", steps=2)
    latents = noise(model, dtype=torch.float64)
    conditioning = model.encode(PROMPTS)
    images, gradient = image_and_gradient(model, latents)
    assert images.dtype == gradient.dtype == torch.float64
    direction = noise(model, seed=7, dtype=torch.float64)
    eps = 1e-6
    ends = [
        score(model.generate(latents + t * direction, conditioning, seeds=SEEDS))
        for t in (eps, -eps)
    ]
    want = (gradient * direction).sum((1, 2, 3))
    torch.testing.assert_close((ends[0] - ends[1]) / (2 * eps), want, rtol=1e-4, atol=1e-5)


def test_clamped_pixels_pass_no_gradient(loaded):
    model = loaded("sd", steps=1)
    x = noise(model).requires_grad_()
    images = model.generate(x, model.encode(PROMPTS), seeds=SEEDS)
    outside = (images == 0) | (images == 1)
    assert outside.any(), "the tiny model clamps nothing: this test sees nothing"
    (gradient,) = torch.autograd.grad((images * outside).sum(), x)
    assert torch.count_nonzero(gradient) == 0


# ---------------------------------------------------------------- samples and seeds


@pytest.mark.parametrize("family", FAMILIES)
def test_samples_are_independent(loaded, family):
    model = loaded(family, steps=2)
    latents = noise(model)
    images, gradient = image_and_gradient(model, latents)
    for i in (2, 0, 1):
        alone = image_and_gradient(model, latents[i : i + 1], PROMPTS[i : i + 1], SEEDS[i : i + 1])
        torch.testing.assert_close(alone[0][0], images[i], rtol=0, atol=1e-5)
        assert relative(alone[1][0], gradient[i]) < 1e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_not_finite_stays_in_its_sample(loaded, family):
    model = loaded(family, steps=2)
    latents = noise(model)
    images, gradient = image_and_gradient(model, latents)
    broken = latents.clone()
    broken[1] = torch.nan
    got, got_gradient = image_and_gradient(model, broken)
    for i in (0, 2):
        torch.testing.assert_close(got[i], images[i], rtol=0, atol=1e-5)
        assert relative(got_gradient[i], gradient[i]) < 1e-4


@pytest.mark.parametrize(
    ("family", "noisy"),
    [("sd", True), ("sdxl", True), ("flux", False), ("sana-sprint", True), ("lcm", True)],
)
def test_seeds_decide_the_samplers_noise(loaded, family, noisy):
    model = loaded(family, steps=2)
    latents = noise(model)
    conditioning = model.encode(PROMPTS)
    state = torch.get_rng_state()
    first = model.generate(latents, conditioning, seeds=SEEDS)
    torch.manual_seed(8)
    torch.testing.assert_close(
        model.generate(latents, conditioning, seeds=SEEDS), first, rtol=0, atol=0
    )
    torch.set_rng_state(state)
    other = model.generate(latents, conditioning, seeds=[5, 6, 0])
    assert torch.equal(state, torch.get_rng_state())
    torch.testing.assert_close(other[[0, 2]], first[[0, 2]], rtol=0, atol=1e-6)
    assert ((other[1] - first[1]).abs().max() > 1e-3) == noisy


def test_one_step_has_no_noise_of_its_own(loaded):
    for family in PUBLISHED:
        model = loaded(family, steps=1)
        latents, conditioning = noise(model), model.encode(PROMPTS)
        images = [model.generate(latents, conditioning, seeds=s) for s in (SEEDS, [1, 2, 3])]
        assert torch.equal(*images)


# ---------------------------------------------------------------- text


@pytest.mark.parametrize("family", FAMILIES)
def test_text_encoders_run_in_encode_alone(loaded, family):
    model = loaded(family, steps=2)
    calls = []
    encoders = [m for name, m in model.pipe.components.items() if name.startswith("text_encoder")]
    handles = [m.register_forward_hook(lambda *_: calls.append(1)) for m in encoders]
    denoised = []
    handles.append(model.denoiser.register_forward_hook(lambda *_: denoised.append(1)))
    conditioning = model.encode(PROMPTS)
    assert len(calls) >= len(encoders) >= 1
    assert not denoised
    calls.clear()
    latents = noise(model).requires_grad_()
    for _ in range(2):
        model.generate(latents, conditioning, seeds=SEEDS).sum().backward()
    assert not calls
    for handle in handles:
        handle.remove()


def test_guidance_uses_the_empty_prompt(loaded):
    model = loaded("sd", steps=1, guidance=3.0)
    plain = loaded("sd", steps=1)
    latents = noise(model)
    with torch.no_grad():
        got = model.generate(latents, model.encode(PROMPTS), seeds=SEEDS)
        without = plain.generate(latents, plain.encode(PROMPTS), seeds=SEEDS)
    assert (got - without).abs().max() > 1e-4
    x = latents.clone()
    sigma = sigma_max()
    given = x * sigma / (sigma**2 + 1) ** 0.5
    encode = functools.partial(plain.pipe.encode_prompt, device="cpu", num_images_per_prompt=1)
    with torch.no_grad():
        text, empty = encode(PROMPTS, do_classifier_free_guidance=True)
        with_text = plain.denoiser(given, 999, text)[0]
        noise_of = plain.denoiser(given, 999, empty)[0]
        noise_of = noise_of + 3 * (with_text - noise_of)
        clean = sigma * (x - noise_of) / plain.vae.config.scaling_factor
        want = (plain.vae.decode(clean, return_dict=False)[0] / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(got, want, rtol=0, atol=2e-5)


def test_encode_within_inference_mode(loaded):
    """Its tensors could not be saved for a backward pass."""
    model = loaded("sd", steps=1)
    with torch.inference_mode():
        conditioning = model.encode(PROMPTS)
    ((text, _),) = conditioning.recording
    assert not text.is_inference()
    assert not text.requires_grad


# ---------------------------------------------------------------- memory


def blocks(model):
    """A part of the denoiser and one of the VAE's decoder that each call runs once per step."""
    denoiser, decoder = model.denoiser, model.vae.decoder
    inner = (
        denoiser.down_blocks if hasattr(denoiser, "down_blocks") else denoiser.transformer_blocks
    )
    return inner[0], decoder.up_blocks[0]


def count_calls(model):
    counts = [0, 0]

    def counter(i):
        def hook(*_):
            counts[i] += 1

        return hook

    handles = []
    for i, block in enumerate(blocks(model)):
        # The first leaf: checkpoints call blocks, and blocks call it.
        leaf = next(m for m in block.modules() if not list(m.children()))
        handles.append(leaf.register_forward_hook(counter(i)))
    return counts, handles


OPTIONS = [
    {"gradient_checkpointing": True},
    {"vae_slicing": True},
    {"offload": "text"},
    {"offload": "model"},
    {"offload": "model", "gradient_checkpointing": True, "vae_slicing": True},
]


@pytest.mark.parametrize("family", ["sd", "sdxl", "flux", "sana-sprint", "lcm"])
@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "+".join(map(str, o.values())))
def test_saving_memory_changes_nothing(loaded, family, options):
    plain = loaded(family, steps=2)
    model = loaded(family, steps=2, **options)
    latents = noise(model)
    want = image_and_gradient(plain, latents)
    got = image_and_gradient(model, latents)
    torch.testing.assert_close(got[0], want[0], rtol=0, atol=1e-5)
    assert relative(got[1], want[1]) < 1e-4
    assert {name: model.settings[name] for name in options} == options


@pytest.mark.parametrize("family", ["sd", "sdxl", "flux", "sana-sprint", "lcm"])
def test_checkpoints_compute_again_and_keep_less(loaded, family):
    held = {}
    for checkpointing in (False, True):
        model = loaded(family, steps=1, gradient_checkpointing=checkpointing)
        assert not model.denoiser.training
        x, conditioning = noise(model).requires_grad_(), model.encode(PROMPTS)
        counts, handles = count_calls(model)
        kept = []

        def keep(tensor, kept=kept):
            kept.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            images = model.generate(x, conditioning, seeds=SEEDS)
        forward = list(counts)
        images.sum().backward()
        assert min(forward) >= 1
        assert counts == [calls * (2 if checkpointing else 1) for calls in forward]
        held[checkpointing] = sum(kept)
        for handle in handles:
            handle.remove()
    assert held[True] < 0.6 * held[False]


def test_slices_are_decoded_one_by_one_and_not_kept(loaded):
    held = {}
    for slicing in (False, True):
        model = loaded("sd", steps=1, vae_slicing=slicing)
        batches, kept = [], []
        handle = model.vae.decoder.register_forward_pre_hook(
            lambda _, args, batches=batches: batches.append(len(args[0]))
        )
        x, conditioning = noise(model).requires_grad_(), model.encode(PROMPTS)

        def keep(tensor, kept=kept):
            kept.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            images = model.generate(x, conditioning, seeds=SEEDS)
        assert batches == ([1, 1, 1] if slicing else [3])
        images.sum().backward()
        assert batches == ([1] * 6 if slicing else [3])
        with torch.no_grad():  # nothing to compute again
            batches.clear()
            model.generate(x, conditioning, seeds=SEEDS)
        assert batches == ([1, 1, 1] if slicing else [3])
        held[slicing] = sum(kept)
        handle.remove()
    assert held[True] < 0.8 * held[False]


@pytest.fixture
def poisoned(monkeypatch):
    """Off the device, weights are NaN: whoever is called away from it, or backwards, shows."""
    from gaussreg_fast.latent.models.memory import Residency

    away = {}
    moves = []

    def move(self, group, *, to_device):
        moves.append((group, to_device))
        for module in self.groups[group]:
            for parameter in module.parameters():
                if to_device and id(parameter) in away:
                    parameter.data = away.pop(id(parameter))
                elif not to_device and id(parameter) not in away:
                    away[id(parameter)] = parameter.data
                    parameter.data = torch.full_like(parameter.data, torch.nan)

    monkeypatch.setattr(Residency, "_move", move)
    return moves


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("slicing", [False, True])
@pytest.mark.parametrize("family", ["sd", "flux", "sana-sprint"])
def test_offloaded_weights_are_there_when_they_are_used(
    folder, loaded, poisoned, family, slicing, checkpointing
):
    side = tiny_pipelines.SIZES[family]
    model = load_model(
        str(folder(family)),
        device="cpu",
        height=side,
        width=side,
        steps=2,
        offload="model",
        vae_slicing=slicing,
        gradient_checkpointing=checkpointing,
    )
    plain = loaded(family, steps=2)
    latents = noise(model)
    for _ in range(2):
        got, want = image_and_gradient(model, latents), image_and_gradient(plain, latents)
        torch.testing.assert_close(got[0], want[0], rtol=0, atol=1e-5)
        assert relative(got[1], want[1]) < 1e-4
    # At any time one group at most was on the device.
    there = set()
    for group, to_device in poisoned:
        (there.add if to_device else there.discard)(group)
        assert len(there) <= 1


def test_text_encoders_leave_the_device_after_encode(folder, poisoned):
    model = load_model(str(folder("sdxl")), device="cpu", offload="text")
    encoder = model.pipe.text_encoder_2
    assert all(p.isnan().all() for p in encoder.parameters())
    first = model.encode(PROMPTS)
    assert all(p.isnan().all() for p in encoder.parameters())
    again = model.encode(PROMPTS)
    for one, other in zip(first.recording[0], again.recording[0], strict=True):
        assert (one is None and other is None) or torch.equal(one, other)
    assert not any(group != "text" and not to_device for group, to_device in poisoned)


# ---------------------------------------------------------------- precision


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_half_precision_models_keep_float32_ends(loaded, family, dtype):
    model, exact = loaded(family, steps=1, dtype=dtype), loaded(family, steps=1)
    assert model.settings["dtype"] == dtype
    assert model.denoiser.dtype == getattr(torch, dtype)
    latents = noise(model)
    images, gradient = image_and_gradient(model, latents)
    want, want_gradient = image_and_gradient(exact, latents)
    assert images.dtype == gradient.dtype == torch.float32
    tolerance = {"bfloat16": 0.08, "float16": 0.02}[dtype]
    assert (images - want).abs().mean() < tolerance
    cosine = nn.functional.cosine_similarity(gradient.flatten(1), want_gradient.flatten(1))
    assert cosine.mean() > {"bfloat16": 0.9, "float16": 0.98}[dtype]


def test_float16_gradients_do_not_underflow(loaded):
    """Each sample's gradient scales with its reward, though float16 ends at 6e-8."""
    model = loaded("flux", steps=1, dtype="float16")
    x = noise(model).requires_grad_()
    conditioning = model.encode(PROMPTS)
    factors = torch.tensor([2.0**-40, 1.0, 2.0**20])
    gradients = []
    for factor in (torch.ones(3), factors):
        images = model.generate(x, conditioning, seeds=SEEDS)
        gradients.append(torch.autograd.grad((factor * score(images)).sum(), x)[0])
    want = gradients[0] * factors.view(3, 1, 1, 1)
    torch.testing.assert_close(gradients[1], want, rtol=1e-5, atol=0)


def test_float16_gradients_of_zero_and_of_nan(loaded):
    model = loaded("flux", steps=1, dtype="float16")
    x = noise(model).requires_grad_()
    images = model.generate(x, model.encode(PROMPTS), seeds=SEEDS)
    factors = torch.tensor([0.0, torch.nan, 1.0])
    (gradient,) = torch.autograd.grad((factors * score(images)).sum(), x)
    assert torch.count_nonzero(gradient[0]) == 0
    assert gradient[1].isnan().any()
    assert gradient[2].isfinite().all()
    assert gradient[2].norm() > 0


def test_a_vae_that_overflows_in_float16_stays_in_float32(loaded):
    model = loaded("sdxl", steps=1, dtype="float16")
    assert model.settings["vae_dtype"] == "float32"
    assert model.vae.dtype == torch.float32
    image_and_gradient(model, noise(model))
    assert model.vae.dtype == torch.float32
    assert loaded("sdxl", steps=1, dtype="bfloat16").vae.dtype == torch.bfloat16


def test_weights_are_frozen(loaded):
    for family in FAMILIES:
        model = loaded(family, steps=1)
        x = noise(model).requires_grad_()
        model.generate(x, model.encode(PROMPTS), seeds=SEEDS).sum().backward()
        for module in model.pipe.components.values():
            if isinstance(module, nn.Module):
                assert not module.training
                assert all(p.grad is None and not p.requires_grad for p in module.parameters())


# ---------------------------------------------------------------- settings


@pytest.mark.parametrize("family", PUBLISHED)
def test_published_settings(folder, family):
    side = tiny_pipelines.SIZES[family]
    size = {"height": side, "width": side} if family == "flux" else {}
    model = load_model(str(folder(family)), device="cpu", **size)
    assert (model.settings["steps"], model.settings["guidance"]) == PUBLISHED[family]
    assert (model.settings["height"], model.settings["width"]) == (side, side)
    assert model.settings["source"] == model.name == str(folder(family))
    assert json.loads(json.dumps(model.settings)) == model.settings


def test_sizes_other_than_square(loaded):
    model = loaded("flux", steps=1, height=16, width=40)
    assert model.latent_shape == (4, 8, 20)
    images, gradient = image_and_gradient(model, noise(model))
    assert images.shape == (3, 3, 16, 40)
    assert gradient.abs().sum((1, 2, 3)).min() > 0


def test_the_embedded_pipeline_by_its_name(folder, monkeypatch):
    module = types.ModuleType("gaussreg_fast.latent.digits")
    module.PIPELINE = folder("sd")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    model = load_model("digits", device="cpu")
    assert model.name == "digits"
    assert model.latent_shape == (4, 16, 16)


def test_a_safety_checker_is_left_out_without_a_word(folder, tmp_path, caplog, capfd):
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
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# ---------------------------------------------------------------- bad input


def refusal(call, *args, **kwargs):
    with pytest.raises(InputError) as caught:
        call(*args, **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"steps": 0}, ["steps", "0"]),
        ({"steps": 1.5}, ["steps", "1.5"]),
        ({"guidance": -1.0}, ["guidance", "-1"]),
        ({"guidance": float("nan")}, ["guidance", "nan"]),
        ({"height": 30}, ["divisible by 8", "30 x 32"]),
        ({"width": -8}, ["width", "-8"]),
        ({"offload": "disk"}, ["offload", "none, text, model", "disk"]),
        ({"dtype": "int8"}, ["dtype", "bfloat16", "int8"]),
        ({"dtype": torch.int32}, ["dtype", "int32"]),
        ({"device": "abacus"}, ["device", "abacus"]),
    ],
)
def test_options_out_of_range(folder, options, words):
    message = refusal(load_model, str(folder("sd")), **{"device": "cpu", **options})
    assert all(word in message for word in words), message


@pytest.mark.skipif(torch.cuda.is_available(), reason="says that there is no GPU")
def test_a_gpu_that_is_not_there(folder):
    assert "no GPU" in refusal(load_model, str(folder("sd")), device="cuda")


@pytest.mark.parametrize(("family", "side", "multiple"), [("flux", 18, 4), ("sana-sprint", 48, 32)])
def test_sizes_must_be_divisible(folder, family, side, multiple):
    message = refusal(load_model, str(folder(family)), device="cpu", height=side, width=side)
    assert f"divisible by {multiple}" in message


def test_sources_that_are_no_pipeline(folder, tmp_path):
    assert "model_index.json" in refusal(load_model, str(tmp_path))
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"x")
    assert "is a file" in refusal(load_model, str(file))
    for source in ("./nowhere", "/no/such/folder", "a/b/c", "two words", ""):
        if source:
            assert "neither a folder nor a hub id" in refusal(load_model, source)
    for text in ("{", "[]", "{}", '{"_class_name": ["module", "Class"]}'):
        (tmp_path / "model_index.json").write_text(text)
        assert "model_index.json" in refusal(load_model, str(tmp_path))
    (tmp_path / "model_index.json").write_text('{"_class_name": "TimeTravelPipeline"}')
    assert "TimeTravelPipeline" in refusal(load_model, str(tmp_path))


@pytest.mark.parametrize("harm", ["absent", "torn", "other shape"])
def test_weights_that_cannot_be_read(folder, tmp_path, harm):
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


@pytest.mark.parametrize("package", ["diffusers", "transformers", "accelerate"])
def test_a_missing_package(folder, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    message = refusal(load_model, str(folder("sd")), device="cpu")
    assert "pip install 'gaussreg_fast[latent]'" in message
    assert package in message


def test_latents_prompts_and_seeds_that_do_not_fit(loaded):
    model = loaded("sd", steps=1)
    conditioning = model.encode(PROMPTS)
    for shape in ((3, 4, 16, 8), (2, 4, 16, 16), (4, 16, 16), (3, 1024)):
        message = refusal(model.generate, torch.zeros(shape), conditioning, seeds=SEEDS)
        assert "(3, 4, 16, 16)" in message
        assert str(shape) in message
    latents = noise(model)
    assert "float32" in refusal(model.generate, latents.half(), conditioning, seeds=SEEDS)
    assert "seeds" in refusal(model.generate, latents, conditioning, seeds=[1])
    for prompts in ([], "a cat", ["a cat", None]):
        assert "prompts" in refusal(model.encode, prompts)


# ---------------------------------------------------------------- any other pipeline


def test_pipelines_of_many_steps_must_be_told_theirs(folder):
    assert "steps must be given" in refusal(load_model, str(folder("sana")), device="cpu")


def test_a_pipeline_without_an_adapter_takes_its_own_defaults(folder):
    model = load_model(str(folder("lcm")), device="cpu")
    assert model.settings["pipeline"] == "LatentConsistencyModelPipeline"
    assert (model.settings["steps"], model.settings["guidance"]) == (4, 8.5)


def test_a_transformer_without_an_adapter(folder):
    """PixArt's pipeline: T5, a transformer, DDPM-like noise in each of its steps."""
    path = str(folder("pixart"))
    assert "steps must be given" in refusal(load_model, path, device="cpu")
    model = load_model(path, device="cpu", steps=2, guidance=0.0)
    assert model.latent_shape == (4, 16, 16)
    latents = noise(model)
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


def renamed(path, target, name):
    shutil.copytree(path, target)
    index = json.loads((target / "model_index.json").read_text())
    index["_class_name"] = name
    (target / "model_index.json").write_text(json.dumps(index))
    return str(target)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("StableDiffusionImg2ImgPipeline", "no latents"),
        ("StableDiffusionInpaintPipeline", "from an image"),
        ("StableDiffusionInstructPix2PixPipeline", "from an image"),
    ],
)
def test_pipelines_that_cannot_be_driven_by_noise(folder, tmp_path, name, why):
    message = refusal(load_model, renamed(folder("sd"), tmp_path / "p", name), device="cpu")
    assert name in message
    assert why in message


def test_a_sampler_with_noise_of_its_own_is_refused(tmp_path):
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(stochastic_sampling=True)
    path = tiny_pipelines.build("flux", tmp_path, scheduler=scheduler)
    assert "stochastic_sampling" in refusal(load_model, str(path), device="cpu")


def test_what_passes_no_gradient_is_refused(loaded, monkeypatch):
    model = loaded("lcm", steps=1)
    conditioning = model.encode(PROMPTS)
    decode = model.vae.decode
    monkeypatch.setattr(
        model.vae, "decode", lambda z, **kwargs: (decode(z.detach(), **kwargs)[0].detach(),)
    )
    x = noise(model).requires_grad_()
    assert "no gradient" in refusal(model.generate, x, conditioning, seeds=SEEDS)
    with torch.no_grad():
        model.generate(x, conditioning, seeds=SEEDS)
