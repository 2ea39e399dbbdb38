"""Derive the options of `optimize` from the settings of a run: names, types, help texts."""

from __future__ import annotations

import dataclasses
import inspect
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import typer
from pydantic import BaseModel
from pydantic_core import PydanticUndefined
from rich.markup import escape

from gaussreg_fast.latent.settings import RunConfig

# Settings without an option: the guard's seed would be mistaken for the noises', and a mapping does
# not fit into one word.
ONLY_IN_FILES = ("seed", "guard.options")
_HEADS = ("name", "source")  # set by the option of a group's own name: --guard is guard.name


@dataclass(frozen=True)
class Setting:
    """One setting of a run as an option.

    Attributes:
        path: the setting's name, after its group's name if it is in one.
        type: str, int, float, bool, list[str] or list[int].
        help: help text in full sentences.
    """

    path: tuple[str, ...]
    type: Any
    help: str

    @property
    def name(self) -> str:
        """The option's name as a parameter: `guard`, `weight`, `prompt`."""
        name = self.path[-2] if len(self.path) > 1 and self.path[-1] in _HEADS else self.path[-1]
        return name.removesuffix("s") if get_origin(self.type) is list else name

    def parameter(self) -> inspect.Parameter:
        """Return the option as a parameter of a command; None stands for "not given"."""
        flag = self.name.replace("_", "-")
        words = f"--{flag}/--no-{flag}" if self.type is bool else f"--{flag}"
        kind = get_args(self.type)[0] if get_origin(self.type) is list else self.type
        option = typer.Option(
            words,
            help=escape(self.help),
            metavar=None if kind is bool else f"<{kind.__name__}>",
            rich_help_panel=self._panel(),
        )
        return inspect.Parameter(
            self.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[self.type | None, option],
        )

    def _panel(self) -> str:
        panels = {
            "model": "Model",
            "guard": "Guard (its authors' settings by default)",
            "optimizer": "Optimiser (the guard's authors' settings by default)",
        }
        return panels.get(self.path[0], "Run")


def settings() -> list[Setting]:
    """Return every setting that has an option, in the order of `RunConfig`."""
    return [s for s in _settings(RunConfig) if ".".join(s.path) not in ONLY_IN_FILES]


def _settings(group: Any, path: tuple[str, ...] = ()) -> Iterator[Setting]:
    for name, annotation, default, text in _fields(group):
        if dataclasses.is_dataclass(annotation) or _is_model(annotation):
            yield from _settings(annotation, (*path, name))
            continue
        kind, choices = _type_of(annotation)
        sentences = [text]
        if choices:
            sentences.append(f"One of {', '.join(choices)}.")
        preset = path in (("guard",), ("optimizer",))  # a guard's own settings come first there
        if isinstance(default, str | int | float) and kind is not bool and not preset:
            sentences.append(f"Default: {default}.")
        yield Setting((*path, name), kind, " ".join(sentences))


def _fields(group: Any) -> Iterator[tuple[str, Any, Any, str]]:
    """Yield name, type, default and description of a pydantic model's or dataclass's fields."""
    if _is_model(group):
        for name, field in group.model_fields.items():
            default = None if field.default is PydanticUndefined else field.default
            yield name, field.annotation, default, field.description or ""
        return
    hints = get_type_hints(group)
    for field in dataclasses.fields(group):
        yield field.name, hints[field.name], field.default, field.metadata.get("help", "")


def _is_model(annotation: Any) -> bool:
    return inspect.isclass(annotation) and issubclass(annotation, BaseModel)


def _type_of(annotation: Any) -> tuple[Any, tuple[str, ...]]:
    """Return the type of an option for a setting, and the words that it allows."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return _type_of(next(a for a in inner if a is not type(None)))
    if origin is Annotated:
        return _type_of(inner[0])
    if origin is Literal:
        return str, inner
    if origin is tuple:
        return (list[int] if _type_of(inner[0])[0] is int else list[str]), ()
    return annotation, ()


def nested(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that were given as settings, nested as in `RunConfig`."""
    result: dict[str, Any] = {}
    for setting in settings():
        value = given[setting.name]
        if value is None or value == []:
            continue
        place = result
        for group in setting.path[:-1]:
            place = place.setdefault(group, {})
        place[setting.path[-1]] = value
    return result
