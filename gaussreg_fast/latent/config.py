"""Resolve a user's settings over a guard's preset and the defaults; read and write YAML files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from gaussreg_fast.errors import InputError
from gaussreg_fast.latent import strict_yaml
from gaussreg_fast.latent.guards import kind_of
from gaussreg_fast.latent.settings import RunConfig


def resolve(*layers: Mapping[str, Any]) -> RunConfig:
    """Return the settings of a run: the given ones over the guard's preset over the defaults.

    Args:
        layers: fields of `RunConfig`, later ones over earlier ones; `guard` is "mpgr" unless
            given.

    Raises:
        InputError: unknown, missing or impossible settings; the message names the first.
    """
    given: Mapping[str, Any] = {"guard": {"name": "mpgr"}, "model": {"source": "digits"}}
    for layer in layers:
        given = overlay(given, _with_whole_options(_spelled_out(layer)))
    guard, model = given["guard"], given["model"]
    if isinstance(guard, Mapping) and isinstance(model, Mapping):
        try:
            preset = _preset(guard.get("name"), model.get("source"))
        except InputError as error:
            raise InputError(f"{_place(layers, ('guard', 'name'))}{error}") from error
        given = overlay(preset, given)
    try:
        return RunConfig.model_validate(given)
    except ValidationError as error:
        raise InputError(_located(error, layers)) from error


# The groups of settings that a string can stand for, and the setting that it then is.
_HEADS = {"guard": "name", "model": "source", "optimizer": "name"}


def _spelled_out(layer: Mapping[str, Any]) -> dict[str, Any]:
    """Replace a guard, model or optimiser given as a string by settings that name it."""
    return {
        key: {_HEADS[key]: value} if key in _HEADS and isinstance(value, str) else value
        for key, value in layer.items()
    }


def _with_whole_options(layer: Mapping[str, Any]) -> Mapping[str, Any]:
    """Make integers of the whole numbers among a guard's options, as 1e2, which YAML calls float.

    No type in `RunConfig` does so, because the options are those of any loss.
    """
    guard = layer.get("guard")
    if not isinstance(guard, Mapping) or not isinstance(guard.get("options"), Mapping):
        return layer
    options = {name: _whole(value) for name, value in guard["options"].items()}
    return {**layer, "guard": {**guard, "options": options}}


def _whole(value: Any) -> Any:
    if isinstance(value, list):
        return [_whole(item) if isinstance(item, float) else item for item in value]
    exact = isinstance(value, float) and value.is_integer() and abs(value) < 2**53
    return int(value) if exact else value


def _preset(guard: Any, source: Any) -> dict[str, Any]:
    kind = kind_of(guard)
    preset = dict(kind.preset)
    if kind.preset_of_flux and _is_flux(str(source)):
        preset = overlay(preset, kind.preset_of_flux)
    return {**preset, "guard": {"name": guard, **preset.get("guard", {})}}


def _is_flux(source: str) -> bool:
    """Tell FLUX by a local folder's index, or by the name of a repository on the hub."""
    index = Path(source) / "model_index.json"
    if index.is_file():
        return "Flux" in read_text(index)
    return "flux" in source.rpartition("/")[2].lower()


