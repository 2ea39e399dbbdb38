"""Which backends can run here, and which one a call uses."""

from __future__ import annotations

import torch

from gaussreg_fast import native

_NO_TRITON = "this version of gaussreg_fast has no Triton kernels yet"


def backends() -> dict[str, str]:
    """Which backends can run here: name -> "available", or the reason why not.

    `backend="auto"` takes the first available of triton (on a GPU), native (on the CPU)
    and torch. In this version the native backend makes the permutations in C++ and shares
    the rest with the torch backend.
    """
    return {"triton": _NO_TRITON, "native": native.load()[1], "torch": "available"}


def require(backend: str, device: torch.device) -> None:
    """Raises early, before anything is drawn or computed, what `resolve` would raise.

    Not under torch.compile, which cannot trace the search for the module: there the operator
    raises it.
    """
    if backend not in ("auto", "torch") and not torch.compiler.is_compiling():
        resolve(backend, device)


def resolve(backend: str, device: torch.device) -> str:
    """The backend for tensors on `device`.

    Raises:
        RuntimeError: a backend asked for by name that cannot run there.
    """
    states = backends()
    if states["native"] == "available" and device.type != "cpu":
        states["native"] = f"it computes on the CPU, x is on {device}"
    if backend == "auto":
        return "native" if states["native"] == "available" else "torch"
    if states[backend] != "available":
        able = ", ".join(repr(name) for name, state in states.items() if state == "available")
        raise RuntimeError(
            f"backend {backend!r} cannot run here: {states[backend]}; these can: {able}"
        )
    return backend
