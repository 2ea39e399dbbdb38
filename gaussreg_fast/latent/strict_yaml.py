"""YAML as people mean it: numbers and truth values as in YAML 1.2, and no key twice.

YAML 1.1, which PyYAML reads, takes `yes` for true, 1:30 for 90, 010 for 8, and 1e1 for a string.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, ClassVar

import yaml

from gaussreg_fast.errors import InputError

END = "...\n"  # ends a document; a file without it is cut short
Place = tuple[int | str, ...]  # the keys and indices that lead to a value


class FromFile(dict[str, Any]):
    """A mapping read from a file, which knows the line of each of its values."""

    def __init__(self, content: dict[str, Any], path: Path, lines: dict[Place, int]) -> None:
        super().__init__(content)
        self._path, self._lines = path, lines

    def line(self, place: Place) -> str:
        """Return file and line of a value or of the mapping that it is in, to begin an error."""
        while place not in self._lines and place:
            place = place[:-1]
        return f"{self._path}, line {self._lines.get(place, 1)}"


_TYPES = {
    "null": ("~|null|Null|NULL|", "~nN"),
    "bool": ("true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": ("[-+]?[0-9][0-9_]*|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9]*)?)([eE][-+]?[0-9]+)?"
        r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
    "merge": ("<<", "<"),
}


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}

    def integer(self, node: yaml.ScalarNode) -> int:
        text = node.value.replace("_", "")
        return int(text, {"0x": 16, "0o": 8}.get(text[:2], 10))


class _Dumper(yaml.SafeDumper):
    """Quotes each string that either version of YAML would take for something else."""


for _name, (_pattern, _first) in _TYPES.items():
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(
            f"tag:yaml.org,2002:{_name}",
            re.compile(f"(?:{_pattern})\\Z"),
            [*_first, *([""] if _name == "null" else [])],
        )
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.integer)


def load(text: str, path: Path) -> FromFile:
    """Read a mapping from the text of a YAML file.

    Raises:
        InputError: the text is not YAML, is not a mapping, or gives a key twice or one that is not
            a string.
    """
    lines: dict[Place, int] = {}
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        _note_lines(node, (), path, lines, set())
        content = None if node is None else loader.construct_document(node)
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    finally:
        loader.dispose()
    if not isinstance(content, dict):
        raise InputError(f"{path}: must hold settings by name, got {type(content).__name__}")
    return FromFile(content, path, lines)


def _note_lines(
    node: yaml.Node | None, place: Place, path: Path, lines: dict[Place, int], seen: set[int]
) -> None:
    """Note the line of every value below a node; refuse a key given twice or not a string."""
    if id(node) in seen:  # an alias, perhaps of a node that it is in
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            inner: Place = (*place, index)
            lines[inner] = item.start_mark.line + 1
            _note_lines(item, inner, path, lines, seen)
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                continue
            number = key.start_mark.line + 1
            if key.tag != "tag:yaml.org,2002:str":
                raise InputError(f"{path}, line {number}: {_no_name(key, place)}")
            inner = (*place, key.value)
            if inner in lines:
                name = ".".join(map(str, inner))
                raise InputError(
                    f"{path}, line {number}: {name} is given twice, first in line {lines[inner]}"
                )
            lines[inner] = number
            _note_lines(value, inner, path, lines, seen)


def _no_name(key: yaml.Node, place: Place) -> str:
    """Say that a key is not a string."""
    where = f" in {'.'.join(map(str, place))}" if place else ""
    text = key.value if isinstance(key, yaml.ScalarNode) else f"a {key.id}"
    return f"names of settings{where} must be strings, got {' '.join(text.split()) or 'null'}"


def dump(content: dict[str, Any]) -> str:
    """Return a mapping as YAML that `load` and every other reader gives back, to its `END`."""
    options: dict[str, Any] = {"Dumper": _Dumper, "sort_keys": False, "explicit_end": True}
    text: str = yaml.dump(content, **options, allow_unicode=True)
    if load(text, Path()) != content:  # prompts with odd line breaks come back as spaces
        text = yaml.dump(content, **options)
    return text
