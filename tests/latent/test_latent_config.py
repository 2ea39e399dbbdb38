"""Settings: what each method's authors chose, YAML there and back, one clear line for bad ones."""

import json

import pytest
import torch
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bench import ROOT
from gaussreg_fast.errors import InputError
from gaussreg_fast.latent import config
from gaussreg_fast.latent.guards import GUARDS

BASE = {"prompts": ["a prompt"], "rewards": ["clip"]}


def resolve(**given):
    return config.resolve({**BASE, **given})


# ---------------------------------------------------------------- what was published


def test_reno():
    c = resolve(guard="norm")
    assert (c.optimizer.name, c.optimizer.lr, c.optimizer.clip) == ("sgd", 5.0, 0.1)
    assert (c.optimizer.momentum, c.optimizer.nesterov) == (0.9, True)
    assert (c.iterations, c.guard.weight, c.guard.rescale) == (50, 0.01, False)


def test_mpgr():
    c = resolve(guard="mpgr")
    assert c == resolve()
    assert (c.optimizer.name, c.optimizer.momentum, c.optimizer.nesterov) == ("sgd", 0.9, True)
    assert (c.optimizer.clip, c.iterations) == (0.01, 500)
    assert (c.guard.rescale, c.guard.options) == (True, {"power_weight": 25.0})


def test_prno():
    c = resolve(guard="prno")
    assert (c.optimizer.name, c.optimizer.lr, c.guard.options) == ("adamw", 0.01, {"shuffles": 100})
    x = torch.zeros(2, requires_grad=True)
    assert c.optimizer.build([x]).param_groups[0]["weight_decay"] == 0


def test_projection_depends_on_the_model():
    turbo = resolve(guard="projection", model="stabilityai/sdxl-turbo")
    flux = resolve(guard="projection", model="black-forest-labs/FLUX.1-schnell")
    assert (turbo.optimizer.name, turbo.optimizer.lr, turbo.optimizer.clip) == ("adam", 0.1, 0.03)
    assert (flux.optimizer.name, flux.optimizer.lr, flux.optimizer.clip) == ("adam", 0.02, 0.03)
    assert turbo.guard.project == "gradient"


@pytest.mark.parametrize(
    ("folder", "kind", "lr"),
    [("flux/sd-turbo", "StableDiffusionPipeline", 0.1), ("schnell", "FluxPipeline", 0.02)],
)
def test_a_local_folder_is_what_its_index_says(tmp_path, folder, kind, lr):
    path = tmp_path / folder
    path.mkdir(parents=True)
    (path / "model_index.json").write_text(json.dumps({"_class_name": kind}))
    assert resolve(guard="projection", model=str(path)).optimizer.lr == lr


@pytest.mark.parametrize("name", GUARDS)
def test_every_guard_has_a_preset_that_is_whole(name):
    c = resolve(guard=name)
    assert c.guard.name == name
    x = torch.randn(2, 4, requires_grad=True)
    x.grad = torch.ones_like(x)
    before = x.detach().clone()
    c.optimizer.build([x]).step()
    assert not torch.equal(x.detach(), before)


def test_every_guard_is_in_the_documentation():
    page = (ROOT / "docs" / "guide" / "optimise-noise.md").read_text()
    assert not [name for name in GUARDS if f"`{name}`" not in page]


# ---------------------------------------------------------------- what is given goes over it


def test_settings_go_over_the_preset_one_by_one():
    c = resolve(guard={"name": "mpgr", "weight": 2}, optimizer={"lr": 1}, iterations=7)
    assert (c.guard.weight, c.guard.rescale) == (2.0, True)
    assert (c.optimizer.lr, c.optimizer.clip, c.iterations) == (1.0, 0.01, 7)
    assert resolve(guard={"weight": 3}).guard.name == "mpgr"


def test_an_optimiser_of_another_name_shares_nothing():
    c = resolve(guard="mpgr", optimizer={"name": "adam", "lr": 0.1})
    assert (c.optimizer.name, c.optimizer.lr, c.optimizer.clip) == ("adam", 0.1, None)
    with pytest.raises(InputError, match=r"^optimizer\.lr is required$"):
        resolve(guard="mpgr", optimizer={"name": "adam"})


