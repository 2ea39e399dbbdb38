"""Build the untrained parts of the tiny Stable Diffusion pipeline; nothing is downloaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from gaussreg_fast.digits.words import TEMPLATES, WORDS

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

LATENT_CHANNELS = 16
LATENT_SIZE = 8
_START, _END = "<|startoftext|>", "<|endoftext|>"
_LENGTH = 16  # tokens in a prompt
_WIDTH = 64  # size of a token's embedding


def build_tokenizer() -> CLIPTokenizer:
    """Build CLIP's byte-level BPE, with merges for the words of the training prompts alone.

    Any text can be tokenised: unknown words are split into letters.
    """
    from transformers import CLIPTokenizer

    vocabulary, merges = _byte_pairs()
    return CLIPTokenizer(vocabulary, merges, model_max_length=_LENGTH)


def save_tokenizer(tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Write a tokenizer, with the vocab.json and merges.txt that transformers 4 needs."""
    tokenizer.save_pretrained(folder)
    vocabulary, merges = _byte_pairs()
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), "utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", "utf-8")


def _byte_pairs() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Return vocabulary and merges: a word grows from its first letter, one letter at a time."""
    from tokenizers.pre_tokenizers import ByteLevel

    words = {word for template in TEMPLATES for word in template.replace("{}", "").split()}
    merges: dict[tuple[str, str], None] = {}  # ordered, without repetition
    for word in (*WORDS, *sorted(words)):
        letters = [*word[:-1], word[-1] + "</w>"]
        stem = letters[0]
        for letter in letters[1:]:
            merges[stem, letter] = None
            stem += letter
    alphabet = sorted(ByteLevel.alphabet())
    pieces = [*alphabet, *(letter + "</w>" for letter in alphabet), *map("".join, merges)]
    return {piece: i for i, piece in enumerate([*pieces, _START, _END])}, list(merges)


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Build a CLIP text encoder with two layers of width 64."""
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=_WIDTH,
        intermediate_size=2 * _WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=_LENGTH,
        projection_dim=_WIDTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


def build_unet() -> UNet2DConditionModel:
    """Build a UNet of two levels, 8 x 8 and 4 x 4; the lower level and the middle see the text."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=_WIDTH,
        attention_head_dim=4,
        norm_num_groups=8,
    )


def build_vae() -> AutoencoderKL:
    """Build an autoencoder from 16 x 16 pixels to 16 channels of 8 x 8.

    The scaling factor is 1, because training gives the latents unit variance.
    """
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(16, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=2 * LATENT_SIZE,
        mid_block_add_attention=False,
        scaling_factor=1.0,
    )


def build_scheduler() -> DDIMScheduler:
    """Build a scheduler that starts from pure noise, so that one step suffices.

    With a terminal signal-to-noise ratio of zero and trailing spacing (Lin et al., Common
    Diffusion Noise Schedules and Sample Steps are Flawed, 2024), a single step starts at the last
    timestep, where the v-prediction is minus the image's latent.
    """
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,  # no effect with trailing spacing, but the pipeline warns of other values
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        rescale_betas_zero_snr=True,
    )
