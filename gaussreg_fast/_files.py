"""Atomic writes, which never leave a file half written, and strict JSON."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Give a temporary path to write to; it replaces `path` if the block ends without an error."""
    path = Path(path)
    try:
        handle, name = tempfile.mkstemp(
            dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix
        )
    except OSError as error:
        error.filename = str(path)  # not the temporary name, which means nothing to the user
        raise
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write a value as strict JSON, whole or not at all."""
    write_text(path, json_text(value) + "\n")


def json_text(value: Any) -> str:
    """Return strict JSON: NaN and infinities, which JSON does not have, become null."""

    def strict(v: Any) -> Any:
        if isinstance(v, dict):
            return {k: strict(item) for k, item in v.items()}
        if isinstance(v, list):
            return [strict(item) for item in v]
        return None if isinstance(v, float) and not math.isfinite(v) else v

    return json.dumps(strict(value), indent=1, allow_nan=False)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
