"""Every private name of torch that the package uses, each with a fallback that is slow but right.

If a release of torch lacks one of the names that `direct` needs, every call goes through torch's
dispatcher, which needs none of them. `FORCED` makes all names missing; only a test sets it, before
this file is executed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function, forward_ad

FORCED: bool = globals().get("FORCED", False)
ORDINARY = (Tensor, torch.nn.Parameter)  # types of tensors that are no more than that
_missing: list[str] = []


def missing() -> list[str]:
    """Return the private names that this torch does not have."""
    return _missing.copy()


def _private(path: str, root: Any = torch) -> Any:
    """Return the object at a dotted path below torch, or None if there is none."""
    found = None if FORCED else root
    for part in path.split("."):
        found = getattr(found, part, None)
    if found is None:
        _missing.append(path)
    return found


_modes = _private("_C._len_torch_dispatch_stack")
_trace = _private("_C._get_tracing_state")
_transforms = _private("_C._are_functorch_transforms_active")
_level = _private("_current_level", forward_ad)  # a number that changes: `_direct` reads it anew
_COMPLETE = None not in (_modes, _trace, _transforms, _level)

CALL_STATE: dict[str, Any] | None = (
    {"modes": _modes, "trace": _trace, "transforms": _transforms, "forward_ad": forward_ad}
    if _COMPLETE
    else None
)
"""What C++ asks before it takes a call by itself, as `direct` does. None: it takes none."""


# ---------------------------------------------------------------- the kind of a call


def _transformed() -> bool:
    return not torch.compiler.is_compiling()  # unknown: the route for transforms is always right


transformed: Callable[[], bool] = _transforms or _transformed
"""Whether a torch.func transform (grad, vmap, jvp, ...) is active."""


def _direct(x: Tensor) -> bool:
    return (
        not torch.compiler.is_compiling()
        and _modes() == 0
        and _trace() is None
        and type(x) in ORDINARY
        and not x.is_meta
        and forward_ad._current_level < 0
        and not transformed()
    )


def _real(x: Tensor) -> bool:
    """Return whether x has numbers in memory. Replaces `_direct`, by public names alone."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or type(x) not in ORDINARY:
        return False
    if x.is_meta:
        return False
    try:
        x.data_ptr()  # a transform's wrapper has none
    except RuntimeError:
        return False
    return (
        type(torch.empty(0, dtype=torch.float32, device="cpu")) is Tensor
    )  # in fake mode this makes a fake tensor


direct: Callable[[Tensor], bool] = _direct if _COMPLETE else lambda x: False
"""Whether x is an ordinary tensor with numbers, and no mode, tracer or transform is active."""

writable: Callable[[Tensor], bool] = _direct if _COMPLETE else _real
"""Whether memory of x can be written to: `direct`, but exact even if private names are missing."""


def readable(x: Tensor) -> bool:
    """Return whether numbers of x can be read now: on the CPU, and outside traces."""
    if torch.compiler.is_compiling() or type(x) not in ORDINARY or x.device.type != "cpu":
        return False
    return _modes() == 0 and not _transforms() if _modes and _transforms else _real(x)


# ---------------------------------------------------------------- autograd

_Below = _private("_C._AutoDispatchBelowAutograd")


def below_autograd(op: Callable) -> Callable | None:
    """Return a call of an operator past its autograd kernel, or None if torch offers none."""
    if _Below is None:
        return None

    def call(*args: Any) -> Any:
        with _Below():
            return op(*args)

    return call


def unrecorded() -> contextlib.AbstractContextManager:
    """Return a context like `torch.no_grad`, for operations that only allocate: half the time."""
    return (_Below or torch.no_grad)()


def quick_apply(function: type[Function]) -> Callable:
    """Return `Function.apply` without its check for transforms of torch.func."""
    return function.apply if FORCED else super(Function, function).apply  # type: ignore[misc]


unwrapped: Callable[[Tensor], Tensor] = _private("_C._functorch.unwrap_if_dead") or (lambda x: x)
"""Strips the wrapper from a tensor that leaked out of a transform that has ended."""

graph_is_kept: Callable[[], bool] = _private("_C._autograd._get_current_graph_task_keep_graph") or (
    lambda: True
)
"""Whether the backward that runs now may run again."""

saved_tensor_hooks: Callable[[bool], Any] = _private(
    "_C._autograd._top_saved_tensors_default_hooks"
) or (lambda _: True)
"""The hooks that receive tensors saved for backward, if there are any."""

vmapped_by_autograd: Callable[[Tensor], bool] = _private(
    "_C._functorch.is_legacy_batchedtensor"
) or (lambda x: True)
"""Whether `torch.autograd.grad(is_grads_batched=True)` made x."""


# ---------------------------------------------------------------- tensors

EXCHANGE_API = _private("__dlpack_c_exchange_api__", Tensor)
"""DLPack's table of C functions, through which C++ reads tensors. None: it gets addresses."""


def _lerp_each(params: Sequence[Tensor], base: Sequence[Tensor], shares: Sequence[float]) -> None:
    for p, b, share in zip(params, base, shares, strict=True):
        p.lerp_(b, share)


foreach_lerp_: Callable[..., Any] = _private("_foreach_lerp_") or _lerp_each
"""Moves each of params a share of the way to its base, in place."""
