"""CLIP score and PickScore: the cosine of an image's and its prompt's embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gaussreg_fast.latent.rewards import sources
from gaussreg_fast.latent.rewards.batch import at_least_float32, check_batch, freeze, result
from gaussreg_fast.latent.rewards.preprocess import Preprocessing, from_config

CLIP = "openai/clip-vit-large-patch14"
PICKSCORE = "yuvalkirstain/PickScore_v1"
CLIP_H = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"  # the base model of PickScore and HPS v2
CACHED_PROMPTS = 4096  # 16 MB at most, at 1024 floats an embedding


class CosineReward:
    """scale * cos(image embedding, text embedding) of a CLIP in transformers' format.

    The cosine is computed in float32 whatever the model's dtype. Each prompt is tokenised and
    encoded once, by itself, so that its embedding does not depend on its batch.

    Args:
        name: the reward's name.
        model: a transformers `CLIPModel`, frozen, on its device.
        tokenizer: the model's tokenizer.
        preprocess: images in [0, 1] to the model's pixel values.
        scale: factor of the cosine.
    """

    def __init__(
        self, name: str, model: Any, tokenizer: Any, preprocess: Preprocessing, scale: float
    ) -> None:
        self.name, self.scale = name, scale
        self._model, self._tokenizer, self._preprocess = model, tokenizer, preprocess
        self._text = lru_cache(maxsize=CACHED_PROMPTS)(self._encode)

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Score images (B, 3, H, W) in [0, 1] under B prompts: (B,), differentiable in images."""
        check_batch(images, prompts)
        if not prompts:
            return result(images.sum((1, 2, 3)), images)
        embedding = image_embedding(self._model, self._preprocess(images))
        text = torch.stack([self._text(prompt) for prompt in prompts])
        return result((embedding * text).sum(-1) * self.scale, images)

    @torch.no_grad()
    def _encode(self, prompt: str) -> Tensor:
        """Return the unit embedding (E,) of one prompt, truncated to the model's context."""
        context = self._model.config.text_config.max_position_embeddings
        tokens = self._tokenizer(prompt, truncation=True, max_length=context, return_tensors="pt")
        ids = tokens.input_ids.to(self._model.device)
        pooled = self._model.text_model(input_ids=ids).pooler_output
        return unit(self._model.text_projection(pooled))[0]


def image_embedding(model: Any, pixels: Tensor) -> Tensor:
    """Embed pixel values with a CLIP of transformers: unit rows (B, E), float32 or wider."""
    weight = model.visual_projection.weight
    pooled = model.vision_model(pixel_values=pixels.to(weight.device, weight.dtype)).pooler_output
    return unit(model.visual_projection(pooled))


def unit(embedding: Tensor) -> Tensor:
    """Normalise rows to length 1, in float32 or wider."""
    return F.normalize(embedding.to(at_least_float32(embedding.dtype)), dim=-1)


def preprocessing(source: sources.Folder, image_size: int) -> Preprocessing:
    """Return the preprocessing of the folder's preprocessor config; CLIP's own without one."""
    if path := source.find("preprocessor_config.json"):
        return from_config(sources.read_json(source.reward, path), image_size, str(path))
    if source.local and (path := source.find("processor_config.json")):  # transformers >= 5
        config = sources.read_json(source.reward, path).get("image_processor", {})
        return from_config(config, image_size, str(path))
    return Preprocessing.square(image_size)


def load_clip(source: str | None, device: torch.device | str, dtype: torch.dtype) -> CosineReward:
    """Load the CLIP score: 100 cos, in [-100, 100], about 15 to 35 on real pictures.

    The scale is torchmetrics' (`CLIPScore`), without its clamp at 0, which has no gradient;
    Hessel et al., "CLIPScore", EMNLP 2021 (arXiv:2104.08718), use 2.5 instead of 100.

    Args:
        source: hub id or folder of a CLIP in transformers' format, with tokenizer and
            preprocessor config; OpenAI's ViT-L/14 by default.
        device: device of the model.
        dtype: dtype of the model.

    Raises:
        InputError: a file is missing, unreadable or wrong, or the hub cannot be reached.
    """
    files = sources.folder("clip", source or CLIP)
    return _load("clip", files, files, device, dtype, scale=100.0)


def load_pickscore(
    source: str | None, device: torch.device | str, dtype: torch.dtype
) -> CosineReward:
    """Load PickScore: the checkpoint's own logit scale (about 100) times the cosine.

    Kirstain et al., "Pick-a-Pic", NeurIPS 2023 (arXiv:2305.01569); the scores before the
    softmax in the authors' README. About 18 to 24 on generated pictures.

    Args:
        source: hub id or folder of the checkpoint, a ViT-H/14 in transformers' format. Tokenizer
            and preprocessor config come from the folder, else from its folder `clip`, else from
            LAION's ViT-H/14 on the hub, as published.
        device: device of the model.
        dtype: dtype of the model.

    Raises:
        InputError: a file is missing, unreadable or wrong, or the hub cannot be reached.
    """
    files = sources.folder("pickscore", source or PICKSCORE)
    texts = sources.Folder("pickscore", CLIP_H, local=False)
    if files.local:
        own = files.find("tokenizer_config.json") or files.find("tokenizer.json")
        texts = files if own else sources.companion("pickscore", files.path, "clip", CLIP_H)
    return _load("pickscore", files, texts, device, dtype, scale=None)


def _load(
    name: str,
    files: sources.Folder,
    texts: sources.Folder,
    device: torch.device | str,
    dtype: torch.dtype,
    scale: float | None,
) -> CosineReward:
    """Load weights from `files`, tokenizer and preprocessing from `texts`.

    A scale of None takes the model's own.
    """
    from transformers import CLIPModel

    files.fetch("config.json")  # fetched first, because its error names the missing file
    tokenizer = sources.load_tokenizer(texts)
    model = sources.load_model(CLIPModel, files)
    if scale is None:
        scale = float(model.logit_scale.detach().float().exp())
    preprocess = preprocessing(texts, model.config.vision_config.image_size)
    return CosineReward(name, freeze(model, device, dtype), tokenizer, preprocess, scale)
