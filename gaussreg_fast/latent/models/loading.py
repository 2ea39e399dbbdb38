"""Load a model from a hub id or a folder, or say in one line what is missing."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import re
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from gaussreg_fast._files import user_path
from gaussreg_fast.errors import InputError, first_line, of_machine
from gaussreg_fast.latent import hub
from gaussreg_fast.latent.models import contents
from gaussreg_fast.latent.models.base import PipelineModel
from gaussreg_fast.latent.models.contents import INDEX
from gaussreg_fast.latent.models.flux import Flux
from gaussreg_fast.latent.models.generic import Generic
from gaussreg_fast.latent.models.options import Options, check_option
from gaussreg_fast.latent.models.precision import resolve_device, resolve_dtype
from gaussreg_fast.latent.models.replay import replaying
from gaussreg_fast.latent.models.sana import Sana, SanaSprint
from gaussreg_fast.latent.models.stable_diffusion import StableDiffusion

ADAPTERS: dict[str, type[PipelineModel]] = {
    "StableDiffusionPipeline": StableDiffusion,
    "StableDiffusionXLPipeline": StableDiffusion,
    "FluxPipeline": Flux,
    "SanaSprintPipeline": SanaSprint,
    "SanaPipeline": Sana,
}
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_INSTEAD = "a local folder may be given instead: model: /path/to/folder"


def load(
    source: str,
    *,
    device: str | torch.device,
    dtype: str | torch.dtype,
    revision: str | None,
    variant: str | None,
    **options: Any,
) -> PipelineModel:
    """Load a model; see `load_model`."""
    for name, value in options.items():
        check_option(name, value)
    where = resolve_device(device)
    resolved = Options(device=where, dtype=resolve_dtype(dtype, where), **options)
    place = _locate(source)
    try:
        index = _read_index(place, revision)
        pipe, variant = _load_pipeline(place, index, resolved.dtype, revision, variant)
    except ImportError as error:
        raise InputError(
            f"model {source!r} needs a package that cannot be imported ({first_line(error)})"
            f"{_installing()}"
        ) from error
    # A link counts by its own name and by its target's.
    own = (os.path.abspath(place), place.resolve()) if isinstance(place, Path) else (place,)
    names = tuple(str(name) for name in (*own, index.get("_name_or_path")) if name)
    adapter = ADAPTERS.get(type(pipe).__name__, Generic)
    model = adapter(pipe, str(source), replace(resolved, names=names))
    model.settings |= {"revision": revision, "variant": variant}
    return model


def _installing() -> str:
    """Return how to install the packages that all models need, if one is missing; else ""."""
    try:
        import accelerate  # noqa: F401
        import diffusers  # noqa: F401
        import sentencepiece  # noqa: F401
        import transformers  # noqa: F401
    except ImportError:
        return ": pip install 'gaussreg_fast[latent]'"
    return ""


def _locate(source: Any) -> str | Path:
    """Return an existing folder, or the id of a hub's repository."""
    source = os.fspath(source) if isinstance(source, os.PathLike) else source
    contents.refuse_object(source)
    if not isinstance(source, str):
        raise InputError(f"model must be a string, got {type(source).__name__}")
    if source == "digits":
        return Path(importlib.import_module("gaussreg_fast.digits").PIPELINE)
    folder = user_path(source)
    if folder.is_dir():
        if not (folder / INDEX).is_file():
            names = contents.file_names(folder)
            raise InputError(
                f"model {source!r} is no pipeline folder: it has no {INDEX}{contents.advice(names)}"
            )
        return folder
    if folder.exists():
        advice = contents.advice_for_file(folder)
        raise InputError(f"model {source!r} is a file; a pipeline is a folder with {INDEX}{advice}")
    if not _HUB_ID.fullmatch(str(source)) or str(source).startswith((".", "/", "~")):
        raise InputError(f"model {source!r} is neither a folder nor a hub id (owner/name)")
    return str(source)


def _read_index(place: str | Path, revision: str | None) -> dict[str, Any]:
    path = place / INDEX if isinstance(place, Path) else _fetch_index(place, revision)
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"model {str(place)!r}: {INDEX} is unreadable ({error})") from error
    if not isinstance(index, dict) or not isinstance(index.get("_class_name"), str):
        raise InputError(f"model {str(place)!r}: {INDEX} names no pipeline class of diffusers")
    return index


def _fetch_index(repository: str, revision: str | None) -> Path:
    try:
        path = hub.download(repository, INDEX, revision)
    except hub.HubError as error:
        raise InputError(f"model {repository!r}: {INDEX}: {error}; {_INSTEAD}") from error
    if path is None:
        advice = contents.advice(_hub_names(repository, revision))
        raise InputError(f"model {repository!r} is no pipeline: it has no {INDEX}{advice}")
    return path


def _hub_names(repository: str, revision: str | None) -> list[str]:
    """Return the names of a repository's files; none if the hub cannot be asked now."""
    try:
        return hub.file_names(repository, revision)
    except hub.HubError:
        return []


