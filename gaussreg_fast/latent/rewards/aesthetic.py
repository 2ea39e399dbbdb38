"""LAION's improved aesthetic predictor: a linear head on CLIP ViT-L/14 image embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gaussreg_fast.latent.rewards import sources
from gaussreg_fast.latent.rewards.batch import at_least_float32, check_batch, freeze, result
from gaussreg_fast.latent.rewards.clip import CLIP, image_embedding, preprocessing
from gaussreg_fast.latent.rewards.head import linear_head
from gaussreg_fast.latent.rewards.preprocess import Preprocessing

AESTHETIC = "trl-lib/ddpo-aesthetic-predictor"  # sac+logos+ava1-l14-linearMSE.pth, renamed
AESTHETIC_FILE = "aesthetic-model.pth"


class AestheticReward:
    """A head on the unit image embedding of a CLIP; ignores the prompts.

    Args:
        clip: a transformers `CLIPVisionModelWithProjection`, frozen, on its device.
        head: (B, E) -> (B, 1), float32 or wider.
        preprocess: images in [0, 1] to the CLIP's pixel values.
    """

    name = "aesthetic"

    def __init__(self, clip: Any, head: nn.Module, preprocess: Preprocessing) -> None:
        self._clip, self._head, self._preprocess = clip, head, preprocess

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Score images (B, 3, H, W) in [0, 1]: (B,), differentiable in the images."""
        check_batch(images, prompts)
        if not prompts:
            return result(images.sum((1, 2, 3)), images)
        embedding = image_embedding(self._clip, self._preprocess(images))
        return result(self._head(embedding).squeeze(-1), images)


def load_aesthetic(
    source: str | None, device: torch.device | str, dtype: torch.dtype
) -> AestheticReward:
    """Load "sac+logos+ava1-l14-linearMSE": scores of about 1 to 10, good pictures above 5.5.

    Schuhmann, github.com/christophschuhmann/improved-aesthetic-predictor (the score behind
    LAION-Aesthetics v2; Schuhmann et al., "LAION-5B", NeurIPS 2022, arXiv:2210.08402).

    Args:
        source: the head: a .pth or .safetensors file with the original's keys, a folder with
            one such file, a hub id, or owner/name/file on the hub. Its CLIP is the folder
            `clip` beside the file, in transformers' format, else OpenAI's ViT-L/14 on the hub.
        device: device of the models.
        dtype: dtype of the CLIP; the head is float32 or wider.

    Raises:
        InputError: a file is missing, unreadable or wrong, or the hub cannot be reached.
    """
    from transformers import CLIPVisionModelWithProjection

    file = sources.checkpoint("aesthetic", source or AESTHETIC, AESTHETIC_FILE)
    state = sources.read_state("aesthetic", file)
    files = sources.companion("aesthetic", file.parent, "clip", CLIP)
    files.fetch("config.json")
    clip = sources.load_model(
        CLIPVisionModelWithProjection,
        files,
        unused=("text_model.", "text_projection.", "logit_scale"),
    )
    head = linear_head("aesthetic", file, state, clip.config.projection_dim)
    preprocess = preprocessing(files, clip.config.image_size)
    head = freeze(head, device, at_least_float32(dtype))
    return AestheticReward(freeze(clip, device, dtype), head, preprocess)
