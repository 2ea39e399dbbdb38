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
FLOAT32 = frozenset((torch.float32, torch.float16, torch.bfloat16))  # what is computed in float32
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.uint8, torch.int8)
MAX_ORDER = 8
MAX_DIMENSION = 2**31


def _is_int(value: Any) -> bool:
    """An int, or a NumPy one; not a bool."""
    return isinstance(value, (int, Integral)) and not isinstance(value, bool)


def one_of(name: str, value: Any, allowed: tuple[str, ...]) -> str:
    """A string argument with a fixed set of values."""
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")
    return value


def floating(name: str, x: Any) -> None:
    """A dense tensor of real floating-point numbers."""
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
    """Whether lists are what most are: ordinary, dense, contiguous tensors of `FLOAT32`, on one
    device, each like its base in shape, the base without gradient. No base is as good.

    It looks at one thing of all tensors after the other, in loops of C: less than a microsecond for
    each pair. Who it is that does not fit, and whether that matters, others find out.
    """
    if torch.compiler.is_compiling():  # whose tracer does not know such loops
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


def latents(x: Any, name: str = "x") -> int:
    """A batch (B, *latent) of real floating-point samples. Returns D, the numbers per sample."""
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
    """A non-empty set of moment orders within 1..8."""
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise ValueError(f"orders must be a sequence of integers, got {value!r}")
    result = sorted(value) if isinstance(value, (set, frozenset)) else list(value)
    for n in result:
        if not _is_int(n) or not 1 <= n <= MAX_ORDER:
            raise ValueError(f"orders must be integers within 1..{MAX_ORDER}, got {value!r}")
    result = [int(n) for n in result]
    if not result or len(set(result)) != len(result):
        raise ValueError(f"orders must be non-empty and without repetition, got {value!r}")
    return result


def integer(name: str, value: Any, minimum: int = 1) -> int:
    """An integer of at least `minimum`."""
    if not _is_int(value) or value < minimum:
        raise ValueError(f"{name} must be an integer of at least {minimum}, got {value!r}")
    return int(value)


def _float(value: Any) -> float:
    """A number as a float, inf where it is too large for one."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _number(name: str, value: Any) -> float:
    if not isinstance(value, (int, float, Real)) or isinstance(value, bool):
        raise ValueError(f"{name} must be a number, got {value!r}")
    return _float(value)


def weight(name: str, value: Any) -> float:
    """A finite number of at least 0."""
    number = _number(name, value)
    if not 0 <= number < math.inf:  # NaN fails too; torch.compile cannot trace math.isfinite
        raise ValueError(f"{name} must be finite and at least 0, got {value!r}")
    return number


def spectrum(block_size: Any, statistic: Any, target: Any = "exact") -> int:
    """The options of the power spectrum. Returns the block size."""
    size = integer("block_size", block_size)
    one_of("statistic", statistic, STATISTICS)
    one_of("target", target, TARGETS)
    if target == "mpgr" and statistic == "power":
        raise ValueError("target='mpgr' (0.875) is for statistic='amplitude', got 'power'")
    return size


def long_enough(dimension: int, block_size: int) -> None:
    """That a sample fills at least one block of the compact spectrum."""
    if dimension < 2 * block_size:
        raise ValueError(
            f"x must have at least 2 * block_size = {2 * block_size} numbers per sample for the "
            f"power spectrum, got {dimension}"
        )


def seed(value: Any, generator: Any, device: torch.device) -> None:
    """`seed=` and `generator=`: at most one of them, on the device of x."""
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
    """`permutation=`: a mode, or an int tensor (D,) or (B, D) on the device of x.

    That its entries are a permutation is checked where they are read (`bijection`).
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
    """That every row of an explicit permutation holds each of 0..D-1 once."""
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


# ---------------------------------------------------------------- paths and divergences


