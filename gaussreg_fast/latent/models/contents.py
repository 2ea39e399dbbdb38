"""What a model's folder or repository holds, from its file names, and what to do about a gap."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from gaussreg_fast.errors import InputError

INDEX = "model_index.json"
# A component's weights, whole or in shards, as diffusers and transformers name them: the variant
# comes before or after the number of the shard.
_WEIGHTS = re.compile(
    r"(?:diffusion_pytorch_model|pytorch_model|model)"
    r"(?:\.(?P<before>[\w-]+?))?(?:-\d{5}-of-\d{5})?(?:\.(?P<after>[\w-]+))?\.(?:safetensors|bin)"
)
_SINGLE_FILES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".gguf")
TOKENIZER = "tokenizer_config.json"
_LEFT_OUT = "safety_checker/"  # never loaded, see `loading`
_POINTER = b"version https://git-lfs"
_FULL = "save the whole pipeline with diffusers' save_pretrained(FOLDER), and give that folder"


def file_names(folder: Path) -> list[str]:
    """Return the names of a folder's files and of those one level below, with "/"."""
    found = [*folder.glob("*"), *folder.glob("*/*")]
    return sorted(path.relative_to(folder).as_posix() for path in found if path.is_file())


def refuse_object(source: Any) -> None:
    """Refuse a pipeline or model that is given itself in place of its folder.

    Raises:
        InputError: the source is such an object.
    """
    if hasattr(source, "save_pretrained"):
        raise InputError(
            f"model must be the name of a folder or of a repository on the hub, got a "
            f"{type(source).__name__} object; {_FULL}"
        )


def check_parts(
    folder: Path, index: Mapping[str, Any], names: Collection[str], required: Iterable[str]
) -> None:
    """Check that a folder has the parts of its pipeline, as far as file names show it.

    A part without a folder, or a tokenizer without a configuration, would be replaced by an empty
    one silently.

    Args:
        folder: the pipeline's folder.
        index: content of its `INDEX`.
        names: its `file_names`.
        required: names of the parts without which its pipeline cannot be made.

    Raises:
        InputError: a part is missing, or its weights were not downloaded.
    """
    classes = {name: value[1] for name, value in index.items() if isinstance(value, list)}
    where = f"model {str(folder)!r} is incomplete: {INDEX} names"
    if absent := sorted(name for name in required if not classes.get(name)):
        raise InputError(f"{where} no {', '.join(absent)}; {_FULL}")
    folders = {name.partition("/")[0] for name in names if "/" in name}
    missing = {f"{part}/" for part, kind in classes.items() if kind and part not in folders}
    missing |= {
        f"{part}/{TOKENIZER}"
        for part, kind in classes.items()
        if part in folders and "Tokenizer" in str(kind) and f"{part}/{TOKENIZER}" not in names
    }
    missing.discard(_LEFT_OUT)
    if missing:
        files = ", ".join(sorted(missing))
        raise InputError(f"{where} parts that have no {files}; copy or download the whole folder")
    for name in names:
        if _WEIGHTS.fullmatch(name.rpartition("/")[2]) and _is_pointer(folder / name):
            raise InputError(
                f"model {str(folder)!r} is incomplete: {name} is a pointer of Git LFS in place of "
                "the weights; run `git lfs pull` there"
            )


def _is_pointer(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_POINTER)) == _POINTER


def check_loaded(place: str, parts: Mapping[str, Any]) -> None:
    """Check that loaded parts have weights and words.

    Raises:
        InputError: a checkpoint lacks weights, or a tokenizer has no vocabulary.
    """
    for name, part in parts.items():
        if isinstance(part, torch.nn.Module):
            refuse_missing(place, name, [n for n, p in part.named_parameters() if p.is_meta])
        elif not has_words(part):
            raise InputError(
                f"model {place!r} is incomplete: {name}/ has no vocabulary; copy or download all "
                "of its files"
            )


