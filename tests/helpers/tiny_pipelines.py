"""Tiny, randomly initialised pipelines in the shape of the published ones, built without a hub.

`build(family, folder)` saves one in diffusers' format; `gaussreg_fast.latent.models.load_model`
loads it like any other folder. FLUX has no size of its own in its configuration (its pipeline
takes 1024 x 1024): pass `height` and `width`, which `SIZES` holds for every family.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

WORDS = [
    "a",
    "photo",
    "of",
    "the",
    "cat",
    "dog",
    "handwritten",
    "zero",
    "one",
    "red",
    "house",
    "hill",
]
# Height and width of each family's images, in pixels.
SIZES = {"sd": 32, "sdxl": 32, "flux": 32, "sana-sprint": 32, "sana": 32, "lcm": 32, "pixart": 32}
FAMILIES = tuple(SIZES)
# Names of the published models, which save_pretrained keeps in the index of a copy.
ORIGINS = {
    "sd": "stabilityai/sd-turbo",
    "sdxl": "stabilityai/sdxl-turbo",
    "flux": "black-forest-labs/FLUX.1-schnell",
}


def build(family: str, folder: str | Path, *, seed: int = 0, scheduler: Any = None) -> Path:
    """Saves the pipeline under `folder/family`. `scheduler`: another than the family's own."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipe = _BUILDERS[family]()
    if scheduler is not None:
        pipe.register_modules(scheduler=scheduler)
    for component in pipe.components.values():
        if isinstance(component, torch.nn.Module):
            _enliven(component, seed)
    target = Path(folder) / family
    pipe.save_pretrained(target)
    if family in ORIGINS:
        index = json.loads((target / "model_index.json").read_text())
        index["_name_or_path"] = ORIGINS[family]
        (target / "model_index.json").write_text(json.dumps(index))
    return target


