"""Which backends can run here, and which one a call uses."""

from __future__ import annotations

import functools
import importlib
import os
import re
import warnings
from collections.abc import Callable, Sequence
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


def require_here(backend: str) -> None:
    """Raise the error of `choose` if the backend cannot run on this machine, whatever the x."""
    if backend not in ("auto", "torch"):
        _check_available(backend, backends())


def require(backend: str, x: torch.Tensor, name: str = "x") -> None:
    """Raise the error of `choose` early, before anything is drawn or computed.

    Under torch.compile, which cannot trace the search for a backend, the operator raises it later.
    """
    if backend not in ("auto", "torch") and not torch.compiler.is_compiling():
        resolve(backend, x.device, x.dtype, name)


def require_for_lists(
    backend: str,
    params: Sequence[torch.Tensor],
    base: Sequence[torch.Tensor],
    label: Callable[[str, int], str],
) -> None:
    """Do as `require` for params, which are on one device, and a base, which may be elsewhere.

    `label` returns how an error names a tensor, from the name of its list and its position.
    """
    if backend not in ("auto", "torch") and not torch.compiler.is_compiling():
        dtype, double = None, None
        for name, tensors in (("params", params), ("base", base)):
            dtypes = [t.dtype for t in tensors]
            if torch.float64 in dtypes:
                dtype, double = torch.float64, label(name, dtypes.index(torch.float64))
                break
        resolve(backend, params[0].device, dtype, label("params", 0), double)


_MODULES = {"native": native, "torch": plain_torch}


def choose(backend: str, x: torch.Tensor, name: str = "x") -> Any:
    """Return the module that computes for x, with the functions of `gaussreg_fast.backends`.

    `name` is the argument that an error names.

    Raises:
        RuntimeError: the backend is named explicitly and cannot compute x.
    """
    automatic = backend == "auto"
    device, dtype = x.device, x.dtype
    chosen = _automatic(device, dtype) if automatic else resolve(backend, device, dtype, name)
    return _MODULES.get(chosen) or _triton()


def choose_for_lists(backend: str, device: torch.device, dtype: torch.dtype | None = None) -> Any:
    """Do as `choose` for lists of parameters and base, of several types.

    Without a dtype the caller leaves to plain torch the tensors that the backend cannot take.
    """
    return _MODULES.get(resolve(backend, device, dtype, "params", "params or base")) or _triton()


@functools.cache
def _triton() -> ModuleType:
    from gaussreg_fast.backends.triton import launch

    return launch


def resolve(
    backend: str,
    device: torch.device,
    dtype: torch.dtype | None = None,
    name: str = "x",
    typed: str | None = None,
) -> str:
    """Return the name of the backend for tensors of a type on a device.

    An error says that the argument `name` is on the device, and that `typed`, by default the same
    argument, has the type.

    Raises:
        RuntimeError: the backend is named explicitly and cannot run there.
    """
    if backend == "torch":
        return backend
    if backend == "auto":
        return _automatic(device, dtype)
    states = backends()
    for each, refusal in (("native", _native_refuses), ("triton", _triton_refuses)):
        if states[each] == "available":
            states[each] = refusal(device, dtype, name, typed or name) or "available"
    _check_available(backend, states)
    return backend


def _check_available(backend: str, states: dict[str, str]) -> None:
    if states[backend] != "available":
        able = ", ".join(repr(each) for each, state in states.items() if state == "available")
        raise RuntimeError(
            f"backend {backend!r} cannot run here: {states[backend]}; these can: {able}"
        )


def _native_refuses(device: torch.device, dtype: torch.dtype | None, name: str, typed: str) -> str:
    """Return why the compiled kernels cannot take tensors of a type on a device, or ""."""
    if device.type != "cpu":
        return f"it computes on the CPU, {name} is on {device}"
    return f"it computes in float32, {typed} is float64" if dtype == torch.float64 else ""


def _triton_refuses(device: torch.device, dtype: torch.dtype | None, name: str, typed: str) -> str:
    """Return why Triton kernels that can run here cannot take the tensors, or ""."""
    if dtype == torch.float64:
        return f"it computes in float32, {typed} is float64"
    expected = "cpu" if interpreted() else "cuda"
    if device.type != expected:
        place = "in the interpreter, on the CPU" if interpreted() else "on a GPU"
        return f"it computes {place}, {name} is on {device}"
    state = "available" if interpreted() else device_state(device_number(device))
    return "" if state == "available" else state


def device_number(device: torch.device) -> int:
    """Return the index of a GPU; "cuda" without one is the current GPU."""
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
        state = device_state(device_number(device))
    if state == "available":
        return "triton"
    _warn_once(state)
    return "torch"


@functools.cache
def _warn_once(reason: str) -> None:
    warnings.warn(
        f"gaussreg_fast falls back to its torch backend: {reason}", UserWarning, stacklevel=2
    )
