"""Validation of arguments. Every error names the argument, what came and what is allowed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from numbers import Integral, Real
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor

from gaussreg_fast import _torch_internals

FORMS = ("root", "absolute", "squared")
TARGETS = ("exact", "mpgr")
STATISTICS = ("amplitude", "power")
PERMUTATIONS = ("shared", "per_sample", "none")
REDUCTIONS = ("none", "mean", "sum")
BACKENDS = ("auto", "triton", "native", "torch")
PRECISIONS = ("fp32", "tf32")
KINDS = ("kl", "forward_kl", "gamma", "chi2", "js", "tv")
SAMPLES = ("p", "q")
PREDICTIONS = ("epsilon", "v_prediction", "sample")
VARIANCES = ("fixed_small", "fixed_large")
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
ORDINARY = frozenset(_torch_internals.ORDINARY)
# Types that are computed in float32.
FLOAT32 = frozenset((torch.float32, torch.float16, torch.bfloat16))
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.uint8, torch.int8)
MAX_ORDER = 8
MAX_DIMENSION = 2**31


def _is_int(value: Any) -> bool:
    """Return whether a value is an int or a NumPy integer, and not a bool."""
    return isinstance(value, (int, Integral)) and not isinstance(value, bool)


def iterable(value: Any) -> bool:
    """Return whether a value can be iterated over; an array or tensor of shape () cannot."""
    return isinstance(value, Iterable) and getattr(value, "ndim", 1) != 0


def one_of(name: str, value: Any, allowed: tuple[str, ...]) -> str:
    """Check a string argument with a fixed set of values, and return it."""
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")
    return value


def floating(name: str, x: Any) -> None:
    """Check a dense tensor of real floating-point numbers."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(x).__name__}")
    if x.dtype in DTYPES and x.layout == torch.strided:
        return
    if x.layout != torch.strided or x.is_quantized:
        kind = "quantised" if x.is_quantized else str(x.layout)
        raise TypeError(f"{name} must be a dense tensor, got a {kind} one")
    raise TypeError(f"{name} must be float32, float64, float16 or bfloat16, got {x.dtype}")


_shape, _dtype, _layout = attrgetter("shape"), attrgetter("dtype"), attrgetter("layout")
_device, _requires_grad = attrgetter("device"), attrgetter("requires_grad")


def uniform(params: Sequence[Any], base: Sequence[Any]) -> bool:
    """Return whether lists are of the common kind, which needs no check of each tensor.

    That is: ordinary, dense, contiguous tensors of `FLOAT32` on one device, each of its base's
    shape, and a base that requires no gradient, or none at all. Each property is compared over all
    tensors in one loop in C, which takes less than a microsecond for each pair. If the answer is
    False, `tensor_lists.pair_with_base` looks at each tensor and names one that is not allowed.
    """
    if torch.compiler.is_compiling():  # its tracer cannot follow these loops
        return False
    both = (*params, *base)
    return (
        ORDINARY.issuperset(map(type, both))
        and set(map(_layout, both)) == {torch.strided}
        and FLOAT32.issuperset(map(_dtype, both))
        and len(set(map(_device, both))) == 1
        and not any(map(_requires_grad, base))
        and (not base or list(map(_shape, params)) == list(map(_shape, base)))
        and all(map(Tensor.is_contiguous, both))
    )


def result_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype in which functions of x are computed and returned."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def latents(x: Any, name: str = "x") -> int:
    """Check a batch (B, *latent) of floating-point samples; return D, the numbers per sample."""
    floating(name, x)
    shape = x.shape
    if len(shape) < 2:
        raise ValueError(
            f"{name} must have shape (B, *latent) with at least two dimensions, got "
            f"{tuple(shape)}; write {name}[None] for a single sample"
        )
    dimension = math.prod(shape[1:])
    if dimension == 0:
        raise ValueError(f"{name} must have at least one number per sample, got {tuple(shape)}")
    if dimension > MAX_DIMENSION:
        raise ValueError(f"{name} must have at most 2**31 numbers per sample, got {dimension}")
    return dimension


def orders(value: Any) -> list[int]:
    """Check a non-empty set of moment orders within 1..8, and return it as a list."""
    if isinstance(value, (str, bytes)) or not iterable(value):
        raise ValueError(f"orders must be a sequence of integers, got {value!r}")
    result = list(value)
    for n in result:
        if not _is_int(n) or not 1 <= n <= MAX_ORDER:
            raise ValueError(f"orders must be integers within 1..{MAX_ORDER}, got {value!r}")
    result = [int(n) for n in (sorted(result) if isinstance(value, (set, frozenset)) else result)]
    if not result or len(set(result)) != len(result):
        raise ValueError(f"orders must be non-empty and without repetition, got {value!r}")
    return result


def integer(name: str, value: Any, minimum: int = 1, maximum: float = math.inf) -> int:
    """Check an integer of at least `minimum` and at most `maximum`, and return it as an int."""
    if not _is_int(value) or value < minimum:
        raise ValueError(f"{name} must be an integer of at least {minimum}, got {value!r}")
    if value > maximum:
        raise ValueError(f"{name} must be an integer of at most {maximum}, got {value!r}")
    return int(value)


def dtype(name: str, value: Any) -> torch.dtype:
    """Check a floating-point dtype, and return it."""
    if not isinstance(value, torch.dtype) or value not in DTYPES:
        raise TypeError(f"{name} must be float32, float64, float16 or bfloat16, got {value!r}")
    return value


