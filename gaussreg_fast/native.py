"""The compiled CPU module, loaded at its first use: importing the package loads no .so."""

from __future__ import annotations

import dataclasses
import functools
import importlib
from collections.abc import Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

# Elements of a piece of a batch in the general path, if it has a sample for every thread: what
# stays in the cache.
_CHUNK = 1 << 19


@functools.cache
def load() -> tuple[ModuleType | None, str]:
    """The module and "available", or None and the reason why it is not there."""
    try:
        return importlib.import_module("gaussreg_fast._native"), "available"
    except ImportError as error:
        note = Path(__file__).with_name("_native_missing.txt")
        if note.exists():
            return None, note.read_text(encoding="utf-8").strip()
        return None, f"the compiled module cannot be loaded: {error}"


def module() -> ModuleType:
    """The module; a RuntimeError with the reason where it is missing."""
    native, reason = load()
    if native is None:
        raise RuntimeError(f"backend 'native' cannot run here: {reason}")
    return native


def permutation(
    seed: int, size: int, *, samples: int | None = None, inverse: bool = False
) -> Tensor:
    """`reference.permutation` on the CPU: (size,), or (samples, size) int64."""
    out = _draw(seed, 0, 1 if samples is None else samples, size, inverse, torch.int64)
    return out[0] if samples is None else out


def _draw(
    seed: int, first: int, samples: int, size: int, inverse: bool, dtype: torch.dtype
) -> Tensor:
    """The permutations (samples, size) of a seed, from sample `first` on, as int64 or int32."""
    fill = module().permutation if dtype == torch.int64 else module().table
    # The device by name: torch.set_default_device must not reach what C++ writes to.
    out = torch.empty((samples, size), dtype=dtype, device="cpu")
    fill(seed, first, samples, size, inverse, out.data_ptr(), torch.get_num_threads())
    return out


@dataclasses.dataclass(slots=True)
class Permutation:
    """A seed (one permutation shared by the batch, or one per sample), an index, or none."""

    seed: int | None = None
    index: Tensor | None = None  # (D,) or (B, D), int64, validated, nobody else's
    per_sample: bool = False


