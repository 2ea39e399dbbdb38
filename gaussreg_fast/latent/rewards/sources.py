"""Find and read a reward's files, in local folders or on the Hugging Face hub."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gaussreg_fast._files import user_path
from gaussreg_fast._wrappers import unwrapped
from gaussreg_fast.errors import InputError, first_line, of_machine
from gaussreg_fast.latent import hub
from gaussreg_fast.latent.models import contents

_REPOSITORY = re.compile(r"[\w.-]*\w/[\w.-]+")
_CHECKPOINTS = (".pt", ".pth", ".bin", ".safetensors")


@dataclass(frozen=True)
class Folder:
    """A local folder, or a repository of the hub, with the files of one reward.

    Attributes:
        reward: the reward's name, for messages.
        where: path or repository.
        local: whether `where` is a path.
        place: a local folder that would have been taken instead, for messages.
    """

    reward: str
    where: str
    local: bool
    place: str = ""

    @property
    def path(self) -> Path:
        """The local folder."""
        return Path(self.where)

    @property
    def variant(self) -> str | None:
        """The variant in which a local folder has its weights; None without one."""
        return contents.variant(self.where, contents.file_names(self.path)) if self.local else None

    @property
    def hint(self) -> str:
        """Advice on using local files instead of the hub, for errors."""
        if self.place:
            return f"the folder {self.place} is taken instead if it exists"
        return f"a local path can be given instead: {self.reward}@/path/to/folder"

    def fetch(self, filename: str) -> Path:
        """Return the path of a file on the local disk, downloaded if needed.

        Raises:
            InputError: there is no such file, or the hub cannot be reached. The message names the
                file and says how to pass a local path.
        """
        path = self.find(filename)
        if path is None:
            hint = "" if self.local else f"; {self.hint}"
            raise InputError(f"reward {self.reward!r}: {self.where} has no {filename}{hint}")
        return path

    def find(self, filename: str) -> Path | None:
        """Do the same as `fetch`, but return None if there is no such file."""
        if self.local:
            path = Path(self.where, filename)
            return path if path.is_file() else None
        try:
            return hub.download(self.where, filename)
        except hub.HubError as error:
            raise InputError(
                f"reward {self.reward!r}: {filename} of {self.where}: {error}; {self.hint}"
            ) from error

    def json(self, filename: str) -> dict[str, Any]:
        """Read a JSON file; raise InputError if there is none."""
        return read_json(self.reward, self.fetch(filename))


def folder(reward: str, source: str) -> Folder:
    """Return a local folder, or a repository of the hub by its id.

    Raises:
        InputError: the source is neither a folder nor of the form owner/name.
    """
    path = user_path(source)
    if path.is_dir():
        return Folder(reward, str(path), local=True)
    if path.exists() or not _REPOSITORY.fullmatch(source):
        got = "a file" if path.exists() else "a path that does not exist"
        raise InputError(
            f"reward {reward!r}: the source must be a folder with a model in transformers' format "
            f"or a hub id (owner/name), got {source}, {got}"
        )
    return Folder(reward, source, local=False)


def checkpoint(reward: str, source: str, filename: str) -> Path:
    """Return the path of a reward's one file of weights, downloaded if needed.

    Args:
        reward: the reward's name, for errors.
        source: the file; a folder or hub id that holds `filename`; a folder with one
            .pt, .pth, .bin or .safetensors file; or owner/name/file on the hub.
        filename: the published file's name.

    Raises:
        InputError: there is no such file or several, or the hub cannot be reached.
    """
    path = user_path(source)
    if path.is_file():
        return path
    if path.is_dir():
        if (path / filename).is_file():
            return path / filename
        found = sorted(p.name for p in path.iterdir() if p.suffix in _CHECKPOINTS)
        if len(found) == 1:
            return path / found[0]
        several = f"several checkpoints ({', '.join(found)})" if found else "no checkpoint"
        raise InputError(f"reward {reward!r}: {path} must hold {filename}, got {several}")
    if not _REPOSITORY.match(source):
        raise InputError(f"reward {reward!r}: {source} does not exist and is no hub id")
    owner, name, *rest = source.split("/", 2)
    return Folder(reward, f"{owner}/{name}", local=False).fetch(rest[0] if rest else filename)


def companion(reward: str, beside: Path, name: str, repository: str) -> Folder:
    """Return the folder `name` beside a checkpoint if it exists, else the hub's repository."""
    if (beside / name).is_dir():
        return Folder(reward, str(beside / name), local=True)
    return Folder(reward, repository, local=False, place=str(beside / name))


