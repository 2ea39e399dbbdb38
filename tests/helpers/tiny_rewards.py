"""Tiny, randomly initialised reward checkpoints in the formats that the originals are published in.

`OpenClip` and `OriginalImageReward` are plain torch, with the originals' names, so that their
state dicts have the originals' keys and their forwards are references for the scores.
"""

import json
from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import nn

WORDS = ["a", "cat", "dog", "red", "car", "of", "photo"]
LETTERS = "abcdefghijklmnopqrstuvwxyz"
CLIP_VOCABULARY = [*LETTERS, *(f"{c}</w>" for c in LETTERS), "<|startoftext|>", "<|endoftext|>"]
BERT_VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
CONTEXT, SIZE, PATCH, EMBEDDING = 16, 32, 8, 24
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


# ---------------------------------------------------------------- tokenizers


def images(*shape, seed=0, dtype=torch.float64):
    """Returns images away from 0 and 1, so that nothing saturates on resizing."""
    generator = torch.Generator().manual_seed(seed)
    return 0.3 + 0.4 * torch.rand(*shape, generator=generator, dtype=dtype)


def normalised(x):
    """Returns images as the published preprocessors hand them to the models."""
    mean, std = (x.new_tensor(v)[:, None, None] for v in (MEAN, STD))
    return (x - mean) / std


def clip_ids(prompt):
    """Return the ids that CLIP's tokenizer gives lower-case words if it has no merges."""
    letters = [c + "</w>" * (i == len(w) - 1) for w in prompt.split() for i, c in enumerate(w)]
    ids = [CLIP_VOCABULARY.index(c) for c in letters][: CONTEXT - 2]
    return [len(CLIP_VOCABULARY) - 2, *ids, len(CLIP_VOCABULARY) - 1]


def bert_ids(prompt, length=35):
    """Return the ids that BERT's tokenizer gives words that it knows, and the mask."""
    words = [BERT_VOCABULARY.index(w) for w in prompt.split()][: length - 2]
    ids = [2, *words, 3]
    return ids + [0] * (length - len(ids)), [1] * len(ids) + [0] * (length - len(ids))