def test_layers_go_over_one_another():
    file = {**BASE, "guard": {"name": "mpgr", "weight": 4}, "model": {"source": "a", "steps": 2}}
    assert config.resolve(file, {"guard": {"rescale": False}}).guard.weight == 4
    assert config.resolve(file, {"guard": "norm"}).guard.weight == 0.01
    over = config.resolve(file, {"model": {"steps": 4}})
    assert (over.model.source, over.model.steps) == ("a", 4)
    assert config.resolve(file, {"model": "b"}).model.source == "b"


def test_rewards_can_be_written_three_ways():
    c = resolve(
        rewards=["clip", "pickscore@/a/path=0.5", {"name": "my.module:reward", "weight": -2}],
        held_out=["hpsv2"],
    )
    assert [(r.name, r.source, r.weight) for r in c.rewards] == [
        ("clip", None, 1.0), ("pickscore", "/a/path", 0.5), ("my.module:reward", None, -2.0)
    ]  # fmt: skip
    assert c.selection == "held_out"
    assert resolve().selection == "gaussianity"
    assert resolve(select="last", held_out=["hpsv2"]).selection == "last"


def test_the_bundle_of_reno_is_its_four_rewards():
    laion = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
    c = resolve(rewards=["reno", "aesthetic=0.1"], guard="norm")
    assert [(r.name, r.source, r.weight) for r in c.rewards] == [
        ("hpsv2", None, 5.0), ("imagereward", None, 1.0), ("pickscore", None, 0.05),
        ("clip", laion, 0.01), ("aesthetic", None, 0.1),
    ]  # fmt: skip
    assert (c.guard.weight, c.optimizer.lr, c.optimizer.clip, c.iterations) == (0.01, 5.0, 0.1, 50)
    halved = resolve(rewards=["clip"], held_out=["reno=0.5"])
    assert [r.weight for r in halved.held_out] == [2.5, 0.5, 0.025, 0.005]


@settings(deadline=None)
@given(
    guard=st.sampled_from(sorted(GUARDS)),
    prompts=st.lists(st.text(min_size=1), min_size=1, max_size=3),
    seeds=st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=3, unique=True),
    lr=st.floats(1e-6, 1e3),
    clip=st.none() | st.floats(1e-6, 1e3),
    iterations=st.integers(1, 10**6),
)
@example("mpgr", ["\x85", "日本 ü"], [0], 1.0, None, 1)
def test_yaml_there_and_back(guard, prompts, seeds, lr, clip, iterations):
    c = resolve(
        guard=guard, prompts=prompts, seeds=seeds, iterations=iterations,
        optimizer={"lr": lr, "clip": clip},
    )  # fmt: skip
    assert config.resolve(yaml.safe_load(config.to_yaml(c))) == c


# ---------------------------------------------------------------- bad settings


