"""Pipelines as functions of their noise, on tiny random ones of every family."""

import functools

import pytest
import tiny_pipelines
import torch
from tiny_models import (
    FAMILIES,
    PROMPTS,
    PUBLISHED,
    SEEDS,
    folder,
    image_and_gradient,
    loaded,
    relative,
    score,
    starting_latents,
)

from gaussreg_fast.latent.models import LatentModel, load_model

diffusers = pytest.importorskip("diffusers")

# ---------------------------------------------------------------- against the pipelines


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_images_are_those_of_the_ordinary_call(family, steps):
    model = loaded(family, steps=steps)
    latents = starting_latents(model)
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
def test_what_the_denoiser_receives_and_makes(family):
    """One step by hand, from the noise to the pixels, with autograd's gradient of that."""
    model = loaded(family, steps=1)
    latents = starting_latents(model)
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
        "sana-sprint": lambda: x - output,  # TrigFlow at t = pi / 2
    }[family]()
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
def test_gradient_by_finite_differences(family):
    model = loaded(family, steps=2)
    latents = starting_latents(model)
    conditioning = model.encode(PROMPTS)
    _, gradient = image_and_gradient(model, latents)
    direction = gradient / gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    direction = direction + starting_latents(model, seed=7) / gradient[0].numel() ** 0.5
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
    latents = starting_latents(model, dtype=torch.float64)
    conditioning = model.encode(PROMPTS)
    images, gradient = image_and_gradient(model, latents)
    assert images.dtype == gradient.dtype == torch.float64
    direction = starting_latents(model, seed=7, dtype=torch.float64)
    eps = 1e-6
    ends = [
        score(model.generate(latents + t * direction, conditioning, seeds=SEEDS))
        for t in (eps, -eps)
    ]
    want = (gradient * direction).sum((1, 2, 3))
    torch.testing.assert_close((ends[0] - ends[1]) / (2 * eps), want, rtol=1e-4, atol=1e-5)


def test_clamped_pixels_pass_no_gradient():
    model = loaded("sd", steps=1)
    x = starting_latents(model).requires_grad_()
    images = model.generate(x, model.encode(PROMPTS), seeds=SEEDS)
    outside = (images == 0) | (images == 1)
    assert outside.any(), "the tiny model clamps nothing: this test sees nothing"
    (gradient,) = torch.autograd.grad((images * outside).sum(), x)
    assert torch.count_nonzero(gradient) == 0


# ---------------------------------------------------------------- samples and seeds


@pytest.mark.parametrize("family", FAMILIES)
def test_samples_are_independent(family):
    model = loaded(family, steps=2)
    latents = starting_latents(model)
    images, gradient = image_and_gradient(model, latents)
    for i in (2, 0, 1):
        alone = image_and_gradient(model, latents[i : i + 1], PROMPTS[i : i + 1], SEEDS[i : i + 1])
        torch.testing.assert_close(alone[0][0], images[i], rtol=0, atol=1e-5)
        assert relative(alone[1][0], gradient[i]) < 1e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_not_finite_stays_in_its_sample(family):
    model = loaded(family, steps=2)
    latents = starting_latents(model)
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
def test_seeds_decide_the_samplers_noise(family, noisy):
    model = loaded(family, steps=2)
    latents = starting_latents(model)
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


def test_one_step_has_no_noise_of_its_own():
    for family in PUBLISHED:
        model = loaded(family, steps=1)
        latents, conditioning = starting_latents(model), model.encode(PROMPTS)
        images = [model.generate(latents, conditioning, seeds=s) for s in (SEEDS, [1, 2, 3])]
        assert torch.equal(*images)


# ---------------------------------------------------------------- text


@pytest.mark.parametrize("family", FAMILIES)
def test_text_encoders_run_in_encode_alone(family):
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
    latents = starting_latents(model).requires_grad_()
    for _ in range(2):
        model.generate(latents, conditioning, seeds=SEEDS).sum().backward()
    assert not calls
    for handle in handles:
        handle.remove()


def test_guidance_uses_the_empty_prompt():
    model = loaded("sd", steps=1, guidance=3.0)
    plain = loaded("sd", steps=1)
    latents = starting_latents(model)
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


def test_encode_within_inference_mode():
    """Its tensors could not be saved for a backward pass."""
    model = loaded("sd", steps=1)
    with torch.inference_mode():
        conditioning = model.encode(PROMPTS)
    ((text, _),) = conditioning.recording
    assert not text.is_inference()
    assert not text.requires_grad