def save_clip_tokenizer(folder):
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {token: i for i, token in enumerate(CLIP_VOCABULARY)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>"}
    special |= {"unk_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": CONTEXT, **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def save_bert_tokenizer(folder):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(BERT_VOCABULARY) + "\n")
    config = {"tokenizer_class": "BertTokenizer", "do_lower_case": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def save_preprocessor(folder, **changes):
    config = {"size": SIZE, "crop_size": SIZE, "resample": 3, "do_center_crop": True}
    config |= {"do_normalize": True, "image_mean": MEAN, "image_std": STD, **changes}
    (folder / "preprocessor_config.json").write_text(json.dumps(config))


# ---------------------------------------------------------------- CLIP in transformers' format


def clip_config(activation="gelu"):
    from transformers import CLIPConfig

    shared = {"num_hidden_layers": 2, "projection_dim": EMBEDDING, "hidden_act": activation}
    ids = {"bos_token_id": len(CLIP_VOCABULARY) - 2, "eos_token_id": len(CLIP_VOCABULARY) - 1}
    text = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, **shared, **ids}
    text |= {"vocab_size": len(CLIP_VOCABULARY), "max_position_embeddings": CONTEXT}
    vision = {"hidden_size": 40, "intermediate_size": 56, "num_attention_heads": 2, **shared}
    vision |= {"image_size": SIZE, "patch_size": PATCH}
    return CLIPConfig(text_config=text, vision_config=vision, projection_dim=EMBEDDING)


def save_clip(folder, seed=0, activation="gelu"):
    """A whole CLIP folder: weights, configuration, tokenizer, preprocessor; the model."""
    from transformers import CLIPModel

    model = CLIPModel(clip_config(activation)).eval()
    randomise(model, seed)
    model.save_pretrained(folder)
    save_clip_tokenizer(folder)
    save_preprocessor(folder)
    return model


def randomise(module, seed):
    """Weights large enough for attention and activations to matter."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if name.endswith("logit_scale"):
                parameter.fill_(4.5)
            elif "norm" in name.lower() or ".ln_" in name or name.startswith("ln_"):
                parameter.copy_(float(name.endswith("weight")) + 0.2 * noise)
            else:
                parameter.copy_(0.15 * noise)


# ---------------------------------------------------------------- OpenCLIP


class OpenClipBlock(nn.Module):
    def __init__(self, width, hidden, heads, activation):
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        layers = [("c_fc", nn.Linear(width, hidden)), ("act", activation())]
        self.mlp = nn.Sequential(OrderedDict([*layers, ("c_proj", nn.Linear(hidden, width))]))

    def forward(self, x, mask=None):
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False, attn_mask=mask)[0]
        return x + self.mlp(self.ln_2(x))


class QuickGELU(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(1.702 * x)


class OpenClipTransformer(nn.Module):
    def __init__(self, *block):
        super().__init__()
        self.resblocks = nn.ModuleList(OpenClipBlock(*block) for _ in range(2))

    def forward(self, x, mask=None):
        for block in self.resblocks:
            x = block(x, mask)
        return x


class OpenClipVision(nn.Module):
    def __init__(self, activation):
        super().__init__()
        self.class_embedding = nn.Parameter(torch.empty(40))
        self.positional_embedding = nn.Parameter(torch.empty((SIZE // PATCH) ** 2 + 1, 40))
        self.proj = nn.Parameter(torch.empty(40, EMBEDDING))
        self.conv1 = nn.Conv2d(3, 40, PATCH, PATCH, bias=False)
        self.ln_pre, self.ln_post = nn.LayerNorm(40), nn.LayerNorm(40)
        self.transformer = OpenClipTransformer(40, 56, 2, activation)

    def forward(self, pixels):
        x = self.conv1(pixels).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], dim=1)
        x = self.transformer(self.ln_pre(x + self.positional_embedding))
        return self.ln_post(x[:, 0]) @ self.proj


class OpenClip(nn.Module):
    """OpenCLIP's CLIP with the shapes of `clip_config`."""

    def __init__(self, seed=0, activation=nn.GELU):
        super().__init__()
        self.visual = OpenClipVision(activation)
        self.transformer = OpenClipTransformer(32, 48, 4, activation)
        self.token_embedding = nn.Embedding(len(CLIP_VOCABULARY), 32)
        self.positional_embedding = nn.Parameter(torch.empty(CONTEXT, 32))
        self.ln_final = nn.LayerNorm(32)
        self.text_projection = nn.Parameter(torch.empty(32, EMBEDDING))
        self.logit_scale = nn.Parameter(torch.empty(()))
        randomise(self, seed)

    def encode_text(self, ids):
        mask = torch.full((CONTEXT, CONTEXT), -torch.inf, dtype=self.logit_scale.dtype).triu(1)
        x = self.transformer(self.token_embedding(ids) + self.positional_embedding, mask)
        return self.ln_final(x)[torch.arange(len(ids)), ids.argmax(-1)] @ self.text_projection

    def cosine(self, pixels, prompts):
        """Zero-padded prompts, pooled at the highest token number, as OpenCLIP does."""
        ids = torch.zeros(len(prompts), CONTEXT, dtype=torch.long)
        for row, prompt in zip(ids, prompts, strict=True):
            row[: len(clip_ids(prompt))] = torch.tensor(clip_ids(prompt))
        return F.cosine_similarity(self.visual(pixels), self.encode_text(ids))


# ---------------------------------------------------------------- linear head


class OriginalHead(nn.Module):
    def __init__(self, width, seed=0):
        super().__init__()
        linear, dropout = nn.Linear, nn.Dropout
        self.layers = nn.Sequential(
            *(linear(width, 20), dropout(0.2), linear(20, 12), dropout(0.2), linear(12, 8)),
            *(dropout(0.1), linear(8, 6), linear(6, 1)),
        )
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))

    def forward(self, x):
        return self.layers(x)[:, 0]


# ---------------------------------------------------------------- ImageReward


class BlipAttention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        b, n, width = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v)
        return self.proj(y.transpose(1, 2).reshape(b, n, width))


class BlipBlock(nn.Module):
    def __init__(self, width, hidden, heads):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn = BlipAttention(width, heads)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, hidden), "fc2": nn.Linear(hidden, width)})

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))