@pytest.mark.parametrize(
    ("given_", "said"),
    [
        ({"prompts": []}, r"^prompts must be a list of strings that is not empty, got \[\]$"),
        ({"prompts": [""]}, r"^prompts\.0 must be a string that is not empty, got ''$"),
        ({"prompts": "a"}, "^prompts must be a list of strings that is not empty, got 'a'$"),
        ({"rewards": []}, r"^rewards must be a list of rewards that is not empty, got \[\]$"),
        ({"rewards": ["clip", "clip=2"]}, "'clip' twice"),
        ({"rewards": ["reno", "hpsv2=2"]}, "'hpsv2' twice"),
        ({"rewards": ["reno@a/path"]}, r"reward 'reno' stands for hpsv2, .*, got @a/path$"),
        ({"rewards": ["clip"], "held_out": ["clip"]}, "'clip' twice"),
        ({"rewards": [{"name": "clip", "wieght": 1}]}, r"rewards\.0\.wieght: no such setting"),
        ({"rewards": [{"name": ""}]}, r"rewards\.0: reward must be .*, got an empty name"),
        (
            {"model": {"offload": "disk"}},
            r"model\.offload must be one of 'none', 'text', 'model', got 'disk'",
        ),
        ({"seeds": [1, 1]}, "seeds must differ"),
        ({"seeds": [-1]}, r"^seeds\.0 must be an integer of at least 0 and below .*, got -1$"),
        ({"guard": "mpgrr"}, "none, norm, kl, kurtosis, prno, mpgr, projection, got 'mpgrr'"),
        ({"guard": 3}, "^guard must be a string or settings by name, got 3$"),
        ({"guard": {"name": "mpgr", "weight": -1}}, r"guard\.weight .*got -1"),
        (
            {"guard": {"name": "mpgr", "options": {"shuffles": 3}}},
            "options of .mpgr. may hold .*, got .shuffles.",
        ),
        (
            {"guard": {"name": "mpgr", "project": "both"}},
            "project must be .gradient. or .both. for the guard .projection.",
        ),
        ({"optimizer": {"lr": 0}}, r"^optimizer\.lr must be a finite number above 0, got 0$"),
        (
            {"optimizer": {"lr": float("nan")}},
            r"^optimizer\.lr must be a finite number above 0, got nan$",
        ),
        (
            {"optimizer": {"name": "lion", "lr": 1}},
            r"optimizer\.name must be one of 'sgd', 'adam', 'adamw', got",
        ),
        ({"iterations": 0}, "^iterations must be an integer of at least 1, got 0$"),
        ({"iterations": "many"}, "^iterations must be an integer of at least 1, got 'many'$"),
        ({"patience": 1.5}, "^patience must be an integer of at least 1, got 1.5$"),
        ({"model": 3}, "^model must be a string or settings by name, got 3$"),
        ({"model": {"vae_slicing": 7}}, r"^model\.vae_slicing must be true or false, got 7$"),
        ({"guard": {"weight": "a"}}, r"^guard\.weight must be a finite number, got 'a'$"),
        ({"rewards": [3]}, r"^rewards\.0 must be a string or settings by name, got 3$"),
        ({"optimizer": 3}, "^optimizer must be a string or settings by name, got 3$"),
        (
            {"guard": {"name": "mpgr", "options": {3: 1}}},
            r"^guard\.options\.3.* valid string, got 3$",
        ),
        ({"guard": {"options": 3}}, r"^guard\.options must be settings by name, got 3$"),
        ({"iteratoins": 3}, "iteratoins: no such setting"),
        (
            {"select": "reward"},
            "select must be one of 'auto', 'held_out', 'gaussianity', 'last', got",
        ),
        ({"select": "held_out"}, "needs a held-out reward"),
        ({"select": "last", "patience": 3}, "patience needs select"),
        (
            {"model": {"dtype": "int8"}},
            r"model\.dtype must be one of 'auto', 'float32', 'float16', 'b",
        ),
        ({"model": {"steps": 0}}, r"^model\.steps must be a positive integer, got 0$"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_bad_settings(given_, said):
    with pytest.raises(InputError, match=said) as error:
        resolve(**given_)
    assert "\n" not in str(error.value)


def test_prompts_and_rewards_are_required():
    with pytest.raises(InputError, match=r"^prompts is required$"):
        config.resolve({"rewards": ["clip"]})
    with pytest.raises(InputError, match=r"^rewards is required$"):
        config.resolve({"prompts": ["a"]})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "No such file"),
        ("prompts: [a", "not YAML"),
        ("- a\n- b\n", "must hold settings by name, got list"),
        ("", "must hold settings by name, got NoneType"),
        (b"\xff\xfe\x00", "not UTF-8"),
    ],
)
def test_files_that_hold_no_settings(tmp_path, text, said):
    path = tmp_path / "run.yaml"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=said) as error:
        config.load_yaml(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_mark_in_front_of_a_file_is_no_part_of_it(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_bytes(b"\xef\xbb\xbfa cat\r\n\r\na dog\r\n")
    assert config.read_text(path).split() == ["a", "cat", "a", "dog"]
