"""Settings files: what people write is what they mean, or an error that names the line."""

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gaussreg_fast.errors import InputError
from gaussreg_fast.latent import config, strict_yaml

HEAD = "prompts: [a cat]\nrewards: [clip]\n"


def read(tmp_path, text):
    (tmp_path / "run.yaml").write_text(text, encoding="utf-8")
    return config.load_yaml(tmp_path / "run.yaml")


def refusal(tmp_path, text):
    with pytest.raises(InputError) as caught:
        config.resolve(read(tmp_path, text))
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(str(tmp_path / "run.yaml"))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e1", 10.0),
        ("1E-3", 0.001),
        ("1.5e+3", 1500.0),
        ("-2.5", -2.5),
        (".5", 0.5),
        ("5.", 5.0),
        ("1_000", 1000),
        ("010", 10),
        ("+7", 7),
        ("0x1F", 31),
        ("0o17", 15),
        ("-.inf", -float("inf")),
        ("true", True),
        ("False", False),
        ("~", None),
        ("null", None),
        ("", None),
        ("yes", "yes"),
        ("off", "off"),
        ("n", "n"),
        ("1:30", "1:30"),
        ("12:30:45", "12:30:45"),
        ("2024-01-01", "2024-01-01"),
        ("1.2.3", "1.2.3"),
        ("e5", "e5"),
        ("'5'", "5"),
        ("=", "="),
        ("trueish", "trueish"),
        ("1e", "1e"),
        ("<", "<"),
    ],
)
def test_a_scalar_is_what_it_looks_like(tmp_path, text, value):
    got = read(tmp_path, f"key: {text}\n")["key"]
    assert (got, type(got)) == (value, type(value))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("iterations: yes", ", line 3: iterations must be an integer of at least 1, got 'yes'"),
        (
            "seeds: [0,\n  true]",
            ", line 3: seeds must be a list of integers that is not empty, got",
        ),
        ("seeds:\n- 1\n- 1:30", ", line 5: seeds.1 must be an integer of at least 0 and below"),
        (
            "optimizer:\n  lr: on",
            ", line 4: optimizer.lr must be a finite number above 0, got 'on'",
        ),
        (
            "optimizer: {lr: true}",
            ", line 3: optimizer.lr must be a finite number above 0, got True",
        ),
        ("guard: {weight: no}", ", line 3: guard.weight must be a finite number, got 'no'"),
        ("guard: {weight: true}", ", line 3: guard.weight must be a finite number, got True"),
        ("guard:\n  name: mpgrr", ", line 4: guard must be one of none, norm, "),
        ("model: {steps: true}", ", line 3: model.steps must be "),
        ("model:\n  sorce: a", ", line 4: model.sorce: no such setting"),
        (
            "held_out: [{name: hpsv2, weight: false}]",
            ", line 3: held_out.0.weight must be a finite",
        ),
        ("latents: 3", ", line 3: latents must be a string, got 3"),
        ("optimizer: adam", ", line 3: optimizer.lr is required"),
        (
            "iterations: 5\nseed: 1\niterations: 7",
            ", line 5: iterations is given twice, first in line 3",
        ),
        (
            "guard:\n  weight: 1\n  weight: 1",
            ", line 5: guard.weight is given twice, first in line 4",
        ),
        ("prompts: [a dog]", ", line 3: prompts is given twice, first in line 1"),
        (
            "guard: {name: mpgr, options: {orders: [1], orders: [2]}}",
            ", line 3: guard.options.orders is given twice, first in line 3",
        ),
        (
            "guard: {name: mpgr, options: {power_weight: yes}}",
            ", line 3: guard.options: power_weight",
        ),
    ],
)
def test_what_means_nothing_is_refused_with_its_line(tmp_path, text, said):
    assert refusal(tmp_path, HEAD + text + "\n").startswith(said)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("iterations: 5\ntrue: 3", ", line 4: names of settings must be strings, got true"),
        ("iterations: 5\n2: 3", ", line 4: names of settings must be strings, got 2"),
        ("1e2: 3", ", line 3: names of settings must be strings, got 1e2"),
        ("?\n: 3", ", line 3: names of settings must be strings, got null"),
        ("? [a, b]\n: 3", ", line 3: names of settings must be strings, got a sequence"),
        (
            "guard:\n  options:\n    ~: 3",
            ", line 5: names of settings in guard.options must be strings, got ~",
        ),
        (
            "rewards_:\n- clip\n- {name: clip, 7: 1}",
            ", line 5: names of settings in rewards_.1 must be strings, got 7",
        ),
    ],
)
def test_a_name_that_is_no_string_is_refused_with_its_line(tmp_path, text, said):
    assert refusal(tmp_path, HEAD + text + "\n") == said


def test_a_number_in_quotes_is_a_name(tmp_path):
    assert read(tmp_path, '\'2\': 3\n"true": 4\n"<<": 5\n') == {"2": 3, "true": 4, "<<": 5}


