"""Rewards from users: their functions, specs and sums; bad input gives one clear line."""

import json
import math
import sys
import types

import pytest
import tiny_rewards
import torch
from fresh_python import printed
from hypothesis import given
from hypothesis import strategies as st

from gaussreg_fast.errors import InputError
from gaussreg_fast.latent.rewards import (
    RewardSpec,
    RewardSum,
    known_rewards,
    load_reward,
    load_rewards,
    parse_reward,
)

PUBLISHED = ["clip", "aesthetic", "pickscore", "hpsv2", "imagereward"]
PROMPTS = ["a cat", "a dog"]


def refused(*needles, **arguments):
    """load_reward raises an InputError of one line with all the needles."""
    name = arguments.pop("name")
    with pytest.raises(InputError) as caught:
        load_reward(name, **arguments)
    message = str(caught.value)
    assert "\n" not in message
    for needle in needles:
        assert str(needle) in message, message


# ---------------------------------------------------------------- names


def test_unknown_rewards_list_the_known():
    refused("'clap'", *PUBLISHED, "module:function", name="clap")
    assert set(PUBLISHED) <= set(known_rewards())


def test_names_are_known_without_heavy_imports():
    code = (
        "import sys; from gaussreg_fast.latent.rewards import *; known_rewards();"
        "parse_reward('clip=2');"
        "assert not {'transformers', 'huggingface_hub', 'diffusers'} & set(sys.modules)"
    )
    printed(code)


def test_digits_rewards_are_looked_up_where_they_are(monkeypatch):
    module = types.ModuleType("gaussreg_fast.digits")
    reward = object()
    module.REWARDS = {"digits-ink": lambda: reward}
    monkeypatch.setitem(sys.modules, "gaussreg_fast.digits", module)
    assert load_reward("digits-ink") is reward
    refused("digits-ink", name="digits-inc")
    refused("takes no source", name="digits-ink", source="x")
    assert "digits-ink" in known_rewards()


# ---------------------------------------------------------------- a user's function