def as_float(value: Any) -> float:
    """Return a number as a float, inf if it is too large for one."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _number(name: str, value: Any) -> float:
    if not isinstance(value, (int, float, Real)) or isinstance(value, bool):
        raise ValueError(f"{name} must be a number, got {value!r}")
    return as_float(value)


def weight(name: str, value: Any) -> float:
    """Check a finite number of at least 0, and return it as a float."""
    number = _number(name, value)
    if not 0 <= number < math.inf:  # NaN fails too; torch.compile cannot trace math.isfinite
        raise ValueError(f"{name} must be finite and at least 0, got {value!r}")
    return number


def spectrum(block_size: Any, statistic: Any, target: Any = "exact") -> int:
    """Check the options of the power spectrum, and return the block size."""
    size = integer("block_size", block_size)
    one_of("statistic", statistic, STATISTICS)
    one_of("target", target, TARGETS)
    if target == "mpgr" and statistic == "power":
        raise ValueError(
            "target='mpgr' (0.875) is a mean amplitude and needs statistic='amplitude', got 'power'"
        )
    return size


def long_enough(dimension: int, block_size: int) -> None:
    """Check that a sample fills at least one block of the compact spectrum."""
    if dimension < 2 * block_size:
        raise ValueError(
            f"x must have at least 2 * block_size = {2 * block_size} numbers per sample for the "
            f"power spectrum, got {dimension}"
        )


def seed(value: Any, generator: Any, device: torch.device) -> None:
    """Check `seed=` and `generator=`: at most one of them, on the device of x."""
    if value is not None and generator is not None:
        raise ValueError("seed and generator exclude each other, got both")
    if isinstance(value, Tensor):
        if value.dtype != torch.int64 or value.numel() != 1:
            raise ValueError(
                f"seed must be an int or an int64 tensor with one element, got "
                f"{value.dtype} of shape {tuple(value.shape)}"
            )
        if value.device != device:
            raise ValueError(f"seed must be on the device of x, {device}, got {value.device}")
    elif value is not None:
        if not _is_int(value):
            raise TypeError(f"seed must be an int or an int64 tensor, got {type(value).__name__}")
        if not -(2**63) <= int(value) < 2**63:
            raise ValueError(f"seed must fit into 64 signed bits, got {value}")
    if generator is not None:
        if not isinstance(generator, torch.Generator):
            raise TypeError(f"generator must be a torch.Generator, got {type(generator).__name__}")
        if generator.device.type != device.type:
            raise ValueError(
                f"generator must be on the device of x, {device}, got {generator.device}"
            )


def permutation(value: Any, x: Tensor, dimension: int) -> None:
    """Check `permutation=`: a mode, or an int tensor (D,) or (B, D) on the device of x.

    Whether its entries are a permutation is checked later, by `bijection`, when they are read.
    """
    if isinstance(value, Tensor):
        if value.dtype not in INTEGERS:
            raise TypeError(f"permutation must have an integer dtype, got {value.dtype}")
        if value.device != x.device:
            raise ValueError(
                f"permutation must be on the device of x, {x.device}, got {value.device}"
            )
        allowed = ((dimension,), (x.shape[0], dimension))
        if tuple(value.shape) not in allowed:
            raise ValueError(
                f"permutation must have shape {allowed[0]} or {allowed[1]}, got "
                f"{tuple(value.shape)}"
            )
    else:
        if not isinstance(value, str) or value not in PERMUTATIONS:
            raise ValueError(
                f"permutation must be one of {', '.join(map(repr, PERMUTATIONS))} or an int "
                f"tensor, got {value!r}"
            )


def bijection(index: Tensor) -> None:
    """Check that every row of an explicit permutation holds each of 0..D-1 once."""
    size = index.shape[-1]
    if index.numel() == 0:
        return
    low, high = index.min().item(), index.max().item()
    if low < 0 or high >= size:
        raise ValueError(f"permutation must hold 0..{size - 1}, got values {low}..{high}")
    seen = torch.zeros(index.shape, dtype=torch.bool, device=index.device)
    seen.scatter_(-1, index.long(), True)
    if not bool(seen.all()):
        missing = (~seen).nonzero()[0, -1].item()
        raise ValueError(
            f"permutation must hold each of 0..{size - 1} once, got duplicates ({missing} is "
            f"missing)"
        )


def device(name: str, value: Any) -> torch.device:
    """Check a device, its name or a GPU's index, and return the device, which can be used here."""
    if not isinstance(value, (str, torch.device)) and not _is_int(value):
        raise TypeError(f"{name} must be a torch.device, a name or an index, got {value!r}")
    try:
        found = torch.device(value)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{name} must be a device of torch, got {value!r}: {error}") from None
    if found.type != "cpu":
        try:  # a build of torch without CUDA raises an AssertionError
            torch.empty(0, dtype=torch.float32, device=found)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).partition("\n")[0]
            raise RuntimeError(f"{name} {str(found)!r} cannot be used here: {reason}") from None
    return found


def strictly_between(name: str, value: Any, low: float, high: float) -> float:
    """Check a number low < value < high, and return it as a float; high may be infinite."""
    number = _number(name, value)
    if not low < number < high:
        raise ValueError(f"{name} must be above {low:g} and below {high:g}, got {value!r}")
    return number


def within(name: str, value: Any, low: float, high: float) -> float:
    """Check a number low < value <= high, and return it as a float."""
    number = _number(name, value)
    if not low < number <= high:
        raise ValueError(f"{name} must be above {low:g} and at most {high:g}, got {value!r}")
    return number
