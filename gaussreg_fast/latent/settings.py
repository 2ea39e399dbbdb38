"""The settings of a run, with their types, ranges and help texts."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, Literal

import torch
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)
from torch import Tensor

from gaussreg_fast.latent.guards import Guard
from gaussreg_fast.latent.models.contents import refuse_object
from gaussreg_fast.latent.models.options import OFFLOADS, check_option
from gaussreg_fast.latent.number_types import no_truth_value
from gaussreg_fast.latent.rewards import RewardSpec, parse_reward, unbundled, unique_names
from gaussreg_fast.latent.selection import MODES

_SELECT = ("auto", *MODES)


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_value_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        kind = cls.model_fields[str(info.field_name)].annotation
        return value if kind is bool else no_truth_value(value)


class ModelSettings(_Settings):
    """The model and how it runs: the arguments of `models.load_model`."""

    source: str = Field(
        default="digits",
        description="Text-to-image model: `digits` (embedded), a folder in diffusers' format, or a "
        "hub id.",
    )
    revision: str | None = Field(
        default=None, description="Revision of the model's repository on the hub."
    )
    variant: str | None = Field(
        default=None,
        description="Variant of the model's weights, such as fp16. By default the files without "
        "one, or the only variant.",
    )
    device: str = Field(
        default="auto",
        description="Device of model and rewards, such as cuda:1. `auto`: the GPU if there is one, "
        "else the CPU.",
    )
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = Field(
        default="auto", description="Data type of the model's weights."
    )
    steps: int | None = Field(
        default=None,
        description="Steps of the model's sampler. By default the number it was published with.",
    )
    guidance: float | None = Field(
        default=None,
        description="Guidance scale of the model. By default the one it was published with.",
    )
    height: int | None = Field(default=None, description="Height of the images in pixels.")
    width: int | None = Field(default=None, description="Width of the images in pixels.")
    gradient_checkpointing: bool = Field(
        default=False,
        description="Save memory: recompute activations in the backward pass.",
    )
    vae_slicing: bool = Field(default=False, description="Save memory: decode one image at a time.")
    offload: Literal[OFFLOADS] = Field(  # type: ignore[valid-type]
        default="none",
        description="Save GPU memory: keep the text encoders, or all idle parts of the model, on "
        "the CPU.",
    )

    @field_validator("source", mode="before")
    @classmethod
    def _is_name(cls, value: Any) -> Any:
        refuse_object(value)
        return value

    @field_validator("steps", "guidance", "height", "width")
    @classmethod
    def _in_range(cls, value: Any, info: ValidationInfo) -> Any:
        check_option(str(info.field_name), value)
        return value


class OptimizerSettings(_Settings):
    """The optimiser of the latents, and the largest norm of a sample's gradient."""

    name: Literal["sgd", "adam", "adamw"] = Field(description="Optimiser of the noises.")
    lr: float = Field(gt=0, description="Learning rate of the optimiser.")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="Momentum of `sgd`.")
    nesterov: bool = Field(default=True, description="Use Nesterov's momentum with `sgd`.")
    clip: float | None = Field(
        default=None, gt=0, description="Clip every sample's gradient to this norm."
    )

    def build(self, parameters: list[Tensor]) -> torch.optim.Optimizer:
        """Return a torch optimiser; `momentum` and `nesterov` apply to SGD alone."""
        if self.name == "sgd":
            nesterov = self.nesterov and self.momentum > 0
            return torch.optim.SGD(
                parameters, lr=self.lr, momentum=self.momentum, nesterov=nesterov
            )
        if self.name == "adam":
            return torch.optim.Adam(parameters, lr=self.lr)
        return torch.optim.AdamW(parameters, lr=self.lr, weight_decay=0)


def _reward(value: Any) -> Any:
    return asdict(parse_reward(value)) if isinstance(value, str) else value


Reward = Annotated[RewardSpec, BeforeValidator(_reward)]


