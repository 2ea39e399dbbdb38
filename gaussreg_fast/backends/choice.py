"""Which backends can run here, and which one a call uses."""

from __future__ import annotations

import functools
import importlib
import os
import re
import warnings
from types import ModuleType
from typing import Any

import torch

from gaussreg_fast.backends import native
from gaussreg_fast.backends import torch as plain_torch

MIN_TRITON = (3, 6)  # the oldest release that the kernels are compiled and tested with
MIN_CAPABILITY = (8, 0)  # the oldest GPU that they are compiled for


def backends() -> dict[str, str]:
    """Return which backends can run here: name -> "available", or the reason why it cannot.

    `backend="auto"` takes the first available of triton (on a GPU), native (on the CPU) and torch;
    for float64 it takes torch, because the others compute in float32. A backend named explicitly
    raises a RuntimeError if it cannot compute x, as native and triton do for float64. If
    TRITON_INTERPRET=1 is set, triton runs in its interpreter, on CPU tensors; that is meant for
    tests, and "auto" never takes it.
    """
    return {"triton": triton_state(), "native": native.load()[1], "torch": "available"}


@functools.cache
def triton_state() -> str:
    """Return "available", or why the Triton kernels cannot run here, on any device."""
    try:
        found = version()
    except ImportError:
        return "triton is not installed"
    if tuple(map(int, re.findall(r"\d+", found)[:2])) < MIN_TRITON:
        return f"triton {found} is too old, at least {MIN_TRITON[0]}.{MIN_TRITON[1]} is needed"
    if not interpreted():
        if not torch.cuda.is_available():
            return "no GPU: torch.cuda.is_available() is False"
        states = [device_state(index) for index in range(torch.cuda.device_count())]
        if "available" not in states:
            return states[0]
    try:
        importlib.import_module("gaussreg_fast.backends.triton.launch")
    except Exception as error:  # a broken installation of triton can raise anything
        return f"the Triton kernels cannot be imported: {error}"
    return "available"


def version() -> str:
    """Return Triton's version, from the module: AMD's distribution of it has another name."""
    return importlib.import_module("triton").__version__


@functools.cache
def device_state(index: int) -> str:
    """Return "available", or why the kernels cannot run on this GPU."""
    capability = torch.cuda.get_device_capability(index)
    if torch.version.hip or capability >= MIN_CAPABILITY:
        return "available"
    name = torch.cuda.get_device_name(index)
    return (
        f"{name} is too old: compute capability {capability}, at least {MIN_CAPABILITY} is needed"
    )


def interpreted() -> bool:
    """Return whether Triton kernels run in the interpreter, on CPU tensors."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes")


def require(backend: str, x: torch.Tensor) -> None:
    """Raise the error of `choose` early, before anything is drawn or computed.

    Under torch.compile, which cannot trace the search for a backend, the operator raises it later.
    """
    if backend not in ("auto", "torch") and not torch.compiler.is_compiling():
        resolve(backend, x.device, x.dtype)


_MODULES = {"native": native, "torch": plain_torch}


def choose(backend: str, x: torch.Tensor) -> Any:
    """Return the module that computes for x, with the functions of `gaussreg_fast.backends`.

    Raises:
        RuntimeError: the backend is named explicitly and cannot compute x.
    """
    automatic = backend == "auto"
    name = _automatic(x.device, x.dtype) if automatic else resolve(backend, x.device, x.dtype)
    return _MODULES.get(name) or _triton()


def choose_for_lists(backend: str, device: torch.device) -> Any:
    """Do as `choose` for lists of tensors of several types; the caller sorts out float64."""
    return _MODULES.get(resolve(backend, device)) or _triton()


@functools.cache
def _triton() -> ModuleType:
    from gaussreg_fast.backends.triton import launch

    return launch


def resolve(backend: str, device: torch.device, dtype: torch.dtype | None = None) -> str:
    """Return the name of the backend for tensors of a type on a device.

    Raises:
        RuntimeError: the backend is named explicitly and cannot run there.
    """
    if backend == "torch":
        return backend
    if backend == "auto":
        return _automatic(device, dtype)
    states = backends()
    for name, refusal in (("native", _native_refuses), ("triton", _triton_refuses)):
        if states[name] == "available":
            states[name] = refusal(device, dtype) or "available"
    if states[backend] != "available":
        able = ", ".join(repr(name) for name, state in states.items() if state == "available")
        raise RuntimeError(
            f"backend {backend!r} cannot run here: {states[backend]}; these can: {able}"
        )
    return backend


_NO_DOUBLE = "it computes in float32, x is float64"


def _native_refuses(device: torch.device, dtype: torch.dtype | None) -> str:
    """Return why the compiled kernels cannot take tensors of a type on a device, or ""."""
    if device.type != "cpu":
        return f"it computes on the CPU, x is on {device}"
    return _NO_DOUBLE if dtype == torch.float64 else ""


def _triton_refuses(device: torch.device, dtype: torch.dtype | None) -> str:
    """Return why Triton kernels that can run here cannot take the tensors, or ""."""
    if dtype == torch.float64:
        return _NO_DOUBLE
    expected = "cpu" if interpreted() else "cuda"
    if device.type != expected:
        place = "in the interpreter, on the CPU" if interpreted() else "on a GPU"
        return f"it computes {place}, x is on {device}"
    state = "available" if interpreted() else device_state(_index(device))
    return "" if state == "available" else state


def _index(device: torch.device) -> int:
    return torch.cuda.current_device() if device.index is None else device.index


def _automatic(device: torch.device, dtype: torch.dtype | None) -> str:
    if dtype == torch.float64:
        return "torch"
    if device.type == "cpu":
        return "native" if native.load()[1] == "available" else "torch"
    if device.type != "cuda" or interpreted():
        return "torch"
    state = triton_state()
    if state == "available":
        state = device_state(_index(device))
    if state == "available":
        return "triton"
    _warn_once(state)
    return "torch"


@functools.cache
def _warn_once(reason: str) -> None:
    warnings.warn(
        f"gaussreg_fast falls back to its torch backend: {reason}", UserWarning, stacklevel=2
    )