def overlay(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Merge nested settings; values in `above` win.

    A guard or optimiser of another name shares nothing with the one it replaces.
    """
    result = dict(below)
    for key, value in above.items():
        under = result.get(key)
        if isinstance(value, Mapping) and isinstance(under, Mapping):
            name = under.get("name")
            result[key] = overlay(under if value.get("name", name) == name else {}, value)
        else:
            result[key] = value
    return result


def _located(error: ValidationError, layers: Sequence[Mapping[str, Any]]) -> str:
    """Return the first problem in one line, after the file and line that it comes from."""
    return _place(layers, error.errors(include_url=False)[0]["loc"]) + _first(error)


def _place(layers: Sequence[Mapping[str, Any]], setting: strict_yaml.Place) -> str:
    """Return "FILE, line N: " for a setting, or "" if no file gave it or what it is in."""
    for end in range(len(setting), 0, -1):
        for layer in reversed(layers):
            if _holds(layer, setting[:end]):
                named = isinstance(layer, strict_yaml.FromFile)
                return f"{layer.line(setting[:end])}: " if named else ""
    return ""


def _holds(layer: Any, setting: strict_yaml.Place) -> bool:
    for part in setting:
        try:
            layer = layer[part]
        except (LookupError, TypeError):
            return False
    return True


def _first(error: ValidationError) -> str:
    """Return the first problem in one line: the setting, the allowed values, the given value."""
    problem = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in problem["loc"]) or "settings"
    leaf = where.rpartition(".")[2]
    if problem["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"{where}: no such setting"
    if problem["type"] == "missing":
        return f"{where} is required"
    got = f"got {' '.join(repr(problem['input']).split())}"
    if problem["type"] != "value_error":
        try:
            allowed = _allowed_values(_schema_of(problem["loc"]))
        except KeyError:  # not a setting but a key, which the schema does not describe
            return f"{where}: {problem['msg']}, {got}"
        if allowed == _GROUP and (leaf in _HEADS or leaf.isdecimal()):  # a number is a reward's
            allowed = f"a string or {allowed}"
        return f"{where} must be {allowed}, {got}"
    message = problem["msg"].removeprefix("Value error, ")  # written by our own checks
    if message.startswith(f"{leaf} "):
        return f"{where}{message.removeprefix(leaf)}"
    if where == "settings" or message.startswith(where):
        return message
    return f"{where}: {message}" if "got" in message else f"{where}: {message}, {got}"


def _schema_of(path: Sequence[int | str]) -> Mapping[str, Any]:
    """Return the JSON schema of a setting, without the null that stands for "not given"."""
    whole = RunConfig.model_json_schema()
    node = whole
    for part in (*path, None):
        for alternative in node.get("anyOf", ()):
            if alternative.get("type") != "null":
                node = alternative
        if "$ref" in node:
            node = whole["$defs"][node["$ref"].rpartition("/")[2]]
        if part is not None:
            node = node["items"] if isinstance(part, int) else node["properties"][part]
    return node


_GROUP = "settings by name"
_NOUNS = {"integer": "integer", "number": "finite number", "string": "string"}
_BOUNDS = {
    "minimum": "of at least", "maximum": "of at most",
    "exclusiveMinimum": "above", "exclusiveMaximum": "below",
}  # fmt: skip


def _allowed_values(schema: Mapping[str, Any]) -> str:
    """Return in words the values that a setting's JSON schema allows, as "an integer above 0"."""
    kind = schema.get("type")
    if "enum" in schema:
        return f"one of {', '.join(map(repr, schema['enum']))}"
    if kind == "boolean":
        return "true or false"
    if kind == "array":
        # Rewards have no noun here: their items are strings or settings by name.
        items = f"{_NOUNS.get(schema['items'].get('type'), 'reward')}s"
        return f"a list of {items}{' that is not empty' if schema.get('minItems') else ''}"
    if kind not in _NOUNS:
        return _GROUP
    noun = _NOUNS[kind]
    bounds = [f"{words} {schema[key]}" for key, words in _BOUNDS.items() if key in schema]
    if schema.get("minLength"):
        bounds.append("that is not empty")
    return " ".join(["an" if noun[0] in "aeiou" else "a", noun, " and ".join(bounds)]).rstrip()


# ---------------------------------------------------------------- YAML


def load_yaml(path: Path) -> strict_yaml.FromFile:
    """Read a mapping from a YAML file.

    Raises:
        InputError: the file is unreadable, not YAML, gives a key twice, or is not a mapping.
    """
    return strict_yaml.load(read_text(path), path)


def load_stored(path: Path) -> strict_yaml.FromFile:
    """Read the settings that `to_yaml` wrote.

    Raises:
        InputError: the file is unreadable, cut short, or holds no settings.
    """
    if not read_text(path).endswith(strict_yaml.END):
        raise InputError(
            f"{path}: is cut short, its last line must be {strict_yaml.END.strip()!r}; choose a "
            "new folder, or write the run's settings to this file"
        )
    return load_yaml(path)


def stored(path: Path) -> RunConfig:
    """Read a config that `to_yaml` wrote. It is complete, so that no preset goes under it.

    Raises:
        InputError: the file is unreadable, cut short, or holds no config.
    """
    content = load_stored(path)
    try:
        return RunConfig.model_validate(_with_whole_options(content))
    except ValidationError as error:
        raise InputError(_located(error, [content])) from error


def to_yaml(config: RunConfig) -> str:
    """Return a config as YAML; `resolve(yaml.safe_load(...))` gives it back."""
    return strict_yaml.dump(config.model_dump(mode="json"))


def read_text(path: Path) -> str:
    """Read a user's text file.

    Raises:
        InputError: the file cannot be read, or is not UTF-8.
    """
    try:
        # "-sig" because editors on Windows begin a file with a byte order mark.
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text") from error
