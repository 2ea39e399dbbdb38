"""The settings of a run: what may be set, what each method's authors chose, YAML in and out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from torch import Tensor

from gaussreg_fast.errors import InputError
from gaussreg_fast.latent.guards import LOSSES, Guard
from gaussreg_fast.latent.rewards import RewardSpec, parse_reward, unique_names


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ModelSettings(_Settings):
    """Which model, and how it runs: the arguments of `models.load_model`."""

    source: str = "digits"
    revision: str | None = None
    device: str = "auto"
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    steps: int | None = Field(default=None, ge=1)
    guidance: float | None = Field(default=None, ge=0)
    height: int | None = Field(default=None, ge=1)
    width: int | None = Field(default=None, ge=1)
    gradient_checkpointing: bool = False
    vae_slicing: bool = False
    offload: Literal["none", "text", "model"] = "none"


class RewardSettings(_Settings):
    """A reward: NAME[@SOURCE][=WEIGHT] or these three."""

    name: str
    weight: float = 1.0
    source: str | None = None

    def spec(self) -> RewardSpec:
        """As the rewards' own loader takes it."""
        return RewardSpec(self.name, self.weight, self.source)


class GuardSettings(_Settings):
    """The guard: see `guards.Guard`."""

    name: Literal[tuple(LOSSES)]  # type: ignore[valid-type]
    weight: float = Field(default=1.0, ge=0)
    rescale: bool = False
    project: Literal["none", "gradient", "both"] = "none"
    options: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _consistent(self) -> GuardSettings:
        self.build()
        return self

    def build(self) -> Guard:
        """The guard itself."""
        return Guard(self.name, self.weight, self.rescale, self.project, self.options)


class OptimizerSettings(_Settings):
    """The optimiser of the latents, and the largest norm of a sample's gradient."""

    name: Literal["sgd", "adam", "adamw"]
    lr: float = Field(gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    nesterov: bool = True
    clip: float | None = Field(default=None, gt=0)

    def build(self, parameters: list[Tensor]) -> torch.optim.Optimizer:
        """A torch optimiser; `momentum` and `nesterov` are those of SGD."""
        if self.name == "sgd":
            nesterov = self.nesterov and self.momentum > 0
            return torch.optim.SGD(
                parameters, lr=self.lr, momentum=self.momentum, nesterov=nesterov
            )
        if self.name == "adam":
            return torch.optim.Adam(parameters, lr=self.lr)
        return torch.optim.AdamW(parameters, lr=self.lr, weight_decay=0)


def _reward(value: Any) -> Any:
    if isinstance(value, str):
        spec = parse_reward(value)
        return {"name": spec.name, "weight": spec.weight, "source": spec.source}
    return value


Reward = Annotated[RewardSettings, BeforeValidator(_reward)]


class RunConfig(_Settings):
    """Everything a run depends on.

    A sample is made for every prompt and seed. `select`, `p_value` and `patience` are those of
    `loop.Problem`; "auto" selects by held-out rewards where there are some, else by Gaussianity.
    `latents` names a file with the noises to start from, one per sample, prompts outermost, and
    `latents_key` the tensor in it where there are several. `reward_dtype` is that of the rewards'
    weights.
    """

    prompts: tuple[Annotated[str, Field(min_length=1)], ...] = Field(min_length=1)
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**63)], ...] = Field(default=(0,), min_length=1)
    latents: str | None = None
    latents_key: str | None = None
    model: ModelSettings = ModelSettings()
    rewards: tuple[Reward, ...] = Field(min_length=1)
    held_out: tuple[Reward, ...] = ()
    reward_dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    guard: GuardSettings
    optimizer: OptimizerSettings
    iterations: int = Field(ge=1)
    batch_size: int = Field(default=4, ge=1)
    select: Literal["auto", "held_out", "gaussianity", "last"] = "auto"
    p_value: float = Field(default=0.01, gt=0, lt=1)
    patience: int | None = Field(default=None, ge=1)
    evaluate_every: int = Field(default=1, ge=1)
    checkpoint_every: int = Field(default=10, ge=1)
    seed: int = Field(default=0, ge=0, lt=2**31)

    @model_validator(mode="after")
    def _consistent(self) -> RunConfig:
        rewards = [(reward.name, reward.source) for reward in self.rewards + self.held_out]
        twice = sorted({reward[0] for reward in rewards if rewards.count(reward) > 1})
        if twice:
            raise ValueError(f"a reward must be named once, got {twice[0]!r} twice")
        if self.select == "held_out" and not self.held_out:
            raise ValueError("select 'held_out' needs a held-out reward, got none")
        if self.patience is not None and self.select == "last":
            raise ValueError("patience needs something to wait for: not select 'last'")
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError("seeds must differ: the same seed is the same noise")
        return self

    @property
    def reward_columns(self) -> list[str]:
        """Names of the rewards in the metrics: their own, with #2 for a second of that name."""
        return unique_names([reward.spec() for reward in self.rewards])

    @property
    def held_out_columns(self) -> list[str]:
        """The same of the held-out rewards."""
        names = unique_names([reward.spec() for reward in self.held_out])
        return [f"held_out/{name}" for name in names]

    @property
    def selection(self) -> str:
        """`select`, with "auto" resolved."""
        if self.select != "auto":
            return self.select
        return "held_out" if self.held_out else "gaussianity"