def test_numbers_as_people_write_them_are_settings(tmp_path):
    text = (
        "iterations: 1e2\nseeds: [010, 1_000]\noptimizer: {lr: 5e0, clip: 1e-2}\n"
        "guard: {name: mpgr, weight: .5, rescale: yes, options: {power_weight: 1e1}}\n"
    )
    c = config.resolve(read(tmp_path, HEAD + text))
    assert (c.iterations, c.seeds, c.optimizer.lr, c.optimizer.clip) == (100, (10, 1000), 5.0, 0.01)
    assert (c.guard.weight, c.guard.rescale, c.guard.options) == (0.5, True, {"power_weight": 10.0})


@pytest.mark.parametrize(
    ("guard", "options"),
    [
        ("{name: prno, options: {shuffles: 1e2}}", {"shuffles": 100}),
        ("{name: mpgr, options: {block_size: 3.2e1, orders: [1e0, 2.0]}}",
         {"power_weight": 25.0, "block_size": 32, "orders": [1, 2]}),
    ],
)  # fmt: skip
def test_a_whole_number_is_an_integer_among_a_guards_options_too(tmp_path, guard, options):
    c = config.resolve(read(tmp_path, f"{HEAD}guard: {guard}\n"))
    assert repr(dict(c.guard.options)) == repr(options)
    stored = config.to_yaml(c).replace("shuffles: 100", "shuffles: 1e2")
    (tmp_path / "config.yaml").write_text(stored)
    assert config.stored(tmp_path / "config.yaml") == c


def test_a_number_that_is_not_whole_is_no_integer_among_a_guards_options(tmp_path):
    said = refusal(tmp_path, HEAD + "guard: {name: prno, options: {shuffles: 1.5}}\n")
    assert said.startswith(
        ", line 3: guard.options: shuffles must be an integer of at least 0, got 1.5"
    )


def test_an_optimiser_may_be_a_name_as_a_guard_and_a_model_may(tmp_path):
    text = "guard: projection\nmodel: some/model\noptimizer: adam\n"
    c = config.resolve(read(tmp_path, HEAD + text))
    assert (c.guard.name, c.model.source, c.optimizer.name) == ("projection", "some/model", "adam")


def test_a_line_is_named_only_for_what_its_file_says(tmp_path):
    file = read(tmp_path, HEAD + "iterations: 5\n")
    with pytest.raises(InputError, match=r"^iterations must be"):
        config.resolve(file, {"iterations": 0})
    with pytest.raises(InputError, match=r"line 3: iterations must be"):
        config.resolve({"iterations": 7}, read(tmp_path, HEAD + "iterations: 0\n"))


def test_true_is_no_number_from_python_either():
    for given_ in ({"seeds": [True]}, {"seeds": (True,)}, {"iterations": True}, {"p_value": False}):
        with pytest.raises(InputError):
            config.resolve({"prompts": ["a"], "rewards": ["clip"], **given_})


def test_aliases_and_merged_mappings_are_no_repetition(tmp_path):
    text = (
        "base: &base {lr: 1, clip: 2}\nuse: {<<: *base, lr: 3}\nlist: &list [1, 2]\nagain: *list\n"
    )
    content = read(tmp_path, text)
    assert content["use"] == {"lr": 3, "clip": 2}
    assert content["again"] == [1, 2]


def test_a_file_that_repeats_itself_without_end_is_refused_in_a_moment(tmp_path):
    layers = ["a0: &a0 [x, x]"]
    layers += [f"a{k}: &a{k} [*a{k - 1}, *a{k - 1}]" for k in range(1, 40)]
    assert ": no such setting" in refusal(tmp_path, HEAD + "\n".join(layers))
    assert refusal(tmp_path, HEAD + "guard: &g {options: *g}\n")


LOOKALIKES = [
    "1e1",
    "010",
    "yes",
    "true",
    "1:30",
    "~",
    "null",
    "",
    "2024-01-01",
    ".5",
    "0x1F",
    "<<",
    "- a",
    "a: b",
    "#",
    "...",
    "---",
    "%",
    "&a",
    "*a",
    "!!int 3",
    "[b]",
    "{",
    "\u2028",
    "\x85",
    "\ufeff",
    "=",
]


@settings(deadline=None, max_examples=300)
@given(st.lists(st.text(min_size=1) | st.sampled_from(LOOKALIKES), min_size=1))
@example(LOOKALIKES)
def test_strings_come_back_from_a_file_as_they_were(prompts):
    text = strict_yaml.dump({"prompts": prompts})
    assert strict_yaml.load(text, "run.yaml")["prompts"] == prompts
    assert yaml.safe_load(text)["prompts"] == prompts
    assert text.endswith(strict_yaml.END)


@settings(deadline=None)
@given(st.floats(allow_nan=False) | st.integers(-(2**63), 2**63) | st.booleans() | st.none())
def test_numbers_come_back_from_a_file_as_they_were(number):
    got = strict_yaml.load(strict_yaml.dump({"key": number}), "run.yaml")["key"]
    assert (got, type(got)) == (number, type(number))