@contextmanager
def without_bars() -> Iterator[None]:
    """Silence the progress bars of loading from disk; the hub's bars of downloads stay."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    loggers: tuple[Any, ...] = (diffusers_logging, transformers_logging)
    shown = [logger for logger in loggers if logger.is_progress_bar_enabled()]
    for logger in shown:
        logger.disable_progress_bar()
    try:
        yield
    finally:
        for logger in shown:
            logger.enable_progress_bar()


def _pipeline_class(place: str | Path, kind: str) -> Any:
    """Return the class of diffusers that a model's index names."""
    import diffusers

    try:
        pipeline_class: Any = getattr(diffusers, kind, None)
    except RuntimeError as error:  # diffusers' wrapping of an import that failed
        raise ImportError(str(error.__cause__ or error)) from error
    if not isinstance(pipeline_class, type):
        raise InputError(
            f"model {str(place)!r} is a {kind}, which diffusers {diffusers.__version__} does not "
            "have"
        )
    return pipeline_class


def _load_pipeline(
    place: str | Path,
    index: dict[str, Any],
    dtype: torch.dtype,
    revision: str | None,
    variant: str | None,
) -> tuple[Any, str | None]:
    """Return the pipeline and the variant of its weights."""
    # Imported first, because diffusers answers their absence with warnings and missing components.
    importlib.import_module("accelerate")
    importlib.import_module("transformers")
    pipeline_class = _pipeline_class(place, index["_class_name"])
    replayed = replaying(pipeline_class)
    # No safety checker: it blackens images, passes no gradient, and warns when it is left out.
    unwanted = {"safety_checker": None, "requires_safety_checker": False}
    known = inspect.signature(pipeline_class).parameters
    kwargs: dict[str, Any] = {name: value for name, value in unwanted.items() if name in known}
    kwargs |= {"torch_dtype": dtype, "revision": revision}
    if isinstance(place, Path):
        names = contents.file_names(place)
        contents.check_parts(place, index, names, _required_parts(pipeline_class, kwargs))
        variant = contents.variant(str(place), names, variant)
        kwargs |= {"variant": variant, **_text_encoders(place, index, names, variant, dtype)}
        pipe = _from_pretrained(replayed, place, kwargs)
    else:
        pipe, variant = _from_hub(replayed, place, kwargs, variant)
    contents.check_loaded(str(place), pipe.components)
    pipe.set_progress_bar_config(disable=True)
    if getattr(pipe, "watermark", None) is not None:  # it is NumPy code, which passes no gradient
        pipe.watermark = None
    return pipe, variant


def _required_parts(pipeline_class: Any, given: Collection[str]) -> list[str]:
    """Return the parts without which a pipeline cannot be made, except those that are given."""
    parameters = inspect.signature(pipeline_class).parameters.values()
    optional = {*getattr(pipeline_class, "_optional_components", ()), *given}
    return [p.name for p in parameters if p.default is p.empty and p.name not in optional]


def _from_hub(
    pipeline_class: type, repository: str, kwargs: dict[str, Any], variant: str | None
) -> tuple[Any, str | None]:
    """Load from the hub. A repository whose weights all have a variant is loaded in that one."""
    try:
        pipe = _from_pretrained(pipeline_class, repository, {**kwargs, "variant": variant})
        return pipe, variant
    except InputError:
        if variant is not None:
            raise
        names = _hub_names(repository, kwargs["revision"])
        found = contents.variant(repository, names)
        if found is None:
            raise
        pipe = _from_pretrained(pipeline_class, repository, {**kwargs, "variant": found})
        return pipe, found


def _text_encoders(
    folder: Path,
    index: dict[str, Any],
    names: list[str],
    variant: str | None,
    dtype: torch.dtype,
) -> dict[str, Any]:
    """Load a folder's text encoders, and check that their checkpoints are complete.

    diffusers would load them, too, but weights that are missing would be random ones, silently.
    """
    import transformers

    found = {}
    variants = contents.variants(names)
    for part, value in index.items():
        library, kind = value if isinstance(value, list) and len(value) == 2 else (None, None)
        cls = getattr(transformers, str(kind), None) if library == "transformers" else None
        if not (isinstance(cls, type) and issubclass(cls, transformers.PreTrainedModel)):
            continue
        own = variant if variant in variants.get(part, ()) else None
        kwargs = {"torch_dtype": dtype, "variant": own, "output_loading_info": True}
        found[part], info = _from_pretrained(cls, folder / part, kwargs)
        contents.refuse_missing(str(folder), part, info["missing_keys"])
    return found


def _from_pretrained(cls: Any, place: str | Path, kwargs: dict[str, Any]) -> Any:
    """Load a pipeline or a part of one; an error becomes one line."""
    from safetensors import SafetensorError

    try:
        with warnings.catch_warnings(), without_bars(), hub.quiet(bars=True):
            # torch_dtype is deprecated, but the only name that all supported versions know.
            warnings.filterwarnings("ignore", message=".*torch_dtype. is deprecated")
            return cls.from_pretrained(str(place), **kwargs)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        if of_machine(error):
            raise
        hint = "" if isinstance(place, Path) else f"; {_INSTEAD}"
        raise InputError(
            f"model {str(place)!r} could not be loaded ({first_line(error)}){hint}"
        ) from error
