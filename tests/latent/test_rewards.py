"""Rewards against the originals' forwards: scores, gradients, independence, caches, sources."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tiny_rewards
import torch
import torch.nn.functional as F
from tiny_rewards import images, normalised

from gaussreg_fast.latent.rewards import load_reward, load_rewards, parse_reward

pytest.importorskip("transformers")

NAMES = list(tiny_rewards.BUILDERS)
PROMPTS = ["a cat", "photo of a red car", "dog"]
F64 = torch.float64


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Name -> (folder, originals)."""
    root = tmp_path_factory.mktemp("rewards")
    return {name: (root / name, tiny_rewards.build(name, root / name)) for name in NAMES}


@pytest.fixture(scope="module")
def double(tiny):
    """Every reward in float64."""
    return {n: load_reward(n, source=str(tiny[n][0]), dtype=F64) for n in NAMES}


def clip_cosine(model, pixels, prompts):
    """Return the cosines from transformers' own forward of the whole model."""
    ids = torch.full((len(prompts), tiny_rewards.CONTEXT), len(tiny_rewards.CLIP_VOCABULARY) - 1)
    for row, prompt in zip(ids, prompts, strict=True):
        row[: len(tiny_rewards.clip_ids(prompt))] = torch.tensor(tiny_rewards.clip_ids(prompt))
    logits = model.double()(input_ids=ids, pixel_values=pixels).logits_per_image.diagonal()
    return logits / model.logit_scale.exp()


def reference(name, originals, pixels, prompts):
    if name == "clip":
        return 100 * clip_cosine(originals, pixels, prompts)
    if name == "pickscore":
        return np.exp(4.5) * clip_cosine(originals, pixels, prompts)
    if name == "hpsv2":
        return originals.double().cosine(pixels, prompts)
    if name == "imagereward":
        return originals.double().score(pixels, prompts)
    clip, head = originals
    embedding = clip.double()(
        pixel_values=pixels, input_ids=torch.tensor([tiny_rewards.clip_ids("a")])
    ).image_embeds
    return head.double()(F.normalize(embedding, dim=-1))


# ---------------------------------------------------------------- scores and gradients


