"""ImageReward: BLIP's text encoder reads the prompt and attends to the image."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from math import isqrt
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gaussreg_fast.errors import InputError
from gaussreg_fast.latent.rewards import sources
from gaussreg_fast.latent.rewards.batch import at_least_float32, check_batch, freeze, result
from gaussreg_fast.latent.rewards.clip import CACHED_PROMPTS
from gaussreg_fast.latent.rewards.head import linear_head
from gaussreg_fast.latent.rewards.preprocess import Preprocessing

IMAGEREWARD = "zai-org/ImageReward"  # formerly THUDM/ImageReward
IMAGEREWARD_FILE = "ImageReward.pt"
BERT = "google-bert/bert-base-uncased"
# From ImageReward.py of the authors' repository: the scores' mean and deviation on their data.
MEAN, STD = 0.16717362830052426, 1.0333394966054072
MAX_TOKENS = 35
HEAD_WIDTH = 64  # size of an attention head in BLIP's vision transformers, base and large

# BLIP's names (models/vit.py, after timm) -> transformers' BlipVisionModel's.
_VISION_NAMES = {
    "cls_token": "embeddings.class_embedding",
    "pos_embed": "embeddings.position_embedding",
    "patch_embed.proj.weight": "embeddings.patch_embedding.weight",
    "patch_embed.proj.bias": "embeddings.patch_embedding.bias",
    "norm.weight": "post_layernorm.weight",
    "norm.bias": "post_layernorm.bias",
}
_BLOCK = re.compile(r"blocks\.(\d+)\.(norm1|norm2|attn\.qkv|attn\.proj|mlp\.fc1|mlp\.fc2)\.(\w+)")
_BLOCK_NAMES = {
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
    "attn.qkv": "self_attn.qkv",
    "attn.proj": "self_attn.projection",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
_TEXT_FIELDS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
    "hidden_act",
    "layer_norm_eps",
)


class ImageReward:
    """The head's score of the text encoder's first token, standardised as published.

    Each prompt is tokenised once. The text encoder runs at every call, because it attends to the
    image.

    Args:
        vision: a transformers `BlipVisionModel`, frozen, on its device.
        text: a transformers `BlipTextModel` with cross-attention, likewise.
        head: (B, E) -> (B, 1), float32 or wider.
        tokenizer: BERT's.
        preprocess: images in [0, 1] to pixel values.
    """

    name = "imagereward"

    def __init__(
        self, vision: Any, text: Any, head: nn.Module, tokenizer: Any, preprocess: Preprocessing
    ) -> None:
        self._vision, self._text, self._head = vision, text, head
        self._tokenizer, self._preprocess = tokenizer, preprocess
        self._tokens = lru_cache(maxsize=CACHED_PROMPTS)(self._tokenise)

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Score images (B, 3, H, W) in [0, 1] under B prompts: (B,), differentiable in images."""
        check_batch(images, prompts)
        if not prompts:
            return result(images.sum((1, 2, 3)), images)
        weight = self._vision.post_layernorm.weight
        pixels = self._preprocess(images).to(weight.device, weight.dtype)
        ids, mask = (torch.stack(t) for t in zip(*map(self._tokens, prompts), strict=True))
        states = self._text(
            input_ids=ids,
            attention_mask=mask,
            encoder_hidden_states=self._vision(pixel_values=pixels).last_hidden_state,
        ).last_hidden_state
        first = states[:, 0].to(at_least_float32(states.dtype))
        return result((self._head(first).squeeze(-1) - MEAN) / STD, images)

    def _tokenise(self, prompt: str) -> tuple[Tensor, Tensor]:
        """Return token numbers and mask, (35,) int64 each."""
        tokens = self._tokenizer(
            prompt,
            padding="max_length",
            truncation=True,
            max_length=MAX_TOKENS,
            return_tensors="pt",
        ).to(self._vision.device)
        return tokens.input_ids[0], tokens.attention_mask[0]