# ---------------------------------------------------------------- presets

_NESTEROV = {"name": "sgd", "momentum": 0.9, "nesterov": True}
_MPGR = {"optimizer": {**_NESTEROV, "lr": 5.0, "clip": 0.01}, "iterations": 500}

# As published: ReNO (arXiv 2406.04312), PRNO (arXiv 2405.18881), MPGR (arXiv 2509.07027, whose
# setting the losses without one of their own share; the learning rate is ReNO's, MPGR's is not in
# its text), GPER (arXiv 2602.08646).
PUBLISHED: dict[str, dict[str, Any]] = {
    "none": _MPGR,
    "norm": {
        "guard": {"weight": 0.01},
        "optimizer": {**_NESTEROV, "lr": 5.0, "clip": 0.1},
        "iterations": 50,
    },
    "kl": {**_MPGR, "guard": {"rescale": True}},
    "kurtosis": {**_MPGR, "guard": {"rescale": True}},
    "mpgr": {**_MPGR, "guard": {"rescale": True, "options": {"power_weight": 25.0}}},
    "prno": {
        "guard": {"options": {"shuffles": 100}},
        "optimizer": {"name": "adamw", "lr": 0.01},
        "iterations": 100,
    },
    "projection": {
        "guard": {"project": "gradient"},
        "optimizer": {"name": "adam", "lr": 0.1, "clip": 0.03},
        "iterations": 100,
    },
}


def resolve(*layers: Mapping[str, Any]) -> RunConfig:
    """The settings of a run: what is given, over the preset of the guard, over the defaults.

    Args:
        layers: fields of `RunConfig`, later ones over earlier ones; `guard` is "mpgr" unless
            given.

    Raises:
        InputError: unknown, missing or impossible settings; the message names the first.
    """
    given: Mapping[str, Any] = {"guard": {"name": "mpgr"}, "model": {"source": "digits"}}
    for layer in layers:
        given = overlay(given, _spelled_out(layer))
    guard, model = given["guard"], given["model"]
    if isinstance(guard, Mapping) and isinstance(model, Mapping):
        given = overlay(_preset(guard.get("name"), model.get("source")), given)
    try:
        return RunConfig.model_validate(given)
    except ValidationError as error:
        raise InputError(_first(error)) from error


def _spelled_out(layer: Mapping[str, Any]) -> dict[str, Any]:
    """A string in the place of the guard's or the model's settings names it."""
    names = {"guard": "name", "model": "source"}
    return {
        key: {names[key]: value} if key in names and isinstance(value, str) else value
        for key, value in layer.items()
    }


def _preset(guard: Any, source: Any) -> dict[str, Any]:
    if not isinstance(guard, str) or guard not in PUBLISHED:
        raise InputError(f"guard must be one of {', '.join(LOSSES)}, got {guard!r}")
    preset = PUBLISHED[guard]
    if guard == "projection" and _is_flux(str(source)):
        preset = overlay(preset, {"optimizer": {"lr": 0.02}})
    return {**preset, "guard": {"name": guard, **preset.get("guard", {})}}


def _is_flux(source: str) -> bool:
    """By what a local folder says it is, or by the name of a repository on the hub."""
    index = Path(source) / "model_index.json"
    if index.is_file():
        return "Flux" in read_text(index)
    return "flux" in source.rpartition("/")[2].lower()


def overlay(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings laid over one another.

    A guard or optimiser of another name shares nothing with what it replaces.
    """
    result = dict(below)
    for key, value in above.items():
        under = result.get(key)
        if isinstance(value, Mapping) and isinstance(under, Mapping):
            name = under.get("name")
            result[key] = overlay(under if value.get("name", name) == name else {}, value)
        else:
            result[key] = value
    return result


def _first(error: ValidationError) -> str:
    """One line: where, what is allowed, what came."""
    problem = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in problem["loc"]) or "settings"
    if problem["type"] == "extra_forbidden":
        return f"{where}: no such setting"
    if problem["type"] == "missing":
        return f"{where}: required"
    message = problem["msg"].removeprefix("Value error, ")
    got = "" if where == "settings" or "got" in message else f", got {problem['input']!r}"
    return f"{where}: {message}{got}"


# ---------------------------------------------------------------- YAML


def load_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        InputError: unreadable, not YAML, or not a mapping.
    """
    try:
        content = yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: must hold settings by name, got {type(content).__name__}")
    return content


def stored(path: Path) -> RunConfig:
    """The config that `to_yaml` wrote to a file: whole, so that no preset is under it.

    Raises:
        InputError: it is none.
    """
    try:
        return RunConfig.model_validate(load_yaml(path))
    except ValidationError as error:
        raise InputError(f"{path}: {_first(error)}") from error


def to_yaml(config: RunConfig) -> str:
    """A config as YAML; `resolve(yaml.safe_load(...))` gives it back."""
    settings = config.model_dump(mode="json")
    text: str = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
    if yaml.safe_load(text) != settings:  # prompts with odd line breaks come back as spaces
        text = yaml.safe_dump(settings, sort_keys=False)
    return text


def read_text(path: Path) -> str:
    """A text file of the user's.

    Raises:
        InputError: it cannot be read, or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")  # editors on Windows put a mark in front
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text") from error