class RunConfig(_Settings):
    """Everything a run depends on.

    There is a sample for every prompt and seed. `guard` and the rewards check themselves: see
    `guards.Guard` and `rewards.RewardSpec`. `select`, `p_value` and `patience` are those of
    `problem.Problem`; "auto" selects by held-out rewards if there are any, else by Gaussianity.
    """

    prompts: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        min_length=1, description="Prompt. May be given several times."
    )
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**63)], ...] = Field(
        default=(0,),
        min_length=1,
        description="Seed of a starting noise. May be given several times. By default 0.",
    )
    latents: str | None = Field(
        default=None,
        description="File with the noises to start from: one per sample, prompts outermost.",
    )
    latents_key: str | None = Field(
        default=None, description="Name of the tensor in the file of noises, if it holds several."
    )
    model: ModelSettings = ModelSettings()
    rewards: tuple[Reward, ...] = Field(
        min_length=1,
        description="Reward to maximise: NAME[@SOURCE][=WEIGHT], or `reno` for ReNO's four. May be "
        "given several times.",
    )
    held_out: tuple[Reward, ...] = Field(
        default=(),
        description="Reward that is evaluated but not maximised; it chooses the best iterate: "
        "NAME[@SOURCE][=WEIGHT]. May be given several times.",
    )
    reward_dtype: Literal["float32", "float16", "bfloat16"] = Field(
        default="float32", description="Data type of the rewards' weights."
    )
    guard: Guard
    optimizer: OptimizerSettings
    iterations: int = Field(
        ge=1,
        description="Optimisation steps. By default the number that the guard's authors chose.",
    )
    batch_size: int = Field(default=4, ge=1, description="Samples that are computed at a time.")
    select: Literal[_SELECT] = Field(  # type: ignore[valid-type]
        default="auto",
        description="How the best iterate is chosen. `auto`: by the held-out rewards if there are "
        "any, else the latest that still passes as Gaussian noise.",
    )
    p_value: float = Field(
        default=0.01,
        gt=0,
        lt=1,
        description="Smallest p-value at which a noise still passes as Gaussian.",
    )
    patience: int | None = Field(
        default=None,
        ge=1,
        description="Stop a sample after this many evaluations without a better iterate.",
    )
    evaluate_every: int = Field(
        default=1,
        ge=1,
        description="Iterations between evaluations of held-out rewards and p-values.",
    )
    checkpoint_every: int = Field(
        default=10, ge=1, description="Iterations between checkpoints of a run."
    )
    seed: int = Field(default=0, ge=0, lt=2**31, description="Seed of the guard's permutations.")

    @field_validator("rewards", "held_out")
    @classmethod
    def _unbundled(cls, value: tuple[RewardSpec, ...]) -> tuple[RewardSpec, ...]:
        return unbundled(value)

    @field_validator("model", mode="before")
    @classmethod
    def _is_model(cls, value: Any) -> Any:
        refuse_object(value)
        return value

    @model_validator(mode="after")
    def _consistent(self) -> RunConfig:
        rewards = [(reward.name, reward.source) for reward in self.rewards + self.held_out]
        twice = sorted({reward[0] for reward in rewards if rewards.count(reward) > 1})
        if twice:
            raise ValueError(f"a reward must be named once, got {twice[0]!r} twice")
        if self.select == "held_out" and not self.held_out:
            raise ValueError("select 'held_out' needs a held-out reward, got none")
        if self.patience is not None and self.select == "last":
            raise ValueError("patience needs select 'held_out' or 'gaussianity', got 'last'")
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError("seeds must differ: the same seed is the same noise")
        return self

    @property
    def reward_columns(self) -> list[str]:
        """Names of the rewards in the metrics; the second reward of a name gets "#2"."""
        return unique_names(self.rewards)

    @property
    def held_out_columns(self) -> list[str]:
        """Names of the held-out rewards in the metrics, each after "held_out/"."""
        return [f"held_out/{name}" for name in unique_names(self.held_out)]

    @property
    def selection(self) -> str:
        """`select`, with "auto" resolved."""
        if self.select != "auto":
            return self.select
        return "held_out" if self.held_out else "gaussianity"
