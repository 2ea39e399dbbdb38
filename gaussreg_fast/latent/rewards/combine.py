"""Several rewards as one: their names, sources and weights, and their weighted sum."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from gaussreg_fast.errors import InputError
from gaussreg_fast.latent.rewards.batch import Reward, check_batch


@dataclass(frozen=True)
class RewardSpec:
    """A reward as a user writes it: NAME[@SOURCE][=WEIGHT].

    Attributes:
        name: as `load_reward` takes it.
        weight: finite; negative to have less of it.
        source: hub id or local path instead of the reward's default one.
    """

    name: str
    weight: float = 1.0
    source: str | None = None

    def __post_init__(self) -> None:
        if not self.name:
            raise InputError("reward: the name is empty, wanted NAME[@SOURCE][=WEIGHT]")
        if self.source == "":
            raise InputError(f"reward {self.name!r}: the source after @ is empty")
        if not math.isfinite(self.weight):
            raise InputError(f"reward {self.name!r}: weight {self.weight}, wanted a finite number")

    def __str__(self) -> str:
        source = "" if self.source is None else f"@{self.source}"
        return f"{self.name}{source}={self.weight!r}"


def parse_reward(text: str) -> RewardSpec:
    """The spec in NAME[@SOURCE][=WEIGHT]; `str` of a spec gives it back.

    The source is what follows the first "@". What follows the last "=" is the weight if it is a
    number, otherwise part of the source: a path that itself ends in =NUMBER needs a weight.

    Raises:
        InputError: empty name or source, or a weight that is no finite number.
    """
    rest, equals, last = text.rpartition("=")
    weight = _number(last) if equals else None
    if weight is None:
        rest = text
    name, at, source = rest.partition("@")
    if "=" in name:
        raise InputError(f"reward {text!r}: {name.partition('=')[2]!r} is no number as a weight")
    return RewardSpec(name, 1.0 if weight is None else weight, source if at else None)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


class RewardSum:
    """The weighted sum of rewards, and each of them.

    Args:
        rewards: name -> (reward, weight). A reward of weight 0 is computed, and not added: its
            infinities stay out of the sum.

    Raises:
        InputError: no rewards, or a weight that is not finite.
    """

    def __init__(self, rewards: Mapping[str, tuple[Reward, float]]) -> None:
        if not rewards:
            raise InputError("rewards: none given, wanted at least one")
        for name, (_, weight) in rewards.items():
            if not math.isfinite(weight):
                raise InputError(f"reward {name!r}: weight {weight}, wanted a finite number")
        self._rewards = dict(rewards)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the rewards, in order."""
        return tuple(self._rewards)

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each."""
        return {name: weight for name, (_, weight) in self._rewards.items()}

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """Images (B, 3, H, W) and B prompts -> the sum (B,) and each reward (B,), unweighted.

        All arithmetic is within a sample: a reward that is not finite stays in its own.
        """
        check_batch(images, prompts)
        scores = {name: reward(images, prompts) for name, (reward, _) in self._rewards.items()}
        total = next(iter(scores.values())).new_zeros(images.shape[0])
        for name, weight in self.weights.items():
            if weight:
                total = total + weight * scores[name]
        return total, scores


def unique_names(specs: Sequence[RewardSpec]) -> list[str]:
    """A name for each spec: its own, and name#2, name#3 where it comes again."""
    count: dict[str, int] = {}
    names = []
    for spec in specs:
        count[spec.name] = count.get(spec.name, 0) + 1
        names.append(spec.name if count[spec.name] == 1 else f"{spec.name}#{count[spec.name]}")
    return names