USER = """
import torch

WEIGHT = torch.arange(3.0)[:, None, None]

def red(images, prompts):
    return images[:, 0].mean((1, 2)) + torch.tensor([float(len(p)) for p in prompts])

def defaults(images, prompts, scale=2.0, *, extra=None):
    return scale * images.mean((1, 2, 3))

class Callable:
    def __call__(self, images, prompts):
        return (images * WEIGHT).sum((1, 2, 3))

    def method(self, images, prompts):
        return images.sum((1, 2, 3))

instance = Callable()

def double(images, prompts): return images.double().mean((1, 2, 3))
def half(images, prompts): return images.half().mean((1, 2, 3))
def one(images): return images
def three(images, prompts, more): return images
def named(*, images, prompts): return images
async def later(images, prompts): return images
def number(images, prompts): return 1.0
def scalar(images, prompts): return images.mean()
def column(images, prompts): return images.mean((2, 3))[:, :1]
def whole(images, prompts): return images.sum((1, 2, 3)).long()
def detached(images, prompts): return images.detach().sum((1, 2, 3))
def crash(images, prompts): raise ZeroDivisionError("mine")
NUMBER = 3
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """The current directory has a module of a fresh name: imports are cached."""
    name = f"mine_{abs(hash(str(tmp_path)))}"
    (tmp_path / f"{name}.py").write_text(USER)
    monkeypatch.chdir(tmp_path)
    path = list(sys.path)
    yield name
    assert sys.path == path
    sys.modules.pop(name, None)


def test_functions_and_callable_objects(mine):
    x = torch.rand(2, 3, 8, 8, requires_grad=True)
    red = load_reward(f"{mine}:red")
    assert red.name == f"{mine}:red"
    torch.testing.assert_close(red(x, PROMPTS), x[:, 0].mean((1, 2)) + 5)
    wanted = {
        "defaults": 2 * x.mean((1, 2, 3)),
        "instance": (x[:, 1] + 2 * x[:, 2]).sum((1, 2)),
        "instance.method": x.sum((1, 2, 3)),
        "double": x.mean((1, 2, 3)),
        "half": x.half().mean((1, 2, 3)).float(),
    }
    for name, want in wanted.items():
        got = load_reward(f"{mine}:{name}")(x, PROMPTS)
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, want)
        assert torch.autograd.grad(got.sum(), x)[0].shape == x.shape
    assert load_reward(f"{mine}:red")(x.double(), PROMPTS).dtype == torch.float64


@pytest.mark.parametrize("name", ["one", "three", "named"])
def test_wrong_signatures_are_refused_on_loading(mine, name):
    refused(f"'{mine}:{name}'", "(images, prompts)", "got the signature (", name=f"{mine}:{name}")


@pytest.mark.parametrize(
    ("attribute", "what"),
    [
        ("Callable", "got a class"),
        ("NUMBER", "got type int"),
        ("later", "async"),
        ("absent", "has no 'absent', it has column, crash,"),
        ("instance.absent", "has no 'instance.absent'"),
        ("", "must be module:function"),
    ],
)
def test_what_is_no_function_is_refused(mine, attribute, what):
    refused(f"{mine}:{attribute}", what, name=f"{mine}:{attribute}")


def test_modules_that_cannot_be_imported(mine, tmp_path):
    refused("no module named 'nowhere_at_all'", tmp_path, name="nowhere_at_all:f")
    refused("no module named 'nowhere.at.all'", name="nowhere.at.all:f")
    refused("must be module:function", name=":f")
    refused("'a b' failed", name="a b:f")
    (tmp_path / "mine_broken.py").write_text("def f(:\n")
    refused("importing 'mine_broken' failed with SyntaxError", name="mine_broken:f")
    (tmp_path / "mine_lacking.py").write_text("import nowhere_at_all\n")
    refused("ModuleNotFoundError", "nowhere_at_all", name="mine_lacking:f")
    refused("takes no source", name=f"{mine}:red", source="x")


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("number", "got float"),
        ("scalar", "must return a floating tensor of shape (2,), got torch.float32 of shape ()"),
        ("column", "of shape (2, 1)"),
        ("whole", "torch.int64 of shape (2,)"),
        ("detached", "no gradient with respect to the images"),
    ],
)
def test_wrong_results_are_refused_at_the_call(mine, name, what):
    reward = load_reward(f"{mine}:{name}")
    x = torch.rand(2, 3, 8, 8, requires_grad=True)
    with pytest.raises(InputError) as caught:
        reward(x, PROMPTS)
    assert what in str(caught.value)
    assert f"'{mine}:{name}'" in str(caught.value)
    if name == "detached":  # fine as a held-out reward
        assert reward(x.detach(), PROMPTS).shape == (2,)
        with torch.no_grad():
            assert reward(x, PROMPTS).shape == (2,)


def test_a_users_own_error_is_not_dressed_up(mine):
    with pytest.raises(ZeroDivisionError, match="mine"):
        load_reward(f"{mine}:crash")(torch.rand(2, 3, 8, 8), PROMPTS)


# ---------------------------------------------------------------- specs and sums


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("clip", RewardSpec("clip")),
        ("clip=0.5", RewardSpec("clip", 0.5)),
        ("clip@/path/to/clip=0.5", RewardSpec("clip", 0.5, "/path/to/clip")),
        ("clip@owner/name", RewardSpec("clip", 1.0, "owner/name")),
        ("clip@/runs/lr=a/clip", RewardSpec("clip", 1.0, "/runs/lr=a/clip")),
        ("clip@/runs/lr=a/clip=2", RewardSpec("clip", 2.0, "/runs/lr=a/clip")),
        ("clip@/runs/lr=3=-1e-2", RewardSpec("clip", -0.01, "/runs/lr=3")),
        (r"clip@C:\a b\x@1=1", RewardSpec("clip", 1.0, r"C:\a b\x@1")),
        ("my.mod:fun=3", RewardSpec("my.mod:fun", 3.0)),
    ],
)
def test_specs_are_parsed(text, spec):
    assert parse_reward(text) == spec
    assert parse_reward(str(spec)) == spec


@given(
    st.text(st.characters(exclude_characters="@=", categories=["L", "N", "P"]), min_size=1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.none() | st.text(min_size=1),
)
def test_specs_survive_being_written(name, weight, source):
    spec = RewardSpec(name, weight, source)
    assert parse_reward(str(spec)) == spec


@pytest.mark.parametrize(
    "text", ["", "=2", "@x", "clip@", "clip@=2", "clip=", "clip=x", "clip=nan"]
)
def test_specs_that_make_no_sense(text):
    with pytest.raises(InputError, match=r"^reward"):
        parse_reward(text)


def constant(values):
    return lambda images, prompts: images.mean((1, 2, 3)) * 0 + torch.tensor(values)


def test_sums_keep_what_is_not_finite_in_its_sample():
    total = RewardSum(
        {
            "a": (constant([1.0, math.nan, 3.0, 4.0]), 2.0),
            "b": (constant([1.0, 2.0, -math.inf, 4.0]), -1.0),
            "seen": (constant([math.inf] * 4), 0.0),
        }
    )
    value, each = total(torch.rand(4, 3, 2, 2), ["p"] * 4)
    assert value.tolist()[::3] == [1.0, 4.0]
    assert math.isnan(value[1])
    assert value[2] == math.inf
    assert list(each) == ["a", "b", "seen"] == list(total.names)
    assert each["b"].tolist() == [1.0, 2.0, -math.inf, 4.0]


def test_sums_that_make_no_sense():
    with pytest.raises(InputError, match="at least one"):
        load_rewards([])
    with pytest.raises(InputError, match="finite number, got inf"):
        RewardSum({"a": (constant([1.0]), math.inf)})


# ---------------------------------------------------------------- checkpoints


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """The hub's client neither connects nor has anything cached."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize(
    ("name", "file", "repository"),
    [
        ("clip", "config.json", "openai/clip-vit-large-patch14"),
        ("aesthetic", "aesthetic-model.pth", "trl-lib/ddpo-aesthetic-predictor"),
        ("pickscore", "config.json", "yuvalkirstain/PickScore_v1"),
        ("hpsv2", "HPS_v2.1_compressed.pt", "xswu/HPSv2"),
        ("imagereward", "ImageReward.pt", "zai-org/ImageReward"),
    ],
)
def test_the_hub_out_of_reach(offline, name, file, repository):
    refused(file, repository, f"{name}@/path/to", name=name)
    if file != "config.json":
        refused("some.pth", "me/mine", name=name, source="me/mine/some.pth")


