"""Combine rewards: their names, sources and weights, and their weighted sum."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from gaussreg_fast.errors import InputError
from gaussreg_fast.latent.number_types import Number
from gaussreg_fast.latent.rewards.batch import Reward, check_batch


@dataclass(frozen=True)
class RewardSpec:
    """A reward as a user writes it: NAME[@SOURCE][=WEIGHT].

    Attributes:
        name: as `load_reward` takes it.
        weight: finite factor in the sum; a negative one minimises the reward.
        source: hub id or local path instead of the reward's default one.
    """

    name: str
    weight: Number = 1.0
    source: str | None = None

    def __post_init__(self) -> None:
        if not self.name:
            raise InputError("reward must be NAME[@SOURCE][=WEIGHT], got an empty name")
        if self.source == "":
            raise InputError(f"reward {self.name!r}: the source after @ must not be empty")
        _check_weight(self.name, self.weight)

    def __str__(self) -> str:
        source = "" if self.source is None else f"@{self.source}"
        return f"{self.name}{source}={self.weight!r}"


def parse_reward(text: str) -> RewardSpec:
    """Parse NAME[@SOURCE][=WEIGHT]; `str` of a spec gives it back.

    The source follows the first "@". The text after the last "=" is the weight if it is a number,
    otherwise part of the source: a path that itself ends in =NUMBER needs a weight.

    Raises:
        InputError: the name or source is empty, or the weight is no finite number.
    """
    rest, equals, last = text.rpartition("=")
    weight = _number(last) if equals else None
    if weight is None:
        rest = text
    name, at, source = rest.partition("@")
    if "=" in name:
        got = name.partition("=")[2]
        raise InputError(f"reward {text!r}: the weight must be a finite number, got {got!r}")
    return RewardSpec(name, 1.0 if weight is None else weight, source if at else None)


def _check_weight(name: str, weight: float) -> None:
    if not math.isfinite(weight):
        raise InputError(f"reward {name!r}: the weight must be a finite number, got {weight}")


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


BUNDLES = {
    # ReNO (arXiv 2406.04312), the weights of its released code. Its scores have the scales of ours.
    "reno": (
        RewardSpec("hpsv2", 5.0),
        RewardSpec("imagereward", 1.0),
        RewardSpec("pickscore", 0.05),
        RewardSpec("clip", 0.01, "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"),
    ),
}
"""Names that stand for several published rewards with their weights."""


def unbundled(specs: Sequence[RewardSpec]) -> tuple[RewardSpec, ...]:
    """Return the specs with a bundle's rewards in its place, their weights times the bundle's.

    Raises:
        InputError: a bundle has a source.
    """
    found: list[RewardSpec] = []
    for spec in specs:
        if spec.name in BUNDLES and spec.source is not None:
            names = ", ".join(each.name for each in BUNDLES[spec.name])
            raise InputError(
                f"reward {spec.name!r} stands for {names}, so that it takes no source, got "
                f"@{spec.source}"
            )
        found += [
            replace(each, weight=each.weight * spec.weight) for each in BUNDLES.get(spec.name, ())
        ] or [spec]
    return tuple(found)


class RewardSum:
    """The weighted sum of rewards, and each of them.

    Args:
        rewards: name -> (reward, weight). A reward of weight 0 is computed but not added, so that
            its infinities stay out of the sum.

    Raises:
        InputError: there are no rewards, or a weight is not finite.
    """

    def __init__(self, rewards: Mapping[str, tuple[Reward, float]]) -> None:
        if not rewards:
            raise InputError("rewards must hold at least one reward, got none")
        for name, (_, weight) in rewards.items():
            _check_weight(name, weight)
        self._rewards = dict(rewards)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the rewards, in order."""
        return tuple(self._rewards)

    @property
    def weights(self) -> dict[str, float]:
        """The weights of the rewards, by name."""
        return {name: weight for name, (_, weight) in self._rewards.items()}

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted sum (B,) and each unweighted reward (B,) of images (B, 3, H, W).

        All arithmetic is within a sample: a reward that is not finite affects no other sample.
        """
        check_batch(images, prompts)
        scores = {name: reward(images, prompts) for name, (reward, _) in self._rewards.items()}
        total = next(iter(scores.values())).new_zeros(images.shape[0])
        for name, weight in self.weights.items():
            if weight:
                total = total + weight * scores[name]
        return total, scores


def unique_names(specs: Sequence[RewardSpec]) -> list[str]:
    """Return a name for each spec: its own, with #2, #3 and so on for repeated ones."""
    count: dict[str, int] = {}
    names = []
    for spec in specs:
        count[spec.name] = count.get(spec.name, 0) + 1
        names.append(spec.name if count[spec.name] == 1 else f"{spec.name}#{count[spec.name]}")
    return names