@pytest.mark.parametrize("name", NAMES)
def test_scores_are_the_originals(tiny, double, name):
    x = images(3, 3, 32, 32)
    with torch.no_grad():
        want = reference(name, tiny[name][1], normalised(x), PROMPTS)
        got = double[name](x, PROMPTS)
    assert got.dtype == F64
    assert want.std() > 1e-3  # the images and prompts matter
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_images_of_any_aspect(tiny, double, name):
    """All crop the middle of 48 x 96, but HPS v2, which pads it with black."""
    x = images(2, 3, 48, 96)
    if name == "hpsv2":
        pixels = F.interpolate(x, size=(16, 32), mode="bicubic", antialias=True)
        pixels = F.pad(pixels, (0, 0, 8, 8))
    else:
        pixels = F.interpolate(x, size=(32, 64), mode="bicubic", antialias=True)[..., 16:48]
    with torch.no_grad():
        want = reference(name, tiny[name][1], normalised(pixels), PROMPTS[:2])
        torch.testing.assert_close(double[name](x, PROMPTS[:2]), want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_finite_differences(double, name):
    x = images(2, 3, 40, 52, seed=1).requires_grad_()
    direction = torch.randn(x.shape, dtype=F64, generator=torch.Generator().manual_seed(2))
    double[name](x, PROMPTS[:2]).sum().backward()
    with torch.no_grad():
        ahead, behind = (double[name](x + h * direction, PROMPTS[:2]).sum() for h in (1e-5, -1e-5))
    slope = (x.grad * direction).sum()
    torch.testing.assert_close(slope, (ahead - behind) / 2e-5, rtol=1e-6, atol=1e-9)
    assert slope.abs() > 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_each_sample_is_by_itself(double, name):
    x = images(3, 3, 32, 40, seed=3)
    x.requires_grad_()
    scores = double[name](x, PROMPTS)
    (gradient,) = torch.autograd.grad(scores[0] + scores[2], x)
    assert gradient[1].abs().max() == 0
    broken = x.detach().clone()
    broken[1, 0, 16, 20] = torch.nan
    broken.requires_grad_()
    contained = double[name](broken, PROMPTS)
    assert torch.isnan(contained).tolist() == [False, True, False]
    (beside,) = torch.autograd.grad(contained.sum(), broken)
    torch.testing.assert_close(beside[::2], gradient[::2])
    for i in (0, 2):
        alone = x.detach()[i : i + 1].requires_grad_()
        score = double[name](alone, [PROMPTS[i]])
        score.sum().backward()
        torch.testing.assert_close(score[0], scores[i], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(alone.grad[0], gradient[i], rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_models_take_and_give_float32(tiny, double, name):
    x = images(2, 3, 32, 32, seed=4)
    reward = load_reward(name, source=str(tiny[name][0]), dtype=torch.bfloat16)
    x32 = x.float().requires_grad_()
    scores = reward(x32, PROMPTS[:2])
    scores.sum().backward()
    assert scores.dtype == x32.grad.dtype == torch.float32
    want = double[name](x, PROMPTS[:2])
    scale = {"clip": 100, "pickscore": 90}.get(name, 1)
    assert ((scores - want) / scale).abs().max() < 0.1
    assert x32.grad.abs().max() > 0


@pytest.mark.parametrize("name", NAMES)
def test_the_prompt_matters_and_gradients_reach_no_weight(double, name):
    x = images(2, 3, 32, 32, seed=5).requires_grad_()
    there, back = double[name](x, PROMPTS[:2]), double[name](x, PROMPTS[1::-1])
    assert torch.equal(there, back) == (name == "aesthetic")
    leaves = set()

    def walk(node):
        for following, _ in node.next_functions if node else ():
            leaves.add(getattr(following, "variable", None))
            walk(following)

    walk(double[name](x[:, :, ::2, ::2], PROMPTS[:2]).sum().grad_fn)
    assert {leaf for leaf in leaves if leaf is not None} == {x}


def test_quick_gelu_is_the_configurations(tmp_path):
    original = tiny_rewards.save_hpsv2(tmp_path, activation="quick_gelu").double()
    x = images(3, 3, 32, 32)
    got = load_reward("hpsv2", source=str(tmp_path), dtype=F64)(x, PROMPTS)
    torch.testing.assert_close(got, original.cosine(normalised(x), PROMPTS), rtol=1e-6, atol=1e-6)
    plain = tiny_rewards.OpenClip().double()
    assert (got - plain.cosine(normalised(x), PROMPTS)).abs().max() > 1e-4


def test_hpsv2_in_transformers_format(tmp_path):
    model = tiny_rewards.save_clip(tmp_path)
    x = images(3, 3, 32, 32)
    got = load_reward("hpsv2", source=str(tmp_path), dtype=F64)(x, PROMPTS)
    with torch.no_grad():
        torch.testing.assert_close(got, clip_cosine(model, normalised(x), PROMPTS))


def test_pickscores_tokenizer_may_lie_in_a_folder_of_its_own(tiny, tmp_path):
    model = tiny_rewards.save_clip(tmp_path)
    (tmp_path / "clip").mkdir()
    files = ["vocab.json", "merges.txt", "tokenizer_config.json", "preprocessor_config.json"]
    for file in files:
        (tmp_path / file).rename(tmp_path / "clip" / file)
    x = images(3, 3, 32, 32)
    got = load_reward("pickscore", source=str(tmp_path), dtype=F64)(x, PROMPTS)
    with torch.no_grad():
        want = reference("pickscore", model, normalised(x), PROMPTS)
    torch.testing.assert_close(got, want)


# What DataParallel, torch.compile, and one around the other put before every name.
WRAPPERS = ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."]


@pytest.mark.parametrize("wrap", ["safetensors", "state_dict", *WRAPPERS])
def test_heads_come_in_several_files(tiny, double, tmp_path, wrap):
    from safetensors.torch import save_file

    folder = tiny["aesthetic"][0]
    state = torch.load(folder / "sac+logos+ava1-l14-linearMSE.pth")
    (tmp_path / "clip").symlink_to(folder / "clip")
    if wrap == "safetensors":
        file = tmp_path / "head.safetensors"
        save_file(state, file)
    else:
        file = tmp_path / "head.pth"
        prefix = wrap if wrap in WRAPPERS else ""
        state = {prefix + k: v for k, v in state.items()}
        torch.save({"state_dict": state} if wrap == "state_dict" else state, file)
    x = images(2, 3, 32, 32)
    got = load_reward("aesthetic", source=str(file), dtype=F64)(x, PROMPTS[:2])
    torch.testing.assert_close(got, double["aesthetic"](x, PROMPTS[:2]))


# Repository on the hub -> where its files lie in the folders of the fixture `tiny`.
HUB = {
    "openai/clip-vit-large-patch14": ("aesthetic", "clip/*"),
    "trl-lib/ddpo-aesthetic-predictor": ("aesthetic", "*.pth"),
    "yuvalkirstain/PickScore_v1": ("pickscore", "*.*"),
    "laion/CLIP-ViT-H-14-laion2B-s32B-b79K": ("hpsv2", "clip/*"),
    "xswu/HPSv2": ("hpsv2", "*.pt"),
    "zai-org/ImageReward": ("imagereward", "*.*"),
    "google-bert/bert-base-uncased": ("imagereward", "bert/*"),
}
SCRIPT = """
import sys, torch
from gaussreg_fast.latent.rewards import load_reward
x = torch.load(sys.argv[1])
for i, spec in enumerate(sys.argv[2:]):
    name, _, source = spec.partition("@")
    reward = load_reward(name, source=source or None, dtype=torch.float64)
    torch.save(reward(x, ["a cat", "dog"]), f"{i}.pt")
"""


def test_everything_by_default_comes_from_the_hub(tiny, double, tmp_path):
    """The files come from the cache of the hub's client, because the hub is out of reach."""
    for repository, (name, pattern) in HUB.items():
        place = tmp_path / "hub" / f"models--{repository.replace('/', '--')}"
        snapshot = place / "snapshots" / ("0" * 40)
        snapshot.mkdir(parents=True)
        (place / "refs").mkdir()
        (place / "refs" / "main").write_text("0" * 40)
        for file in tiny[name][0].glob(pattern):
            renamed = "aesthetic-model.pth" if file.suffix == ".pth" else file.name
            (snapshot / renamed).symlink_to(file)
    (snapshot / "config.json").write_text('{"model_type": "bert"}')  # of the last, as on the hub
    x = images(2, 3, 32, 32)
    torch.save(x, tmp_path / "x.pt")
    head = "aesthetic@trl-lib/ddpo-aesthetic-predictor/aesthetic-model.pth"
    hps = "hpsv2@laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
    environment = os.environ | {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", SCRIPT, "x.pt", *NAMES, head, hps]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert "CLIPModel could be loaded" in done.stderr  # the last has no weights in this cache
    assert "InputError" in done.stderr.splitlines()[-1]
    for i, name in enumerate([*NAMES, "aesthetic"]):
        got = torch.load(tmp_path / f"{i}.pt")
        want = double[name](x, ["a cat", "dog"])
        torch.testing.assert_close(got, want)


# ---------------------------------------------------------------- prompts


@pytest.mark.parametrize("name", ["clip", "pickscore", "hpsv2"])
def test_each_prompt_is_encoded_once(tiny, name):
    reward = load_reward(name, source=str(tiny[name][0]))
    seen = []

    def count(module, *_):
        if type(module).__name__ == "CLIPTextEmbeddings":
            seen.append(module)

    handle = torch.nn.modules.module.register_module_forward_hook(count)
    try:
        x = images(3, 3, 32, 32, dtype=torch.float32)
        first = reward(x, ["a cat", "dog", "a cat"])
        assert len(seen) == 2
        assert torch.equal(reward(x, ["a cat", "dog", "a cat"]), first)
        reward(x[:2], ["dog", "red"])
        assert len(seen) == 3
    finally:
        handle.remove()


@pytest.mark.parametrize("name", NAMES)
def test_prompts_first_seen_in_inference_mode(tiny, name):
    reward = load_reward(name, source=str(tiny[name][0]))
    x = images(2, 3, 32, 32, dtype=torch.float32)
    with torch.inference_mode():
        want = reward(x, PROMPTS[:2])
    x.requires_grad_()
    got = reward(x, PROMPTS[:2])
    got.sum().backward()
    torch.testing.assert_close(got, want.clone())
    assert x.grad.abs().max() > 0


@pytest.mark.parametrize("name", NAMES)
def test_long_and_empty_prompts(double, name):
    x = images(3, 3, 32, 32)
    scores = double[name](x, ["", " ".join(["red dog"] * 40), " ".join(["red dog"] * 50)])
    assert scores.isfinite().all()
    assert double[name](x[:0], []).shape == (0,)


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_that_makes_no_sense(double, name):
    x = images(2, 3, 32, 32)
    for bad, prompts, what in [
        (x[0], PROMPTS[:2], "images"),
        (x[:, :1], PROMPTS[:2], "images"),
        ((255 * x).byte(), PROMPTS[:2], "images"),
        (x, PROMPTS, "prompts"),
        (x, "aa", "prompts"),
    ]:
        with pytest.raises(ValueError, match=f"^{what} must be "):
            double[name](bad, prompts)


# ---------------------------------------------------------------- folders and sums


def test_preprocessing_is_read_from_the_folder(tiny, tmp_path):
    model = tiny_rewards.save_clip(tmp_path)
    x = images(1, 3, 32, 32)
    for mean, size in [([0.1, 0.2, 0.3], {"shortest_edge": 32}), ([0.5] * 3, 32)]:
        tiny_rewards.save_preprocessor(tmp_path, image_mean=mean, image_std=[0.5] * 3, size=size)
        pixels = (x - x.new_tensor(mean)[:, None, None]) / 0.5
        with torch.no_grad():
            got = load_reward("clip", source=str(tmp_path), dtype=F64)(x, ["a cat"])
            torch.testing.assert_close(got, reference("clip", model, pixels, ["a cat"]))
    processor = {"image_processor": {"image_mean": [0.0] * 3, "image_std": [1.0] * 3}}
    (tmp_path / "preprocessor_config.json").unlink()
    (tmp_path / "processor_config.json").write_text(json.dumps(processor))
    with torch.no_grad():
        got = load_reward("clip", source=str(tmp_path), dtype=F64)(x, ["a cat"])
        torch.testing.assert_close(got, reference("clip", model, x, ["a cat"]))


def test_weighted_sum_of_loaded_rewards(tiny, double):
    texts = [f"clip@{tiny['clip'][0]}=0.5", f"hpsv2@{tiny['hpsv2'][0]}=-2"]
    specs = [parse_reward(text) for text in [texts[0], texts[1], texts[0]]]
    total = load_rewards(specs, dtype=F64)
    assert total.names == ("clip", "hpsv2", "clip#2")
    assert total.weights == {"clip": 0.5, "hpsv2": -2.0, "clip#2": 0.5}
    x = images(2, 3, 32, 32).requires_grad_()
    value, each = total(x, PROMPTS[:2])
    clip, hps = (double[n](x, PROMPTS[:2]) for n in ("clip", "hpsv2"))
    torch.testing.assert_close(each["clip"], clip)
    torch.testing.assert_close(each["hpsv2"], hps)
    torch.testing.assert_close(value, clip - 2 * hps)
    torch.testing.assert_close(
        torch.autograd.grad(value.sum(), x), torch.autograd.grad((clip - 2 * hps).sum(), x)
    )
