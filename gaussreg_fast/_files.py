"""Paths as users write them, writes that leave no file half written, locks, and strict JSON."""

from __future__ import annotations

import errno
import json
import math
import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from gaussreg_fast.errors import InputError

_PARTIAL = ".partial-"  # start of the names of files that are being written
# What file systems answer to a request that they do not know.
_UNKNOWN = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL)
_NO_LOCKS = (*_UNKNOWN, errno.ENOLCK)


def user_path(path: str | Path) -> Path:
    """Return a path that a user gave, with a leading ~ replaced by the home folder.

    Raises:
        InputError: the home folder of that name is unknown.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise InputError(f"{path}: no such home folder") from error


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Give a temporary path to write to; it replaces `path` if the block ends without an error.

    The content is on the disk before it replaces `path`, so that a power cut leaves the old file or
    the new one.

    Raises:
        OSError: the file cannot be written; the error names `path`.
    """
    path = Path(path)
    with naming(path):
        handle, name = tempfile.mkstemp(
            dir=path.parent, prefix=f"{_PARTIAL}{path.stem[:50]}-", suffix=path.suffix
        )
    os.close(handle)
    temporary = Path(name)
    try:
        with naming(path):
            yield temporary
            with suppress(PermissionError):  # some file systems have no permissions
                temporary.chmod(0o666 & ~_umask())
            _to_disk(temporary)
            temporary.replace(path)
        with suppress(PermissionError):  # a folder may be written to but not read
            _to_disk(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Name `path` in an OSError that names no file, or that names the temporary one."""
    try:
        yield
    except OSError as error:
        if not error.filename or _PARTIAL in str(error.filename):
            error.filename = str(path)
        raise


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _UNKNOWN:
            raise
    finally:
        os.close(handle)


def is_partial(path: Path) -> bool:
    """Return whether a file is one that `atomic_path` writes to, left by a killed process."""
    return path.name.startswith(_PARTIAL)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file, which is created if needed.

    Where the file system has no locks, there is a warning and no lock.

    Raises:
        BlockingIOError: another process holds the lock.
        OSError: the file cannot be written.
    """
    import fcntl  # late, because Windows does not have it

    with open(path, "a", encoding="utf-8") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                error.filename = str(path)
                raise
            warnings.warn(
                f"{path.parent}: its file system has no locks ({error.strerror}), so that a second "
                "run in this folder would not be noticed: do not start one",
                stacklevel=3,
            )
        yield


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