def _enliven(module: torch.nn.Module, seed: int) -> None:
    """Biases and norms off their trivial starting values, so that a mistake in them shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.dim() < 2:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)


def _words() -> list[str]:
    return sorted({*WORDS, *"abcdefghijklmnopqrstuvwxyz0123456789.,-:"})


def _clip_tokenizer() -> Any:
    from transformers import CLIPTokenizer

    letters = sorted({letter for word in _words() for letter in word})
    vocabulary = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{x}</w>" for x in letters)]
    return CLIPTokenizer(
        vocab={token: i for i, token in enumerate(vocabulary)}, merges=[], model_max_length=24
    )


def _clip_encoder(cls: str = "CLIPTextModel", width: int = 16) -> Any:
    import transformers

    config = transformers.CLIPTextConfig(
        vocab_size=128,
        hidden_size=width,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=24,
        projection_dim=width,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
        hidden_act="gelu",
    )
    return getattr(transformers, cls)(config).eval()


def _vae(channels: int, **options: Any) -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=[8, 16],
        latent_channels=channels,
        norm_num_groups=4,
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        layers_per_block=1,
        **options,
    )


def _unet(cross: int, **options: Any) -> Any:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=(16, 32),
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 4),
        cross_attention_dim=cross,
        **options,
    )


def _euler_ancestral() -> Any:
    from diffusers import EulerAncestralDiscreteScheduler

    # The configuration of SD-Turbo and SDXL-Turbo.
    return EulerAncestralDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        steps_offset=1,
        timestep_spacing="trailing",
    )


def _sd() -> Any:
    from diffusers import StableDiffusionPipeline

    return StableDiffusionPipeline(
        vae=_vae(4),
        text_encoder=_clip_encoder(),
        tokenizer=_clip_tokenizer(),
        unet=_unet(16),
        scheduler=_euler_ancestral(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _sdxl() -> Any:
    from diffusers import StableDiffusionXLPipeline

    unet = _unet(
        32,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 16,
        transformer_layers_per_block=(1, 2),
        use_linear_projection=True,
    )
    return StableDiffusionXLPipeline(
        vae=_vae(4, scaling_factor=0.13025, force_upcast=True),
        text_encoder=_clip_encoder(),
        text_encoder_2=_clip_encoder("CLIPTextModelWithProjection"),
        tokenizer=_clip_tokenizer(),
        tokenizer_2=_clip_tokenizer(),
        unet=unet,
        scheduler=_euler_ancestral(),
        add_watermarker=False,
    )


def _lcm() -> Any:
    from diffusers import LatentConsistencyModelPipeline, LCMScheduler

    return LatentConsistencyModelPipeline(
        vae=_vae(4),
        text_encoder=_clip_encoder(),
        tokenizer=_clip_tokenizer(),
        unet=_unet(16, time_cond_proj_dim=8),
        scheduler=LCMScheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _t5() -> tuple[Any, Any]:
    from transformers import T5Config, T5EncoderModel, T5Tokenizer

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -9.0), ("▁", -2.0)]
    pieces += [(f"▁{word}", -3.0) for word in WORDS] + [(x, -6.0) for x in _words() if len(x) == 1]
    config = T5Config(
        vocab_size=192, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, is_gated_act=True
    )
    return T5Tokenizer(vocab=pieces, extra_ids=4), T5EncoderModel(config).eval()


def _pixart() -> Any:
    from diffusers import DDPMScheduler, PixArtAlphaPipeline, PixArtTransformer2DModel

    tokenizer, encoder = _t5()
    transformer = PixArtTransformer2DModel(
        sample_size=16,
        num_layers=1,
        patch_size=2,
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        cross_attention_dim=16,
        caption_channels=16,
        use_additional_conditions=False,
        norm_type="ada_norm_single",
    )
    return PixArtAlphaPipeline(
        tokenizer=tokenizer,
        text_encoder=encoder,
        vae=_vae(4),
        transformer=transformer,
        scheduler=DDPMScheduler(),
    )


def _flux() -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    tokenizer, encoder = _t5()
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        pooled_projection_dim=16,
        axes_dims_rope=[4, 4, 8],
    )
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=_vae(4, use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.1159),
        text_encoder=_clip_encoder(),
        tokenizer=_clip_tokenizer(),
        text_encoder_2=encoder,
        tokenizer_2=tokenizer,
        transformer=transformer,
    )


def _gemma_tokenizer() -> Any:
    """Trained on the instruction put before every prompt, which is long letter by letter."""
    from diffusers import SanaSprintPipeline
    from transformers import GemmaTokenizer

    call = inspect.signature(SanaSprintPipeline.__call__)
    texts = [*call.parameters["complex_human_instruction"].default, *_words()]
    return GemmaTokenizer().train_new_from_iterator(texts, vocab_size=320, show_progress=False)


def _sana_parts(**options: Any) -> dict[str, Any]:
    from diffusers import AutoencoderDC, SanaTransformer2DModel
    from transformers import Gemma2Config, Gemma2Model

    gemma = Gemma2Config(
        vocab_size=320,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=8192,
    )
    return {
        "tokenizer": _gemma_tokenizer(),
        "text_encoder": Gemma2Model(gemma).eval(),
        "vae": AutoencoderDC(
            latent_channels=4,
            attention_head_dim=4,
            encoder_block_types=("ResBlock", "EfficientViTBlock"),
            decoder_block_types=("ResBlock", "EfficientViTBlock"),
            encoder_block_out_channels=(8, 8),
            decoder_block_out_channels=(8, 8),
            encoder_layers_per_block=(1, 1),
            decoder_layers_per_block=(1, 1),
            encoder_qkv_multiscales=((), (5,)),
            decoder_qkv_multiscales=((), (5,)),
            upsample_block_type="interpolate",
            downsample_block_type="conv",
            decoder_act_fns="silu",
            scaling_factor=0.41407,
        ),
        "transformer": SanaTransformer2DModel(
            in_channels=4,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=8,
            num_layers=2,
            num_cross_attention_heads=2,
            cross_attention_head_dim=8,
            cross_attention_dim=16,
            caption_channels=16,
            sample_size=16,
            patch_size=1,
            **options,
        ),
    }


def _sana_sprint() -> Any:
    from diffusers import SanaSprintPipeline, SCMScheduler

    parts = _sana_parts(guidance_embeds=True, qk_norm="rms_norm_across_heads")
    return SanaSprintPipeline(scheduler=SCMScheduler(), **parts)


def _sana() -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, SanaPipeline

    return SanaPipeline(scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0), **_sana_parts())


_BUILDERS: dict[str, Callable[[], Any]] = {
    "sd": _sd,
    "sdxl": _sdxl,
    "flux": _flux,
    "sana-sprint": _sana_sprint,
    "sana": _sana,
    "lcm": _lcm,
    "pixart": _pixart,
}