def positive(name: str, value: Tensor) -> None:
    """Finite numbers above 0, where they can be looked at; else they make inf or NaN later."""
    if not _torch_internals.readable(value) or value.numel() == 0:
        return
    if value.numel() <= 64:  # most schedules: faster than an operator
        each = value.detach().flatten().tolist()
        if all(0 < v < math.inf for v in each):
            return
    low, high = (v.item() for v in torch.aminmax(value.detach()))
    if not 0 < low <= high < math.inf:
        raise ValueError(
            f"{name} must be finite and above 0, got values from {low} to {high}: a step without "
            f"noise has no finite path KL"
        )


def path_kl(dmu: Any, sigma: Any) -> None:
    """dmu (T, B, *shape) and sigma (T,) or (T, B), floating-point, on one device."""
    floating("dmu", dmu)
    floating("sigma", sigma)
    if dmu.dim() < 2:
        raise ValueError(
            f"dmu must have shape (T, B, *shape) with at least two dimensions, got "
            f"{tuple(dmu.shape)}"
        )
    if dmu.device != sigma.device:
        raise ValueError(f"sigma must be on the device of dmu, {dmu.device}, got {sigma.device}")
    allowed = ((dmu.shape[0],), tuple(dmu.shape[:2]))
    if tuple(sigma.shape) not in allowed:
        raise ValueError(
            f"sigma must have shape {allowed[0]} or {allowed[1]} for dmu of shape "
            f"{tuple(dmu.shape)}, got {tuple(sigma.shape)}"
        )


def schedule(
    name: str, value: Any, low: float, high: float, why: str = "", *, closed: bool = False
) -> None:
    """A number or a tensor of a sampler's schedule, all of it finite and low < value <= high.

    closed: low itself, too. `why` is added to what is said of a value that is below that.
    """
    if isinstance(value, Tensor):
        floating(name, value)
        if not _torch_internals.readable(value) or value.numel() == 0:
            return
        ends = [v.item() for v in torch.aminmax(value.detach())]
    elif isinstance(value, (int, float, Real)) and not isinstance(value, bool):
        ends = [_float(value)]
    else:
        raise TypeError(f"{name} must be a number or a torch.Tensor, got {type(value).__name__}")
    for end in ends:
        below = end < low if closed else end <= low
        if below or not (end <= high and end < math.inf):
            least = "at least" if closed else "above"
            most = f" and at most {high:g}" if high < math.inf else " and finite"
            reason = why if below else ""
            raise ValueError(f"{name} must be {least} {low:g}{most}, got {end}{reason}")


def rewards(reward: Any, group: Any) -> None:
    """reward (N,), floating-point, and group None or an int tensor (N,) on its device."""
    floating("reward", reward)
    if reward.dim() != 1:
        raise ValueError(f"reward must have shape (N,), got {tuple(reward.shape)}")
    if group is None:
        return
    if not isinstance(group, Tensor):
        raise TypeError(f"group must be None or a torch.Tensor, got {type(group).__name__}")
    if group.dtype not in INTEGERS:
        raise TypeError(f"group must have an integer dtype, got {group.dtype}")
    if group.shape != reward.shape:
        raise ValueError(
            f"group must have the shape of reward, {tuple(reward.shape)}, got {tuple(group.shape)}"
        )
    if group.device != reward.device:
        raise ValueError(
            f"group must be on the device of reward, {reward.device}, got {group.device}"
        )


def strictly_between(name: str, value: Any, low: float, high: float) -> float:
    """A number low < value < high; high may be infinite."""
    number = _number(name, value)
    if not low < number < high:
        raise ValueError(f"{name} must be above {low:g} and below {high:g}, got {value!r}")
    return number


def within(name: str, value: Any, low: float, high: float) -> float:
    """A number low < value <= high."""
    number = _number(name, value)
    if not low < number <= high:
        raise ValueError(f"{name} must be above {low:g} and at most {high:g}, got {value!r}")
    return number