def load_imagereward(
    source: str | None, device: torch.device | str, dtype: torch.dtype
) -> ImageReward:
    """Load ImageReward v1.0: standardised, about -2 to 2, 0 on average on the authors' data.

    Xu et al., "ImageReward", NeurIPS 2023 (arXiv:2304.05977); models/BLIP and ImageReward.py
    of the authors' package.

    Args:
        source: the authors' ImageReward.pt, a folder or hub id that holds it, or
            owner/name/file on the hub. The text encoder's configuration, med_config.json, and
            the folder `bert` with the tokenizer of bert-base-uncased are taken from beside it,
            else from the hub.
        device: device of the models.
        dtype: dtype of the models; the head is float32 or wider.

    Raises:
        InputError: a file is missing, unreadable or wrong, or the hub cannot be reached.
    """
    file = sources.checkpoint("imagereward", source or IMAGEREWARD, IMAGEREWARD_FILE)
    parts = _split(sources.read_state("imagereward", file))
    beside = sources.Folder("imagereward", str(file.parent), local=True)
    if beside.find("med_config.json") is None:
        beside = sources.Folder("imagereward", IMAGEREWARD, local=False)
    med = beside.json("med_config.json")
    tokenizer = _tokenizer(sources.companion("imagereward", file.parent, "bert", BERT), med)
    vision = _vision(file, parts["blip.visual_encoder."])
    text = _text(file, parts["blip.text_encoder."], med, vision.config.hidden_size)
    head = linear_head("imagereward", file, parts["mlp."], text.config.hidden_size)
    return ImageReward(
        freeze(vision, device, dtype),
        freeze(text, device, dtype),
        freeze(head, device, at_least_float32(dtype)),
        tokenizer,
        Preprocessing.square(vision.config.image_size),
    )


def _split(state: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Split a checkpoint by prefix, without BLIP's projections, which the score does not use."""
    prefixes = ("blip.visual_encoder.", "blip.text_encoder.", "mlp.")
    return {
        p: {k.removeprefix(p): v for k, v in state.items() if k.startswith(p)} for p in prefixes
    }


def to_blip_vision(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename BLIP's vision transformer to the keys of transformers' `BlipVisionModel`.

    Unknown names stay as they are, so that loading reports them as unexpected.
    """

    def rename(name: str) -> str:
        if match := _BLOCK.fullmatch(name):
            layer, part, kind = match.groups()
            return f"encoder.layers.{layer}.{_BLOCK_NAMES[part]}.{kind}"
        return _VISION_NAMES.get(name, name)

    return {rename(name): value for name, value in state.items()}


def _vision(file: Path, state: Mapping[str, Tensor]) -> Any:
    from transformers import BlipVisionConfig, BlipVisionModel

    needed = ("patch_embed.proj.weight", "pos_embed", "blocks.0.mlp.fc1.weight")
    missing = [f"blip.visual_encoder.{key}" for key in needed if key not in state]
    sources.check_keys("imagereward", file, missing, [])
    width, _, patch, _ = state["patch_embed.proj.weight"].shape
    layers = {int(match[1]) for key in state if (match := _BLOCK.fullmatch(key))}
    config = BlipVisionConfig(
        hidden_size=width,
        intermediate_size=state["blocks.0.mlp.fc1.weight"].shape[0],
        num_hidden_layers=max(layers) + 1,
        num_attention_heads=max(1, width // HEAD_WIDTH),
        image_size=isqrt(state["pos_embed"].shape[1] - 1) * patch,
        patch_size=patch,
        hidden_act="gelu",
        layer_norm_eps=1e-6,  # timm's; transformers' default differs
    )
    where = sources.Folder("imagereward", str(file), local=True)
    return sources.load_model(BlipVisionModel, where, config=config, state=to_blip_vision(state))


def _text(file: Path, state: Mapping[str, Tensor], med: Mapping[str, Any], width: int) -> Any:
    """Load the text encoder, whose keys are transformers' own."""
    from transformers import BlipTextConfig, BlipTextModel

    absent = [field for field in _TEXT_FIELDS if field not in med]
    if absent:
        raise InputError(f"reward 'imagereward': med_config.json must hold {absent[0]!r}")
    config = BlipTextConfig(
        **{field: med[field] for field in _TEXT_FIELDS},
        encoder_hidden_size=width,
        is_decoder=True,  # builds the cross-attention; the call masks nothing
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    where = sources.Folder("imagereward", str(file), local=True)
    return sources.load_model(
        BlipTextModel, where, config=config, state=state, add_pooling_layer=False
    )


def _tokenizer(source: sources.Folder, med: Mapping[str, Any]) -> Any:
    """Load BERT's tokenizer and add the two tokens that BLIP has at the end of its vocabulary."""
    tokenizer = sources.load_tokenizer(source)
    tokenizer.add_tokens(["[DEC]", "[ENC]"], special_tokens=True)
    if len(tokenizer) != med.get("vocab_size"):
        raise InputError(
            f"reward 'imagereward': {source.where}: the tokenizer must have the text encoder's "
            f"{med.get('vocab_size')} tokens with [DEC] and [ENC], got {len(tokenizer)}"
        )
    return tokenizer