@pytest.mark.parametrize("name", ["aesthetic", "hpsv2", "imagereward"])
def test_companions_come_from_the_hub_where_none_lies_beside(offline, name, tmp_path):
    tiny_rewards.build(name, tmp_path)
    beside = tmp_path / ("bert" if name == "imagereward" else "clip")
    beside.rename(tmp_path / "elsewhere")
    file = "tokenizer_config.json" if name == "imagereward" else "config.json"
    refused("Hugging Face hub", file, f"the folder {beside}", name=name, source=str(tmp_path))


@pytest.mark.parametrize("name", PUBLISHED)
def test_paths_that_lead_nowhere(name, tmp_path):
    pytest.importorskip("transformers")
    refused(f"'{name}'", tmp_path / "none", name=name, source=str(tmp_path / "none"))
    refused(f"'{name}'", tmp_path, name=name, source=str(tmp_path))  # an empty folder
    (tmp_path / "a.pth").write_bytes(b"no checkpoint")
    refused(f"'{name}'", "a.pth", name=name, source=str(tmp_path / "a.pth"))


def test_several_checkpoints_and_the_wrong_dtype(tmp_path):
    for file in ("a.pth", "b.safetensors"):
        (tmp_path / file).touch()
    refused("a.pth, b.safetensors", name="aesthetic", source=str(tmp_path))
    refused("torch.int8", name="clip", dtype=torch.int8)


