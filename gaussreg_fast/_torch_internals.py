"""Every private name of torch that the package uses, each with a fallback that is slow but right.

Where a release of torch lacks one, calls take the way through the dispatcher, which needs none.
`FORCED`, which only a test sets, before this file is run, makes all of them missing.
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
    """The names that this torch does not have."""
    return _missing.copy()


def _private(path: str, root: Any = torch) -> Any:
    """What is at a dotted path below torch, or None."""
    found = None if FORCED else root
    for part in path.split("."):
        found = getattr(found, part, None)
    if found is None:
        _missing.append(path)
    return found


_modes = _private("_C._len_torch_dispatch_stack")
_trace = _private("_C._get_tracing_state")
_transforms = _private("_C._are_functorch_transforms_active")
_level = _private("_current_level", forward_ad)  # a number, which changes
_COMPLETE = None not in (_modes, _trace, _transforms, _level)


# ---------------------------------------------------------------- what kind of call this is


def _transformed() -> bool:
    return not torch.compiler.is_compiling()  # perhaps: what is right then is right always


transformed: Callable[[], bool] = _transforms or _transformed
"""Whether a torch.func transform (grad, vmap, jvp, ...) is at work."""


def _direct(x: Tensor) -> bool:
    return (
        not torch.compiler.is_compiling()
        and _modes() == 0
        and _trace() is None
        and type(x) in ORDINARY
        and forward_ad._current_level < 0
        and not transformed()
    )


def _real(x: Tensor) -> bool:
    """Whether numbers of x are in memory here: `_direct`, by public names."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or type(x) not in ORDINARY:
        return False
    try:
        x.data_ptr()  # a transform's wrapper has none
    except RuntimeError:
        return False
    return type(torch.empty(0, device="cpu")) is Tensor  # in a mode of fake tensors it is one


direct: Callable[[Tensor], bool] = _direct if _COMPLETE else lambda x: False
"""Whether x is an ordinary tensor in ordinary eager code, which nothing records or fakes."""

writable: Callable[[Tensor], bool] = _direct if _COMPLETE else _real
"""The same where it must be known, because memory of x is to be written."""


def readable(x: Tensor) -> bool:
    """Whether numbers of x can be looked at here: without waiting for a device, not in a trace."""
    if torch.compiler.is_compiling() or type(x) not in ORDINARY or x.device.type != "cpu":
        return False
    return _modes() == 0 and not _transforms() if _modes and _transforms else _real(x)


# ---------------------------------------------------------------- autograd

_Below = _private("_C._AutoDispatchBelowAutograd")


def below_autograd(op: Callable) -> Callable | None:
    """A call of an operator past its autograd kernel, or None where torch offers no way."""
    if _Below is None:
        return None

    def call(*args: Any) -> Any:
        with _Below():
            return op(*args)

    return call


def unrecorded() -> contextlib.AbstractContextManager:
    """`torch.no_grad` for operations that only allocate, in half the time."""
    return (_Below or torch.no_grad)()


def quick_apply(function: type[Function]) -> Callable:
    """`Function.apply` without its look whether a transform of torch.func is at work."""
    return function.apply if FORCED else super(Function, function).apply  # type: ignore[misc]


unwrapped: Callable[[Tensor], Tensor] = _private("_C._functorch.unwrap_if_dead") or (lambda x: x)
"""A tensor that leaked from a transform that has ended, without its wrapper."""

graph_is_kept: Callable[[], bool] = _private("_C._autograd._get_current_graph_task_keep_graph") or (
    lambda: True
)
"""Whether the backward that runs now may run again."""

saved_tensor_hooks: Callable[[bool], Any] = _private(
    "_C._autograd._top_saved_tensors_default_hooks"
) or (lambda _: True)
"""The hooks that get to see what is saved for backward, if there are any."""

vmapped_by_autograd: Callable[[Tensor], bool] = _private(
    "_C._functorch.is_legacy_batchedtensor"
) or (lambda x: True)
"""Whether `torch.autograd.grad(is_grads_batched=True)` made x."""


# ---------------------------------------------------------------- tensors

EXCHANGE_API = _private("__dlpack_c_exchange_api__", Tensor)
"""How C++ reads tensors itself; without it, it is given addresses."""


def _lerp_each(params: Sequence[Tensor], base: Sequence[Tensor], shares: Sequence[float]) -> None:
    for p, b, share in zip(params, base, shares, strict=True):
        p.lerp_(b, share)


foreach_lerp_: Callable[..., Any] = _private("_foreach_lerp_") or _lerp_each
"""Each of params goes a share of the way to its base, in place."""