def refuse_missing(place: str, part: str, missing: Collection[str]) -> None:
    """Raise an InputError if a part's checkpoint lacks weights."""
    if missing:
        first, more = min(missing), len(missing) - 1
        raise InputError(
            f"model {place!r} is incomplete: the checkpoint of {part} lacks {first}"
            f"{f' and {more} more weights' if more else ''}"
        )


def has_words(tokenizer: Any) -> bool:
    """Return whether a tokenizer knows more than special tokens; True for other objects.

    transformers makes an empty tokenizer if the files of its vocabulary are missing.
    """
    if not hasattr(tokenizer, "get_vocab"):
        return True
    return len(set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens)) > 0


def variant(place: str, names: Iterable[str], given: str | None = None) -> str | None:
    """Return the variant of the weights to load; None for the weights without a variant.

    A part that has no weights of the variant gives those without one, as in diffusers.

    Raises:
        InputError: no weights have the variant `given`, or none is given and it is not clear.
    """
    parts = variants(names)
    every = {each for own in parts.values() for each in own if each is not None}
    if given is not None:
        if given not in every:
            found = ", ".join(sorted(every)) or "none"
            raise InputError(f"variant must be one that {place!r} has ({found}), got {given!r}")
        return given
    lacking = [part for part, own in parts.items() if None not in own]
    if not lacking:
        return None
    able = sorted(v for v in every if all(v in parts[part] for part in lacking))
    if len(able) != 1:
        choice = "give one as `variant`, or keep its files alone" if able else "none is complete"
        raise InputError(
            f"{place!r} has weights in variants alone ({', '.join(sorted(every))}): {choice}"
        )
    return able[0]


def variants(names: Iterable[str]) -> dict[str, set[str | None]]:
    """Return the variants of every part's weights; None stands for those without a variant."""
    found: dict[str, set[str | None]] = {}
    for name in names:
        part, _, file = name.rpartition("/")
        if match := _WEIGHTS.fullmatch(file):
            found.setdefault(part, set()).add(match["before"] or match["after"])
    return found


def advice(names: Collection[str]) -> str:
    """Return what to do with a folder or repository without an index, as a clause; "" if unclear.

    Args:
        names: its file names, at least those at its top.
    """
    nested = sorted(name for name in names if name.endswith(f"/{INDEX}"))
    top = [name for name in names if "/" not in name]
    if nested:
        return f"; there is one in {nested[0].rpartition('/')[0]}: give that folder"
    if "adapter_config.json" in top or any("lora" in name.lower() for name in top):
        return f"; {_LORA}"
    if "config.json" in top:
        return (
            "; it looks like one part of a pipeline: load its pipeline with it, as in "
            f"DiffusionPipeline.from_pretrained(BASE, unet=PART), then {_FULL}"
        )
    if files := [name for name in top if name.endswith(_SINGLE_FILES)]:
        return f"; {_single_file(files[0])}"
    return ""


_LORA = (
    "it looks like a LoRA: load its base pipeline with diffusers, call load_lora_weights, "
    f"fuse_lora and unload_lora_weights, then {_FULL}"
)


def _single_file(name: str) -> str:
    return (
        f"load {name} with the method from_single_file of its pipeline's class in diffusers, then "
        f"{_FULL}"
    )


def advice_for_file(path: Path) -> str:
    """Return what to do with a file that is given as a model, as a clause."""
    if path.name == INDEX:
        return f"; give its folder, {str(path.parent)!r}"
    if "lora" in path.name.lower() or any("lora" in key.lower() for key in _tensor_names(path)):
        return f"; {_LORA}"
    return f"; {_single_file(path.name)}" if path.name.endswith(_SINGLE_FILES) else ""


def _tensor_names(path: Path) -> list[str]:
    """Return the names of a safetensors file's tensors; none if it is no such file."""
    from safetensors import SafetensorError, safe_open

    if path.suffix != ".safetensors":
        return []
    try:
        with safe_open(path, "pt") as file:
            return list(file.keys())
    except (OSError, SafetensorError):
        return []
