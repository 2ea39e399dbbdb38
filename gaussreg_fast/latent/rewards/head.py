"""The scalar head that the LAION aesthetic predictor and ImageReward share."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn

from gaussreg_fast.latent.rewards import sources

# Indices of the linear layers in the published nn.Sequential; the other layers are dropout.
_LINEAR = (0, 2, 4, 6, 7)


def linear_head(reward: str, where: object, state: Mapping[str, Tensor], width: int) -> nn.Module:
    """Build five linear layers down to one number from a state dict.

    The published head (768-1024-128-64-16-1) has no activation between them, and its dropout does
    nothing outside training.

    Args:
        reward: the reward's name, for errors.
        where: the checkpoint, for errors.
        state: `layers.{0,2,4,6,7}.{weight,bias}`.
        width: size of the embedding that goes in.

    Returns:
        (B, width) -> (B, 1).

    Raises:
        InputError: keys are missing or unexpected, or their shapes do not fit each other.
    """
    wanted = [f"layers.{i}.{kind}" for i in _LINEAR for kind in ("weight", "bias")]
    missing = [key for key in wanted if key not in state]
    sources.check_keys(reward, where, missing, [key for key in state if key not in wanted])
    widths = [width, *(len(state[f"layers.{i}.bias"]) for i in _LINEAR)]
    misshapen = [
        f"layers.{i}.weight"
        for i, (before, after) in zip(_LINEAR, pairwise(widths), strict=True)
        if state[f"layers.{i}.weight"].shape != (after, before)
    ]
    if widths[-1] != 1:
        misshapen.append(f"layers.{_LINEAR[-1]}.bias")
    sources.check_keys(reward, where, [], [], misshapen)
    layers = [nn.Linear(before, after) for before, after in pairwise(widths)]
    with torch.no_grad():
        for layer, i in zip(layers, _LINEAR, strict=True):
            layer.weight.copy_(state[f"layers.{i}.weight"])
            layer.bias.copy_(state[f"layers.{i}.bias"])
    return nn.Sequential(*layers)
