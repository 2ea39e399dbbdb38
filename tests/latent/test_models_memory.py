"""Checkpoints, slices, offloading and half precision change the memory, not the results."""

import pytest
import tiny_pipelines
import torch
from tiny_models import (
    FAMILIES,
    PROMPTS,
    SEEDS,
    folder,
    image_and_gradient,
    loaded,
    relative,
    score,
    starting_latents,
)
from torch import nn

from gaussreg_fast.latent.models import load_model

pytest.importorskip("diffusers")

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
def test_saving_memory_changes_nothing(family, options):
    plain = loaded(family, steps=2)
    model = loaded(family, steps=2, **options)
    latents = starting_latents(model)
    want = image_and_gradient(plain, latents)
    got = image_and_gradient(model, latents)
    torch.testing.assert_close(got[0], want[0], rtol=0, atol=1e-5)
    assert relative(got[1], want[1]) < 1e-4
    assert {name: model.settings[name] for name in options} == options


@pytest.mark.parametrize("family", ["sd", "sdxl", "flux", "sana-sprint", "lcm"])
def test_checkpoints_compute_again_and_keep_less(family):
    held = {}
    for checkpointing in (False, True):
        model = loaded(family, steps=1, gradient_checkpointing=checkpointing)
        assert not model.denoiser.training
        x, conditioning = starting_latents(model).requires_grad_(), model.encode(PROMPTS)
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


def test_slices_are_decoded_one_by_one_and_not_kept():
    held = {}
    for slicing in (False, True):
        model = loaded("sd", steps=1, vae_slicing=slicing)
        batches, kept = [], []
        handle = model.vae.decoder.register_forward_pre_hook(
            lambda _, args, batches=batches: batches.append(len(args[0]))
        )
        x, conditioning = starting_latents(model).requires_grad_(), model.encode(PROMPTS)

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
    """Weights off the device are NaN, so that a call that uses them, forward or backward, shows."""
    from gaussreg_fast.latent.models.memory import Residency

    away = {}
    moves = []

    def move(self, group, *, to_device):
        moves.append((self, group, to_device))
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
def test_offloaded_weights_are_there_when_they_are_used(poisoned, family, slicing, checkpointing):
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
    latents = starting_latents(model)
    for _ in range(2):
        got, want = image_and_gradient(model, latents), image_and_gradient(plain, latents)
        torch.testing.assert_close(got[0], want[0], rtol=0, atol=1e-5)
        assert relative(got[1], want[1]) < 1e-4
    # At any time one group at most was on the device.
    there = set()
    for residency, group, to_device in poisoned:
        if residency is not model.residency:
            continue
        (there.add if to_device else there.discard)(group)
        assert len(there) <= 1


def test_text_encoders_leave_the_device_after_encode(poisoned):
    model = load_model(str(folder("sdxl")), device="cpu", offload="text")
    encoder = model.pipe.text_encoder_2
    assert all(p.isnan().all() for p in encoder.parameters())
    first = model.encode(PROMPTS)
    assert all(p.isnan().all() for p in encoder.parameters())
    again = model.encode(PROMPTS)
    for one, other in zip(first.recording[0], again.recording[0], strict=True):
        assert (one is None and other is None) or torch.equal(one, other)
    assert not any(group != "text" and not to_device for _, group, to_device in poisoned)


# ---------------------------------------------------------------- precision


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_half_precision_models_keep_float32_ends(family, dtype):
    model, exact = loaded(family, steps=1, dtype=dtype), loaded(family, steps=1)
    assert model.settings["dtype"] == dtype
    assert model.denoiser.dtype == getattr(torch, dtype)
    latents = starting_latents(model)
    images, gradient = image_and_gradient(model, latents)
    want, want_gradient = image_and_gradient(exact, latents)
    assert images.dtype == gradient.dtype == torch.float32
    tolerance = {"bfloat16": 0.08, "float16": 0.02}[dtype]
    assert (images - want).abs().mean() < tolerance
    cosine = nn.functional.cosine_similarity(gradient.flatten(1), want_gradient.flatten(1))
    assert cosine.mean() > {"bfloat16": 0.9, "float16": 0.98}[dtype]


def test_float16_gradients_do_not_underflow():
    """Each sample's gradient scales with its reward, though float16 ends at 6e-8."""
    model = loaded("flux", steps=1, dtype="float16")
    x = starting_latents(model).requires_grad_()
    conditioning = model.encode(PROMPTS)
    factors = torch.tensor([2.0**-40, 1.0, 2.0**20])
    gradients = []
    for factor in (torch.ones(3), factors):
        images = model.generate(x, conditioning, seeds=SEEDS)
        gradients.append(torch.autograd.grad((factor * score(images)).sum(), x)[0])
    want = gradients[0] * factors.view(3, 1, 1, 1)
    torch.testing.assert_close(gradients[1], want, rtol=1e-5, atol=0)


def test_float16_gradients_of_zero_and_of_nan():
    model = loaded("flux", steps=1, dtype="float16")
    x = starting_latents(model).requires_grad_()
    images = model.generate(x, model.encode(PROMPTS), seeds=SEEDS)
    factors = torch.tensor([0.0, torch.nan, 1.0])
    (gradient,) = torch.autograd.grad((factors * score(images)).sum(), x)
    assert torch.count_nonzero(gradient[0]) == 0
    assert gradient[1].isnan().any()
    assert gradient[2].isfinite().all()
    assert gradient[2].norm() > 0


def test_a_vae_that_overflows_in_float16_stays_in_float32():
    model = loaded("sdxl", steps=1, dtype="float16")
    assert model.settings["vae_dtype"] == "float32"
    assert model.vae.dtype == torch.float32
    image_and_gradient(model, starting_latents(model))
    assert model.vae.dtype == torch.float32
    assert loaded("sdxl", steps=1, dtype="bfloat16").vae.dtype == torch.bfloat16


def test_weights_are_frozen():
    for family in FAMILIES:
        model = loaded(family, steps=1)
        x = starting_latents(model).requires_grad_()
        model.generate(x, model.encode(PROMPTS), seeds=SEEDS).sum().backward()
        for module in model.pipe.components.values():
            if isinstance(module, nn.Module):
                assert not module.training
                assert all(p.grad is None and not p.requires_grad for p in module.parameters())