def loss(
    x: Tensor,
    permutation: Permutation,
    *,
    orders: Sequence[int],
    form: str,
    power_weight: float,
    block_size: int,
    target: float,
    statistic: str,
    gradient: torch.dtype | None,
    scale: float = 1.0,
    scalar: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """`reference.loss_and_gradient` of a batch x (B, *latent): (B,) and, in a type, x's shape.

    The gradient comes multiplied by `scale`. With `scalar` the loss of a batch of one has the
    shape (): made so, for at B = 1 a view costs as much as some kernels.
    """
    x = _rows(x)
    value = x.new_empty(() if scalar else x.shape[0])
    grad = None if gradient is None else torch.empty_like(x)
    power = statistic == "power"
    quick = None
    if permutation.index is None and _EXCHANGE is not None:
        quick = _loss_of(form, power_weight, block_size, target, power, *orders)
    if not quick or not quick(
        x, value, grad, permutation.seed, permutation.per_sample, scale, torch.get_num_threads()
    ):
        _run(
            "loss", x, permutation, {"loss": value, "grad": grad}, orders=orders, form=form,
            power_weight=power_weight, block_size=block_size, target=target, power=power,
            scale=scale,
        )  # fmt: skip
    return value, grad if grad is None or gradient == torch.float32 else grad.to(gradient)


@functools.lru_cache(maxsize=64)
def _loss_of(
    form: str, power_weight: float, block_size: int, target: float, power: bool, *orders: int
) -> Any:
    """A loss that C++ computes of tensors, if they are plain and of a size that it transforms."""
    options = form, power_weight, block_size, target, power
    return module().Loss(_EXCHANGE, _TYPES, *options, orders)


def statistics(
    x: Tensor, permutation: Permutation, *, orders: Sequence[int], block_size: int, statistic: str
) -> tuple[Tensor, Tensor]:
    """Moments (B, K) and block amplitudes (B, P) of a batch x (B, *latent)."""
    x = _rows(x)
    batch = x.shape[0]
    moments = x.new_empty(batch, len(orders))
    amplitudes = x.new_empty(batch, -(-(x.numel() // batch // 2) // block_size))
    results: dict[str, Tensor | None] = {"moments": moments, "amplitudes": amplitudes}
    power = statistic == "power"
    _run("statistics", x, permutation, results, orders=orders, block_size=block_size, power=power)
    return moments, amplitudes


def pullback(
    x: Tensor,
    permutation: Permutation,
    grad_m: Tensor,
    grad_a: Tensor,
    *,
    orders: Sequence[int],
    block_size: int,
    statistic: str,
) -> Tensor:
    """The gradient by x for upstream gradients (B, K) and (B, P), in x's shape and dtype."""
    rows = _rows(x)
    blocks = -(-(x[0].numel() // 2) // block_size) if block_size > 0 else 0
    for name, v, width in (("grad_m", grad_m, len(orders)), ("grad_a", grad_a, blocks)):
        if tuple(v.shape) != (x.shape[0], width):
            raise ValueError(f"{name} must be {(x.shape[0], width)}, got {tuple(v.shape)}")
    grad = torch.empty_like(rows)
    tensors = {
        "grad": grad,
        "grad_moments": grad_m.to(torch.float32).contiguous(),
        "grad_amplitudes": grad_a.to(torch.float32).contiguous(),
    }
    power = statistic == "power"
    _run("pullback", rows, permutation, tensors, orders=orders, block_size=block_size, power=power)
    return grad.to(x.dtype)


def project_white_noise(x: Tensor, block_size: int) -> Tensor:
    """The projection of a batch x, in its shape and dtype."""
    rows = _rows(x)
    out = torch.empty_like(rows)
    _run("project", rows, Permutation(), {"grad": out}, orders=(), block_size=block_size)
    return out.to(x.dtype)


def path_kl(
    dmu: Tensor,
    sigma: Tensor,
    *,
    kl: Tensor | None = None,
    costs: Tensor | None = None,
    upstream: Tensor | None = None,
    gradient: bool,
) -> Tensor | None:
    """Fills kl (B,) and costs (T, B), float32, if given, for dmu (T, B, *shape).

    With `gradient` returns that of the values' sum, or for upstream gradients (B,), like dmu.
    """
    rows = _rows(dmu)
    steps, batch = rows.shape[:2]
    shape = tuple(sigma.shape)
    if shape not in ((steps, 1), (steps, batch)):
        raise ValueError(f"sigma must be {(steps, 1)} or {(steps, batch)}, got {shape}")
    if upstream is not None and tuple(upstream.shape) != (batch,):
        raise ValueError(f"upstream must be {(batch,)}, got {tuple(upstream.shape)}")
    size = rows.numel() // (steps * batch)
    grad = torch.empty_like(rows) if gradient else None
    tensors = {
        "dmu": rows,
        "sigma": _rows(sigma),
        "upstream": None if upstream is None else _rows(upstream),
        "kl": kl,
        "costs": costs,
        "grad": grad,
    }
    if not rows.data_ptr() or not tensors["sigma"].data_ptr():  # type: ignore[union-attr]
        raise RuntimeError("dmu or sigma has no memory (a fake tensor, or its storage was freed)")
    addresses = {name: 0 if v is None else v.data_ptr() for name, v in tensors.items()}
    module().path_kl(
        steps, batch, size, **addresses, per_sample=shape[1] == batch,
        threads=torch.get_num_threads(),
    )  # fmt: skip
    return grad if grad is None else grad.to(dmu.dtype)


# Types of numbers that the drift kernels read and write, and their names in C++; 0 is no base.
DRIFT_NUMBERS = {torch.float32: 1, torch.bfloat16: 2, torch.float16: 3}
_dtype, _requires_grad = attrgetter("dtype"), attrgetter("requires_grad")

# How C++ reads tensors itself: DLPack's exchange API, of tensors that are no more than that.
_EXCHANGE = getattr(Tensor, "__dlpack_c_exchange_api__", None)
_TYPES = (Tensor, torch.nn.Parameter)


def plain(params: Sequence[Any], base: Sequence[Any]) -> bool:
    """`checks.plain` of lists of tensors in CPU memory, in a fraction of its time.

    False for others, and where the module or DLPack's exchange API is missing.
    """
    if torch.compiler.is_compiling() or _EXCHANGE is None or (native := load()[0]) is None:
        return False
    fits = native.fit(_EXCHANGE, _TYPES, list(params), list(base))
    return fits and not any(map(_requires_grad, base))


def drift(
    task: str,
    params: Sequence[Tensor],
    base: Sequence[Tensor] | None,
    grads: Sequence[Tensor],
    scales: Sequence[float],
    step: float,
) -> float:
    """The sum of scale ||param - base||^2, and with scale * step * (param - base), in float32:

    "value" nothing, "gradient" written to grads, "accumulate" added to them, "decay" taken from
    params (no sum). Tensors in CPU memory, of `DRIFT_NUMBERS`, each like its base and its gradient
    in shape and strides, and dense; `base=None` stands for zeros.
    """
    threads = torch.get_num_threads()
    if _EXCHANGE is not None:
        lists = list(params), list(base or ()), list(grads)
        call = module().drift_tensors
        if (value := call(_EXCHANGE, _TYPES, task, *lists, scales, step, threads)) is not None:
            return value

    # Tensors that are dense in another order.
    def types(tensors: Sequence[Tensor]) -> list[int]:
        return [DRIFT_NUMBERS[dtype] for dtype in map(_dtype, tensors)]

    none = [0] * len(params)
    return module().drift(
        task,
        list(map(Tensor.data_ptr, params)),
        none if base is None else list(map(Tensor.data_ptr, base)),
        list(map(Tensor.data_ptr, grads)),
        list(map(Tensor.numel, params)),
        types(params),
        none if base is None else types(base),
        scales,
        step,
        threads,
    )


def _rows(x: Tensor) -> Tensor:
    """x as contiguous float32; x itself where it is that."""
    if x.storage_offset() and not x.untyped_storage().nbytes():  # its address is not 0
        raise RuntimeError("the storage of a tensor was freed")
    if x.dtype == torch.float32 and x.is_contiguous() and not x.is_neg():
        return x
    if not x.is_floating_point():
        raise TypeError(f"x must be of a floating-point type, got {x.dtype}")
    return x.detach().resolve_neg().to(torch.float32).contiguous()


def _run(
    task: str,
    x: Tensor,
    permutation: Permutation,
    tensors: Mapping[str, Tensor | None],
    **options: Any,
) -> None:
    """Has a task done, by the fused kernels where they take the size, else round torch.fft.

    `tensors` have a row per sample (or are the row): what is to be written, upstream gradients.
    """
    native = module()
    batch = x.shape[0]
    size = x.numel() // batch
    address = x.data_ptr()
    if not address:
        raise RuntimeError("x has no memory (a fake tensor, or its storage was freed)")
    _guard(task, batch, size, permutation.index, options)
    options["threads"] = torch.get_num_threads()
    seed, index, per_sample = permutation.seed, permutation.index, permutation.per_sample
    if index is not None:
        index, per_sample = index.contiguous(), index.dim() == 2
        options["index"] = index.data_ptr()
    elif seed is not None:
        options["seed"], options["seeded"] = seed, True
    options["per_sample"] = per_sample
    alone = task == "loss" and not options["power_weight"]
    if alone or native.has_plan(size):
        options |= {name: v.data_ptr() for name, v in tensors.items() if v is not None}
        job = native.Job(task, batch, size, address, **options)
        return job.moments_alone() if alone else job.fused()

    step = max(options["threads"], _CHUNK // size)
    table = None if per_sample else _table(seed, index, 0, 1, size)
    for start in range(0, batch, step):
        stop = min(batch, start + step)
        if per_sample:
            table = _table(seed, index, start, stop, size)
        rows = {name: v[start:] if start else v for name, v in tensors.items() if v is not None}
        options |= {name: v.data_ptr() for name, v in rows.items()}
        job = native.Job(task, stop - start, size, x[start:].data_ptr(), **options)
        _round_fft(job, table, stop - start, size, tensors.get("grad") is not None)


def _guard(task: str, batch: int, size: int, index: Tensor | None, options: Any) -> None:
    """Whatever an operator was called with, nothing but sound addresses reaches C++."""
    block_size = options["block_size"]
    if task != "loss" or options["power_weight"]:
        if not 1 <= block_size <= size // 2:
            raise ValueError(f"block_size must be within 1..D / 2 = {size // 2}, got {block_size}")
        if task == "project" and size % (2 * block_size):
            unit = 2 * block_size
            raise ValueError(f"D must be a multiple of 2 * block_size = {unit}, got {size}")
    if index is not None and tuple(index.shape) not in ((size,), (batch, size)):
        shape = tuple(index.shape)
        raise ValueError(f"permutation must be ({size},) or ({batch}, {size}), got {shape}")


def _table(
    seed: int | None, index: Tensor | None, start: int, stop: int, size: int
) -> Tensor | None:
    """The permutations of samples start..stop-1 as int32; one row, 0..1, where they share it."""
    if index is not None:
        return (index[start:stop] if index.dim() == 2 else index).to(torch.int32)
    if seed is None:
        return None
    return _draw(seed, start, stop - start, size, False, torch.int32)


def _round_fft(job: Any, table: Tensor | None, batch: int, size: int, gradient: bool) -> None:
    """The general path: any size, the transforms by torch.fft."""
    permuted = torch.empty((batch, size), dtype=torch.float32, device="cpu")
    means = torch.empty((batch, 8), dtype=torch.float64, device="cpu")
    at = 0 if table is None else table.data_ptr()
    job.gather(at, permuted.data_ptr(), means.data_ptr())
    spectra = torch.fft.rfft(permuted, norm="ortho")
    job.spectrum(spectra.data_ptr(), means.data_ptr())
    if gradient:
        permuted = torch.fft.irfft(spectra, n=size, norm="ortho")
        job.scatter(at, permuted.data_ptr(), means.data_ptr())
