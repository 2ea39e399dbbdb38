"""Rewards: how good images are under their prompts, differentiable in the images.

`load_reward` knows published rewards (CLIP score, LAION aesthetic, PickScore, HPS v2, ImageReward)
and those of the embedded digits by name, and any function of the user as `module:function`.
`load_rewards` loads several with weights.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence

import torch

from gaussreg_fast import _ambient
from gaussreg_fast.errors import InputError
from gaussreg_fast.latent.rewards.aesthetic import load_aesthetic
from gaussreg_fast.latent.rewards.batch import Reward
from gaussreg_fast.latent.rewards.clip import load_clip, load_pickscore
from gaussreg_fast.latent.rewards.combine import (
    RewardSpec,
    RewardSum,
    parse_reward,
    unbundled,
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
    "unbundled",
    "unique_names",
]

_PUBLISHED: dict[str, Callable[[str | None, torch.device | str, torch.dtype], Reward]] = {
    "clip": load_clip,
    "aesthetic": load_aesthetic,
    "pickscore": load_pickscore,
    "hpsv2": load_hpsv2,
    "imagereward": load_imagereward,
}
# The packages that published rewards need and `pip install 'gaussreg_fast[latent]'` installs.
_PACKAGES = ("transformers", "huggingface_hub", "safetensors", "tokenizers")


def known_rewards() -> tuple[str, ...]:
    """Return the names that `load_reward` takes besides `module:function`; loads no model."""
    return (*_PUBLISHED, *_digits())


@_ambient.usual()
def load_reward(
    name: str,
    *,
    source: str | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Reward:
    """Load a reward with frozen weights.

    Args:
        name: clip, aesthetic, pickscore, hpsv2, imagereward, one of the embedded digits'
            (digits-...), or `module:function`: a function or callable object that takes
            images (B, 3, H, W) in [0, 1] and B prompts and returns (B,), differentiable.
        source: for a published reward, hub id or local path of its weights instead of the
            default one; its loader, such as `rewards.clip.load_clip`, lists the allowed formats.
        device: device of the weights. Images may be on another; the result is on theirs.
        dtype: floating dtype of the weights. Images, preprocessing and scores are float32 or wider.

    Raises:
        InputError: the name is unknown, a file or package is missing, the checkpoint is wrong,
            the hub cannot be reached, or the user's module or function is missing or has the
            wrong signature.
    """
    if not dtype.is_floating_point:
        raise InputError(f"reward {name!r}: dtype must be a floating one, got {dtype}")
    if name in _PUBLISHED:
        return _load_published(name, source, device, dtype)
    digits = {} if ":" in name else _digits()
    if name not in digits and ":" not in name:
        known = ", ".join([*_PUBLISHED, *digits])
        raise InputError(f"reward must be one of {known} or module:function, got {name!r}")
    if source is not None:
        raise InputError(f"reward {name!r} takes no source, got {source!r}")
    return digits[name]() if name in digits else load_user(name)


def load_rewards(
    specs: Sequence[RewardSpec],
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> RewardSum:
    """Load the weighted sum of rewards; a name's second reward is called name#2, and so on.

    Raises:
        InputError: see `load_reward` and `RewardSum`.
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
    """Return the embedded digits' rewards; empty if this installation has none."""
    try:
        digits = importlib.import_module("gaussreg_fast.digits")
    except ModuleNotFoundError as error:
        if error.name != "gaussreg_fast.digits":
            raise
        return {}
    rewards: dict[str, Callable[[], Reward]] = digits.REWARDS
    return rewards