def read_json(reward: str, path: Path) -> dict[str, Any]:
    """Read a JSON object; raise InputError for anything else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"reward {reward!r}: {path}: {first_line(error)}") from error
    if not isinstance(content, dict):
        raise InputError(
            f"reward {reward!r}: {path} must hold a JSON object, got {type(content).__name__}"
        )
    return content


def read_state(reward: str, path: Path) -> dict[str, Tensor]:
    """Read a state dict from a .safetensors or torch.save file, onto the CPU.

    No code in the file is run. The "state_dict" of a training checkpoint is unwrapped, and what
    wrappers such as DataParallel and torch.compile add to names is removed.

    Raises:
        InputError: the file is unreadable, truncated, or holds no state dict.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            content: Any = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except ImportError:
        raise
    except Exception as error:  # each format's reader raises its own types
        if of_machine(error):
            raise
        why = first_line(error)
        raise InputError(f"reward {reward!r}: {path}: unreadable or truncated ({why})") from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not all(isinstance(k, str) for k in content):
        raise InputError(f"reward {reward!r}: {path}: holds no state dict")
    state = {k: v for k, v in content.items() if isinstance(v, Tensor)}
    return dict(zip(unwrapped(list(state)), state.values(), strict=True))


def check_keys(
    reward: str,
    where: object,
    missing: list[str],
    unexpected: list[str],
    misshapen: list[str] | None = None,
) -> None:
    """Raise an InputError that names the first key of each kind, if there is any."""
    kinds = {"missing": missing, "unexpected": unexpected, "of the wrong shape": misshapen or []}
    parts = [
        f"{kind} {min(keys)}" + (f" and {len(keys) - 1} more" if len(keys) > 1 else "")
        for kind, keys in kinds.items()
        if keys
    ]
    if parts:
        raise InputError(f"reward {reward!r}: {where}: wrong checkpoint: {'; '.join(parts)}")


def load_model(
    cls: Any,
    source: Folder,
    *,
    config: Any = None,
    state: Mapping[str, Tensor] | None = None,
    where: object = None,
    unused: tuple[str, ...] = (),
    **arguments: Any,
) -> Any:
    """Load a transformers model; every weight must come from the checkpoint.

    Args:
        cls: the model's class.
        source: the folder of its files.
        config: the model's configuration, if its weights come from `state`.
        state: weights under transformers' names, instead of the source's.
        where: the checkpoint's name in errors; the source by default.
        unused: prefixes of names that the checkpoint may have beyond the model's.
        **arguments: further arguments of `from_pretrained`.

    Raises:
        InputError: the checkpoint is unreadable, or weights are missing, unexpected or of the
            wrong shape.
    """
    arguments |= {"output_loading_info": True, "ignore_mismatched_sizes": True}
    arguments["variant"] = source.variant
    where = source.where if where is None else where
    path: str | None = source.where
    if state is not None:
        path = None
        arguments |= {"config": config, "state_dict": dict(state)}
    try:
        with hub.quiet(bars=path is not None and not source.local):
            model, info = cls.from_pretrained(path, **arguments)
    except ImportError:
        raise
    except Exception as error:  # OSError, ValueError or SafetensorError, by the file's format
        if of_machine(error):
            raise
        hint = "" if source.local else f"; {source.hint}"
        raise InputError(
            f"reward {source.reward!r}: {where}: no {cls.__name__} could be loaded "
            f"({first_line(error)}){hint}"
        ) from error
    _check_info(source.reward, where, info, unused)
    return model


def _check_info(
    reward: str, where: object, info: Mapping[str, Any], unused: tuple[str, ...]
) -> None:
    """Check what transformers tells of the weights that it has loaded."""
    # position_ids is a buffer that old versions of transformers saved.
    unexpected = [
        k
        for k in info["unexpected_keys"]
        if not k.startswith(unused) and not k.endswith("position_ids")
    ]
    misshapen = [k if isinstance(k, str) else k[0] for k in info["mismatched_keys"]]
    missing = [k for k in info["missing_keys"] if k not in misshapen]
    check_keys(reward, where, missing, unexpected, misshapen)


def load_tokenizer(source: Folder) -> Any:
    """Load the tokenizer of a folder or repository; raise InputError if there is none."""
    from transformers import AutoTokenizer

    source.find("tokenizer_config.json")  # an unreachable hub fails here, once
    try:
        with hub.quiet():
            tokenizer = AutoTokenizer.from_pretrained(source.where)
    except ImportError:
        raise
    except Exception as error:  # OSError, ValueError or KeyError, by the file's format
        raise InputError(
            f"reward {source.reward!r}: {source.where}: no tokenizer could be loaded "
            f"({first_line(error)})"
        ) from error
    if not contents.has_words(tokenizer):
        raise InputError(
            f"reward {source.reward!r}: {source.where}: the tokenizer has no vocabulary; copy or "
            "download all of its files"
        )
    return tokenizer
