"""Errors that a user can correct, and those that only the machine can."""

from __future__ import annotations

import errno
import re

import torch

_ANSI = re.compile(r"\x1b\[[0-9;]*m")


class InputError(ValueError):
    """Bad input. The message is one line that names the input, its value and what is allowed."""


class MachineError(RuntimeError):
    """The machine lacks memory, disk space or a device. The message is one line."""


class NoDeviceError(InputError, MachineError):
    """The input names a device that this machine does not have. The message is one line."""


def first_line(error: BaseException) -> str:
    """Return the first line of another library's error message, without colours, to be quoted."""
    lines = _ANSI.sub("", str(error)).strip().splitlines()
    return lines[0].rstrip(".: ") if lines else type(error).__name__


# torch and other compiled libraries raise RuntimeErrors that only their words tell apart.
_MEMORY = re.compile(r"out of memory|allocate memory|_ALLOC_FAILED", re.IGNORECASE)
_DEVICE = re.compile(r"\b(CUDA|HIP) error\b")
# Nearly always a wrong index in a program, whose place a traceback shows.
_FAULT = re.compile(r"device-side assert|illegal memory access|misaligned address", re.IGNORECASE)
_DISK = re.compile(r"no space left|quota exceeded|file too large", re.IGNORECASE)
_SYSTEM = (
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ENOMEM, errno.EAGAIN, errno.EMFILE,
    errno.ENFILE, errno.ENODEV, errno.ENXIO, errno.ESTALE,
)  # fmt: skip


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error, of any library and any device, says that memory ran out."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    by_words = isinstance(error, RuntimeError) and bool(_MEMORY.search(str(error)))
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or by_words


def of_machine(error: BaseException | None) -> bool:
    """Return whether the machine caused an error: memory, disk or device, not the input.

    An error that was raised `from` such an error counts, too.
    """
    while error is not None:
        if isinstance(error, MachineError) or out_of_memory(error):
            return True
        if isinstance(error, OSError) and (error.errno in _SYSTEM or _DISK.search(str(error))):
            return True
        if isinstance(error, RuntimeError) and _DEVICE.search(str(error)):
            return not _FAULT.search(str(error))
        error = error.__cause__
    return False