class BlipVision(nn.Module):
    def __init__(self, width=128):
        super().__init__()
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.pos_embed = nn.Parameter(torch.empty(1, (SIZE // PATCH) ** 2 + 1, width))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, PATCH, PATCH)})
        self.blocks = nn.ModuleList(BlipBlock(width, 96, width // 64) for _ in range(2))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, pixels):
        x = self.patch_embed["proj"](pixels).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class BertAttention(nn.Module):
    def __init__(self, width, source, heads):
        super().__init__()
        names = {"query": width, "key": source, "value": source}
        self.self = nn.ModuleDict({name: nn.Linear(w, width) for name, w in names.items()})
        norm = nn.LayerNorm(width, eps=1e-12)
        self.output = nn.ModuleDict({"dense": nn.Linear(width, width), "LayerNorm": norm})
        self.heads = heads

    def forward(self, x, source, mask=None):
        split = (len(x), -1, self.heads, x.shape[-1] // self.heads)
        inputs = {"query": x, "key": source, "value": source}
        q, k, v = (self.self[n](t).view(split).transpose(1, 2) for n, t in inputs.items())
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        y = self.output["dense"](y.transpose(1, 2).reshape(x.shape))
        return self.output["LayerNorm"](y + x)


class BertLayer(nn.Module):
    def __init__(self, width, source, heads, hidden):
        super().__init__()
        self.attention = BertAttention(width, width, heads)
        self.crossattention = BertAttention(width, source, heads)
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, hidden)})
        norm = nn.LayerNorm(width, eps=1e-12)
        self.output = nn.ModuleDict({"dense": nn.Linear(hidden, width), "LayerNorm": norm})

    def forward(self, x, mask, source):
        x = self.crossattention(self.attention(x, x, mask), source)
        y = self.output["dense"](F.gelu(self.intermediate["dense"](x)))
        return self.output["LayerNorm"](y + x)


class BertText(nn.Module):
    def __init__(self, width=48, source=128):
        super().__init__()
        self.embeddings = nn.Module()
        self.embeddings.register_buffer("position_ids", torch.arange(40)[None])
        self.embeddings.word_embeddings = nn.Embedding(len(BERT_VOCABULARY) + 2, width)
        self.embeddings.position_embeddings = nn.Embedding(40, width)
        self.embeddings.LayerNorm = nn.LayerNorm(width, eps=1e-12)
        self.encoder = nn.Module()
        self.encoder.layer = nn.ModuleList(BertLayer(width, source, 3, 64) for _ in range(2))

    def forward(self, ids, mask, source):
        e = self.embeddings
        x = e.word_embeddings(ids) + e.position_embeddings(e.position_ids[:, : ids.shape[1]])
        x = e.LayerNorm(x)
        for layer in self.encoder.layer:
            x = layer(x, mask[:, None, None].bool(), source)
        return x


MED_CONFIG = {
    "architectures": ["BertModel"],
    "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 48,
    "initializer_range": 0.02,
    "intermediate_size": 64,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 40,
    "model_type": "bert",
    "num_attention_heads": 3,
    "num_hidden_layers": 2,
    "pad_token_id": 0,
    "type_vocab_size": 2,
    "vocab_size": len(BERT_VOCABULARY) + 2,
    "encoder_width": 77,  # the original overrides it by the vision transformer's width
    "add_cross_attention": True,
}


class OriginalImageReward(nn.Module):
    def __init__(self, seed=0):
        super().__init__()
        self.blip = nn.Module()
        self.blip.visual_encoder = BlipVision()
        self.blip.text_encoder = BertText()
        self.blip.vision_proj, self.blip.text_proj = nn.Linear(128, 16), nn.Linear(48, 16)
        self.mlp = OriginalHead(48, seed)
        randomise(self.blip, seed)
        self.eval()

    def score(self, pixels, prompts):
        ids, mask = (torch.tensor(t) for t in zip(*map(bert_ids, prompts), strict=True))
        image = self.blip.visual_encoder(pixels)
        first = self.blip.text_encoder(ids, mask, image)[:, 0]
        return (self.mlp(first) - 0.16717362830052426) / 1.0333394966054072


def save_imagereward(folder, seed=0):
    """ImageReward.pt, med_config.json and the folder `bert`; the original."""
    model = OriginalImageReward(seed)
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), folder / "ImageReward.pt")
    (folder / "med_config.json").write_text(json.dumps(MED_CONFIG))
    save_bert_tokenizer(folder / "bert")
    return model


def save_hpsv2(folder, seed=0, activation="gelu"):
    """HPS_v2.1_compressed.pt and the folder `clip` without weights; the original."""
    model = OpenClip(seed, {"gelu": nn.GELU, "quick_gelu": QuickGELU}[activation]).eval()
    save_clip_tokenizer(folder / "clip")
    clip_config(activation).save_pretrained(folder / "clip")
    save_preprocessor(folder / "clip")
    torch.save({"state_dict": model.state_dict()}, folder / "HPS_v2.1_compressed.pt")
    return model


def save_aesthetic(folder, seed=0):
    """The head and the folder `clip`; both originals."""
    clip, head = save_clip(folder / "clip", seed), OriginalHead(EMBEDDING, seed).eval()
    torch.save(head.state_dict(), folder / "sac+logos+ava1-l14-linearMSE.pth")
    return clip, head


BUILDERS = {
    "clip": save_clip,
    "aesthetic": save_aesthetic,
    "pickscore": save_clip,
    "hpsv2": save_hpsv2,
    "imagereward": save_imagereward,
}


def build(name, folder):
    """A tiny checkpoint of the published reward `name` in the folder; the originals."""
    return BUILDERS[name](folder)
