"""Rewards: how good images are under their prompts, differentiable in the images.

`load_reward` knows the published ones (CLIP score, LAION aesthetic, PickScore, HPS v2,
ImageReward) by name, those of the embedded digits, and any function of the user's as
`module:function`. `load_rewards` loads several with weights.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence

import torch

from gaussreg_fast.errors import InputError
from gaussreg_fast.latent.rewards.aesthetic import load_aesthetic
from gaussreg_fast.latent.rewards.batch import Reward
from gaussreg_fast.latent.rewards.clip import load_clip, load_pickscore
from gaussreg_fast.latent.rewards.combine import (
    RewardSpec,
    RewardSum,
    parse_reward,
    unique_names,
)
from gaussreg_fast.latent.rewards.hpsv2 import load_hpsv2
from gaussreg_fast.latent.rewards.imagereward import load_imagereward
from gaussreg_fast.latent.rewards.user import load_user

__all__ = [
    "Reward",
    "RewardSpec",
    "RewardSum",
    "known_rewards",
    "load_reward",
    "load_rewards",
    "parse_reward",
    "unique_names",
]

_PUBLISHED: dict[str, Callable[[str | None, torch.device | str, torch.dtype], Reward]] = {
    "clip": load_clip,
    "aesthetic": load_aesthetic,
    "pickscore": load_pickscore,
    "hpsv2": load_hpsv2,
    "imagereward": load_imagereward,
}
# What `pip install 'gaussreg_fast[latent]'` brings and the published rewards need.
_PACKAGES = ("transformers", "huggingface_hub", "safetensors", "tokenizers")


def known_rewards() -> tuple[str, ...]:
    """The names that `load_reward` takes, besides `module:function`; loads no model."""
    return (*_PUBLISHED, *_digits())


def load_reward(
    name: str,
    *,
    source: str | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Reward:
    """A reward, ready to be called, its weights frozen.

    Args:
        name: clip, aesthetic, pickscore, hpsv2, imagereward, one of the embedded digits'
            (digits-...), or `module:function`: a function or callable object that takes
            images (B, 3, H, W) in [0, 1] and B prompts and returns (B,), differentiable.
        source: for a published reward, hub id or local path of its weights instead of the
            default one; `rewards.clip.load_clip` and its like say what may lie there.
        device: of the weights. Images may be on another; the result is on the images' device.
        dtype: of the weights, floating. Images, preprocessing and scores are float32 or wider.

    Raises:
        InputError: unknown name, no such file, wrong checkpoint, hub not reachable, package
            missing, module or function missing or of the wrong signature.
    """
    if not dtype.is_floating_point:
        raise InputError(f"reward {name!r}: dtype {dtype}, wanted a floating one")
    if name in _PUBLISHED:
        return _load_published(name, source, device, dtype)
    digits = {} if ":" in name else _digits()
    if name not in digits and ":" not in name:
        known = ", ".join([*_PUBLISHED, *digits])
        raise InputError(f"unknown reward {name!r}, known are {known} and module:function")
    if source is not None:
        raise InputError(f"reward {name!r}: takes no source, got {source!r}")
    return digits[name]() if name in digits else load_user(name)


def load_rewards(
    specs: Sequence[RewardSpec],
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> RewardSum:
    """The weighted sum of the rewards; a name that comes again is called name#2, and so on.

    Raises:
        InputError: as `load_reward` and `RewardSum`.
    """
    rewards = [load_reward(s.name, source=s.source, device=device, dtype=dtype) for s in specs]
    weighted = zip(rewards, (spec.weight for spec in specs), strict=True)
    return RewardSum(dict(zip(unique_names(specs), weighted, strict=True)))


def _load_published(
    name: str, source: str | None, device: torch.device | str, dtype: torch.dtype
) -> Reward:
    try:
        return _PUBLISHED[name](source, device, dtype)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _PACKAGES:
            raise
        raise InputError(
            f"reward {name!r} needs {package}: pip install 'gaussreg_fast[latent]'"
        ) from error


def _digits() -> dict[str, Callable[[], Reward]]:
    """The embedded digits' rewards, if this installation has them."""
    try:
        digits = importlib.import_module("gaussreg_fast.digits")
    except ModuleNotFoundError as error:
        if error.name != "gaussreg_fast.digits":
            raise
        return {}
    rewards: dict[str, Callable[[], Reward]] = digits.REWARDS
    return rewards
