"""Validation of lists of tensors: parameters and their base, pairs of LoRA factors.

Every error names the tensor by its position and, if it has one, its name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gaussreg_fast import _wrappers, checks

DRIFT_REDUCTIONS = ("sum", "tensor_mean")
LORA_FORMS = ("factors", "product")


class Paired(NamedTuple):
    """Parameters and their base, side by side."""

    names: list[str] | None
    params: list[Tensor]
    base: list[Tensor]
    uniform: bool  # whether `checks.uniform` holds of params and base


def tensors(name: str, value: Any) -> tuple[list[str] | None, list[Any]]:
    """Return the names, or None, and the tensors of a list.

    A list is a module (its parameters), a mapping by name, an iterable of (name, tensor), or an
    iterable of tensors. Its items are not checked here, but by `pair_with_base`.
    """
    if isinstance(value, torch.nn.Module):
        value = dict(value.named_parameters())
    if isinstance(value, Mapping):
        names, listed = list(value.keys()), list(value.values())
    elif isinstance(value, (Tensor, str)) or not checks.iterable(value):
        raise TypeError(
            f"{name} must be a module, a mapping of names to tensors, or an iterable of tensors or "
            f"of (name, tensor), got {type(value).__name__}"
        )
    else:
        names, listed = None, list(value)
        if listed and isinstance(listed[0], tuple) and len(listed[0]) == 2:
            for i, item in enumerate(listed):
                if not isinstance(item, tuple) or len(item) != 2:
                    raise TypeError(
                        f"{name}[{i}] must be (name, tensor) like {name}[0], got "
                        f"{type(item).__name__}"
                    )
                if not isinstance(item[0], str) and not _is_name(item[0]):
                    raise TypeError(
                        f"{name}[{i}] must be (name, tensor), got a name of type "
                        f"{type(item[0]).__name__}"
                    )
            names, listed = [item[0] for item in listed], [item[1] for item in listed]
    if not listed:
        raise ValueError(f"{name} must hold at least one tensor, got none")
    if names is not None and len(set(names)) != len(names):
        twice = next(n for i, n in enumerate(names) if n in names[:i])
        raise ValueError(f"{name} must name each tensor once, got {twice!r} twice")
    return names, listed


def _is_name(value: Any) -> bool:
    return isinstance(value, Hashable) and not isinstance(value, Tensor)


def pair_with_base(
    params: Any, base: Any, uniform: Callable[[list[Any], list[Any]], bool] = checks.uniform
) -> Paired:
    """Check `params` and `base` and pair them: by name if both have names, else by position.

    Names are compared without the parts that wrappers of models add, see `_wrappers`.
    Tensors of a pair must match in shape and be floating-point and dense; `params` must be on one
    device, `base` on that or on the CPU, without gradient. `uniform` is `checks.uniform`, or a
    function that does the same faster: if it holds of the lists, no tensor is checked by itself.
    """
    names, left = tensors("params", params)
    base_names, right = tensors("base", base)
    if names is not None and base_names is not None and names != base_names:
        right = _in_order(names, base_names, right)
    if len(left) == len(right) and uniform(left, right):
        return Paired(names, left, right, True)
    device = getattr(left[0], "device", None)
    for i, (p, b) in enumerate(zip(left, right, strict=False)):
        if not _fits(p, b, device):
            _refuse(i, names, p, b, device)
    if len(left) != len(right):
        i = min(len(left), len(right))
        longer = "params" if len(left) > i else "base"
        name = label(longer, i, names if longer == "params" else base_names)
        raise ValueError(
            f"params and base must have as many tensors, got {len(left)} and {len(right)}: {name} "
            f"has no partner"
        )
    return Paired(names, left, right, False)


def _in_order(names: list[str], base_names: list[str], base: list[Any]) -> list[Any]:
    """Return the base's tensors in the order of the parameters' names."""
    wanted, found = names, base_names
    if set(names) != set(base_names):
        wanted, found = _wrappers.unwrapped(names), _wrappers.unwrapped(base_names)
    known, by_name = set(wanted), dict(zip(found, base, strict=True))
    if known != by_name.keys() and (prefixes := _wrappers.differing_prefixes(wanted, found)):
        raise ValueError(
            f"base must have the names of params, got names that begin with {prefixes[1]!r} where "
            f"those of params begin with {prefixes[0]!r}: {base_names[0]!r} and {names[0]!r}"
        )
    for i, key in enumerate(wanted):
        if key not in by_name:
            adapter = ".lora_" in str(key) or ".modules_to_save." in str(key)
            advice = "; list params without adapters, and see lora_drift" if adapter else ""
            raise ValueError(f"base has no tensor for params[{i}], {names[i]!r}{advice}")
    for i, key in enumerate(found):
        if key not in known:
            raise ValueError(f"params has no tensor for base[{i}], {base_names[i]!r}")
    return [by_name[key] for key in wanted]


def _fits(p: Any, b: Any, device: Any) -> bool:
    """Return whether a parameter and its base are as `pair_with_base` wants them."""
    return (
        isinstance(p, Tensor)
        and isinstance(b, Tensor)
        and p.dtype in checks.DTYPES
        and b.dtype in checks.DTYPES
        and p.shape == b.shape
        and p.layout == torch.strided
        and b.layout == torch.strided
        and not b.requires_grad
        and p.device == device
        and (b.device == device or b.device.type == "cpu")
    )


def label(name: str, i: int, names: list[str] | None) -> str:
    """Return how an error names a tensor: params[3], or params[3], 'mid.weight', with a name."""
    return f"{name}[{i}]" if names is None else f"{name}[{i}], {names[i]!r},"


def _refuse(i: int, names: list[str] | None, p: Any, b: Any, device: Any) -> None:
    """Raise the error for a parameter and its base that `_fits` has refused."""
    name, base = label("params", i, names), label("base", i, names)
    checks.floating(name, p)
    checks.floating(base, b)
    if p.shape != b.shape:
        raise ValueError(
            f"{name} must have the shape of its base, got {tuple(p.shape)} and {tuple(b.shape)}"
        )
    if b.requires_grad:
        raise ValueError(
            f"{base} must not require grad: the base is frozen; pass a copy, "
            f"`tensor.detach().clone()`"
        )
    if p.device != device:
        raise ValueError(f"{name} must be on the device of params[0], {device}, got {p.device}")
    raise ValueError(
        f"{base} must be on the device of params, {device}, or on the CPU, got {b.device}"
    )


def lora_pairs(pairs: Any) -> tuple[list[Tensor], list[Tensor]]:
    """Check pairs (A, B) of factors, A (r, ...) and B (m, r, 1, ...), or a mapping to pairs.

    Returns:
        The list of all A, and the list of all B.
    """
    names = list(pairs.keys()) if isinstance(pairs, Mapping) else None
    items = pairs.values() if isinstance(pairs, Mapping) else pairs
    if isinstance(items, Tensor) or not checks.iterable(items):
        raise TypeError(f"pairs must be an iterable of (A, B), got {type(pairs).__name__}")
    left: list[Tensor] = []
    right: list[Tensor] = []
    for i, pair in enumerate(items):
        place = label("pairs", i, names)
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise TypeError(f"{place} must be (A, B), got {type(pair).__name__}")
        a, b = pair
        for name, value in (("A", a), ("B", b)):
            checks.floating(f"{name} of {place}", value)
            if value.dim() < 2:
                raise ValueError(
                    f"{name} of {place} must have at least two dimensions, got {tuple(value.shape)}"
                )
        if math.prod(b.shape[1:]) != a.shape[0]:
            raise ValueError(
                f"{place} must be A (r, n) and B (m, r), got {tuple(a.shape)} and {tuple(b.shape)}"
            )
        first = left[0] if left else a
        if a.device != first.device or b.device != first.device:
            raise ValueError(
                f"pairs must be on one device, {first.device}, got {a.device} and {b.device} in "
                f"{place.rstrip(',')}"
            )
        left.append(a)
        right.append(b)
    if not left:
        raise ValueError("pairs must hold at least one pair, got none")
    return left, right


def check_distinct(paired: Paired) -> None:
    """Check that no two parameters, which will be written to, begin at the same address."""
    params = paired.params
    if not paired.uniform:
        params = [p.to_local() if hasattr(p, "to_local") else p for p in params]
    memory = list(map(Tensor.data_ptr, params))
    if len(set(memory)) == len(memory):
        return
    first: dict[int, int] = {}
    for i, at in enumerate(memory):
        if at and first.setdefault(at, i) != i:
            raise ValueError(
                f"{label('params', i, paired.names)} must not share memory with "
                f"{label('params', first[at], paired.names).rstrip(',')}"
            )


def gradients(paired: Paired) -> list[Tensor | None]:
    """Return the `.grad` of each parameter, or None, after checking that it can be added to.

    It must be dense, of the parameter's type, shape and placement, and not part of a graph. Only a
    leaf has one: a parameter that requires grad and is no leaf is refused.
    """
    found = []
    for i, p in enumerate(paired.params):
        grad = p.grad if p.is_leaf else None
        found.append(grad)
        if grad is None:
            if p.requires_grad and not p.is_leaf:
                raise ValueError(
                    f"{label('params', i, paired.names)} must be a leaf, since only leaves have a "
                    f".grad, got the result of an operation"
                )
        elif (
            grad.layout is not torch.strided
            or grad.dtype != p.dtype
            or grad.requires_grad
            or grad.shape != p.shape
            or (type(grad) not in checks.ORDINARY and _placement(grad) != _placement(p))
        ):
            raise ValueError(
                f"the gradient of {label('params', i, paired.names)} must be dense, {p.dtype}, of "
                f"its shape and sharding and without a graph, got {grad.dtype}, {grad.layout}, "
                f"shape {tuple(grad.shape)}, requires_grad={grad.requires_grad}"
            )
    return found


def _placement(x: Tensor) -> Any:
    """Return the placements of a DTensor, None for an ordinary tensor."""
    return getattr(x, "placements", None)
