"""HPS v2: an OpenCLIP checkpoint of a ViT-H/14, converted to transformers' format."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gaussreg_fast._files import user_path
from gaussreg_fast.latent.rewards import sources
from gaussreg_fast.latent.rewards.batch import freeze
from gaussreg_fast.latent.rewards.clip import CLIP_H, CosineReward, preprocessing

HPSV2 = "xswu/HPSv2"
HPSV2_FILE = "HPS_v2.1_compressed.pt"

# OpenCLIP's names (open_clip/model.py, CLIP and transformer.py) -> transformers' CLIPModel's.
_NAMES = {
    "logit_scale": "logit_scale",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
}
# Matrices that OpenCLIP multiplies from the right: transposed in transformers.
_TRANSPOSED = {
    "text_projection": "text_projection.weight",
    "visual.proj": "visual_projection.weight",
}
_BLOCK = re.compile(r"(visual\.)?transformer\.resblocks\.(\d+)\.(.+)\.(?:in_proj_)?(weight|bias)")
_BLOCK_NAMES = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


def to_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a state dict of OpenCLIP's `CLIP` to the keys of transformers' `CLIPModel`.

    Unknown names stay as they are, so that loading reports them as unexpected.
    """
    converted: dict[str, Tensor] = {}
    for name, value in state.items():
        if name == "attn_mask":  # the causal mask, which old versions of OpenCLIP saved
            continue
        if name in _TRANSPOSED:
            converted[_TRANSPOSED[name]] = value.T.contiguous()
        elif match := _BLOCK.fullmatch(name):
            converted |= _block(name, value, *match.groups())
        else:
            converted[_NAMES.get(name, name)] = value
    return converted


def _block(
    name: str, value: Tensor, visual: str | None, layer: str, part: str, kind: str
) -> dict[str, Tensor]:
    """Rename one tensor of a transformer's block; OpenCLIP stacks queries, keys and values."""
    prefix = f"{'vision' if visual else 'text'}_model.encoder.layers.{layer}."
    if part == "attn":
        parts = zip("qkv", value.chunk(3), strict=True)
        return {f"{prefix}self_attn.{p}_proj.{kind}": v.contiguous() for p, v in parts}
    if part in _BLOCK_NAMES:
        return {f"{prefix}{_BLOCK_NAMES[part]}.{kind}": value}
    return {name: value}


def load_hpsv2(source: str | None, device: torch.device | str, dtype: torch.dtype) -> CosineReward:
    """Load HPS v2.1: the cosine itself, as published, about 0.2 to 0.35 on generated pictures.

    Wu et al., "Human Preference Score v2", 2023 (arXiv:2306.09341); `hpsv2.score` of the
    authors' package. Unlike CLIP's, its preprocessing fits the longer side and pads with black.

    Args:
        source: the authors' checkpoint in OpenCLIP's format: a .pt file, a folder with
            HPS_v2.1_compressed.pt, or owner/name/file on the hub; or a model in
            transformers' format: a folder with config.json or a hub id. By default the authors'
            on the hub. The configuration (which alone tells GELU from QuickGELU), tokenizer
            and normalisation of an OpenCLIP checkpoint come from the folder `clip` beside the
            file, in transformers' format, where weights are not needed; else from LAION's
            ViT-H/14 on the hub.
        device: device of the model.
        dtype: dtype of the model.

    Raises:
        InputError: a file is missing, unreadable or wrong, or the hub cannot be reached.
    """
    from transformers import CLIPModel

    source = source or HPSV2
    if _is_open_clip(source):
        model, texts = _from_open_clip(source)
    else:
        texts = sources.folder("hpsv2", source)
        texts.fetch("config.json")
        model = sources.load_model(CLIPModel, texts)
    tokenizer = sources.load_tokenizer(texts)
    preprocess = replace(
        preprocessing(texts, model.config.vision_config.image_size), fit="longest", mode="bicubic"
    )
    return CosineReward("hpsv2", freeze(model, device, dtype), tokenizer, preprocess, scale=1.0)


def _is_open_clip(source: str) -> bool:
    path = user_path(source)
    if path.exists():
        return path.is_file() or not (path / "config.json").is_file()
    return source == HPSV2 or source.count("/") > 1


def _from_open_clip(source: str) -> tuple[Any, sources.Folder]:
    """Load a model; also return the source of its configuration, tokenizer and normalisation."""
    from transformers import CLIPConfig, CLIPModel

    file = sources.checkpoint("hpsv2", source, HPSV2_FILE)
    state = to_transformers(sources.read_state("hpsv2", file))
    texts = sources.companion("hpsv2", file.parent, "clip", CLIP_H)
    config = CLIPConfig.from_pretrained(texts.fetch("config.json"))
    return sources.load_model(CLIPModel, texts, config=config, state=state, where=file), texts