def test_a_missing_package_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "transformers", None)
    for name in PUBLISHED:
        if name != "imagereward":
            refused(
                "needs transformers", "'gaussreg_fast[latent]'", name=name, source=str(tmp_path)
            )
    tiny_rewards.save_imagereward(tmp_path)
    refused("needs transformers", "latent", name="imagereward", source=str(tmp_path))


CHECKPOINTS = {  # file, one of its keys, what loading calls that
    "aesthetic": ("sac+logos+ava1-l14-linearMSE.pth", "layers.4.bias", "layers.4.bias"),
    "hpsv2": (
        "HPS_v2.1_compressed.pt",
        "visual.transformer.resblocks.1.attn.in_proj_weight",
        "vision_model.encoder.layers.1.self_attn.k_proj.weight and 2 more",
    ),
    "imagereward": (
        "ImageReward.pt",
        "blip.text_encoder.encoder.layer.0.crossattention.self.key.weight",
        "encoder.layer.0.crossattention.self.key.weight",
    ),
}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_wrong_checkpoints_name_the_first_key(name, tmp_path):
    tiny_rewards.build(name, tmp_path)
    file, key, called = CHECKPOINTS[name]
    whole = torch.load(tmp_path / file)
    state = whole.get("state_dict", whole)

    def save(changed):
        torch.save({"state_dict": changed} if "state_dict" in whole else changed, tmp_path / file)

    source = str(tmp_path)
    save({k: v for k, v in state.items() if k != key})
    refused(file, f"missing {called}", name=name, source=source)
    save(state | {f"{key}.more": torch.ones(2)})
    refused(file, "unexpected", ".more", name=name, source=source)
    save(state | {key: torch.ones(3, *state[key].shape[1:])})
    refused(file, "wrong shape" if name != "aesthetic" else "layers.4", name=name, source=source)
    content = (tmp_path / file).read_bytes()
    (tmp_path / file).write_bytes(content[: len(content) // 2])
    refused(file, "unreadable or truncated", name=name, source=source)
    torch.save([1, 2], tmp_path / file)
    refused(file, "no state dict", name=name, source=source)


@pytest.mark.parametrize("name", ["clip", "pickscore", "hpsv2"])
def test_wrong_folders_in_transformers_format(name, tmp_path):
    from safetensors.torch import load_file, save_file

    tiny_rewards.save_clip(tmp_path)
    weights = tmp_path / "model.safetensors"
    state, source = load_file(weights), str(tmp_path)
    save_file(state | {"text_model.embeddings.position_ids": torch.zeros(1)}, weights)
    load_reward(name, source=source)  # a buffer that old versions saved
    save_file({k: v for k, v in state.items() if k != "text_projection.weight"}, weights)
    refused(source, "missing text_projection.weight", name=name, source=source)
    save_file(state | {"zzz": torch.zeros(1)}, weights)
    refused(source, "unexpected zzz", name=name, source=source)
    save_file(state | {"text_projection.weight": torch.zeros(2, 2)}, weights)
    refused(source, "wrong shape text_projection.weight", name=name, source=source)
    weights.write_bytes(weights.read_bytes()[:1000])
    refused(source, "CLIPModel", name=name, source=source)
    (tmp_path / "config.json").write_text("{")
    refused(source, name=name, source=source)


def test_a_tokenizer_or_configuration_that_does_not_fit(tmp_path):
    tiny_rewards.save_imagereward(tmp_path)
    med = tmp_path / "med_config.json"
    med.write_text(json.dumps(tiny_rewards.MED_CONFIG | {"vocab_size": 30524}))
    refused("got 14", "30524", name="imagereward", source=str(tmp_path))
    config = {k: v for k, v in tiny_rewards.MED_CONFIG.items() if k != "hidden_act"}
    med.write_text(json.dumps(config))
    refused("must hold 'hidden_act'", name="imagereward", source=str(tmp_path))
    med.write_text("[]")
    refused("must hold a JSON object", name="imagereward", source=str(tmp_path))
