"""Losses, statistics and the projection of batches on the CPU."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gaussreg_fast import checks
from gaussreg_fast.backends.native import _module
from gaussreg_fast.backends.native._module import float_rows, module, resolved
from gaussreg_fast.spec import Draw, LossSpec, StatisticsSpec

# Elements of a piece of a batch in the general route: 2 MiB of float32, which stays in the cache.
# A piece has at least one sample for every thread.
_CHUNK = 1 << 19


def permutation(
    seed: Tensor | int, size: int, *, samples: int | None = None, inverse: bool = False
) -> Tensor:
    """Return permutation v1 of a seed, int64: (size,), or (samples, size)."""
    out = _draw(int(seed), 0, samples or 1, size, inverse, torch.int64)
    return out[0] if samples is None else out


def _draw(
    seed: int, first: int, samples: int, size: int, inverse: bool, dtype: torch.dtype
) -> Tensor:
    """Return permutations (samples, size) of a seed, from sample `first` on, as int64 or int32."""
    fill = module().permutation if dtype == torch.int64 else module().table
    # The device is explicit, because C++ writes to it, whatever torch.set_default_device says.
    out = torch.empty((samples, size), dtype=dtype, device="cpu")
    fill(seed, first, samples, size, inverse, out.data_ptr(), torch.get_num_threads())
    return out


class _Permutation(NamedTuple):
    """A seed (one permutation shared by the batch, or one per sample), an index, or none."""

    seed: int | None = None
    table: Tensor | None = None  # (D,) or (B, D), int64, checked, a private copy
    per_sample: bool = False

    @staticmethod
    def of(draw: Draw) -> _Permutation:
        """Return the permutation of a draw; a table is checked."""
        if draw.table is None:
            return _Permutation(draw.number(), None, draw.per_sample)
        # A copy, so that no other thread can change it between the check and C++'s reads.
        table = draw.table.to(torch.int64, copy=True)
        if not draw.valid:
            checks.bijection(table)
        return _Permutation(table=table)


def loss(
    x: Tensor,
    draw: Draw,
    spec: LossSpec,
    *,
    gradient: torch.dtype | None,
    scale: float = 1.0,
) -> tuple[Tensor, Tensor | None]:
    """Return losses (B,) of x (B, *latent), and `scale` times their gradients by x.

    The gradients have the dtype `gradient`; if that is None, there are none. For a batch of one
    with a reduction the loss has shape () already: at B = 1 a view costs as much as some kernels.
    """
    batch = x.shape[0]
    shape = () if batch == 1 and spec.reduction != "none" else (batch,)
    value = torch.empty(shape, dtype=torch.float32, device="cpu")
    x = resolved(x)
    grad = None if gradient is None else torch.empty_like(x, dtype=gradient)
    permutation = None
    if draw.table is None and _module.EXCHANGE is not None:
        seed, per_sample = draw.number(), draw.per_sample
        if _loss_of(spec)(x, value, grad, seed, per_sample, scale, torch.get_num_threads()):
            return value, grad
        permutation = _Permutation(seed, None, per_sample)
    rows = float_rows(x)
    out = grad if grad is None or grad.dtype == torch.float32 else torch.empty_like(rows)
    _run(
        "loss", rows, permutation or _Permutation.of(draw), {"loss": value, "grad": out},
        orders=spec.orders, form=spec.form, power_weight=spec.power_weight,
        block_size=spec.block_size, target=spec.target, power_statistic=spec.statistic == "power",
        scale=scale,
    )  # fmt: skip
    return value, grad if grad is None or out is None or out is grad else grad.copy_(out)


def call_cache(record: Callable) -> Any:
    """Return a C++ object that takes calls which repeat an earlier one, or None without it.

    It gives `record` an x that requires grad, its loss and its gradient, and returns the result.
    """
    calls = _module.torch_calls()
    return None if calls is None else module().CallCache(calls, record)


def keep(cache: Any, options: tuple, draw: Draw, spec: LossSpec) -> None:
    """Let a cache take calls with these very options, which make this draw and this spec."""
    cache.keep(options, _loss_of(spec), draw.generator, draw.seeded, draw.per_sample)


def prepare(
    draw: Draw, spec: LossSpec, results: tuple[Tensor, Tensor], scale: float
) -> Callable | None:
    """Return a call that fills losses (B,), and `scale` times their gradients; None without it.

    `((x, seed, generator)) -> bool`: it refuses an x that it cannot compute, or that has another
    shape than the gradients; a seed that is None is drawn.
    """
    calls = _module.torch_calls()
    if calls is None or draw.table is not None:
        return None
    loss = _loss_of(spec)
    return module().Prepared(calls, loss, results, draw.seeded, draw.per_sample, scale).fill


@functools.lru_cache(maxsize=64)
def _loss_of(spec: LossSpec) -> Any:
    """Return the C++ object that computes this loss, of float32 tensors and sizes with a plan."""
    return module().Loss(
        _module.EXCHANGE, _module.TYPES, spec.form, spec.power_weight, spec.block_size,
        spec.target, spec.statistic == "power", spec.orders,
    )  # fmt: skip


def statistics(x: Tensor, draw: Draw, spec: StatisticsSpec) -> tuple[Tensor, Tensor]:
    """Return moments (B, K) and block amplitudes (B, P) of a batch x (B, *latent)."""
    permutation = _Permutation.of(draw)
    x = float_rows(x)
    batch = x.shape[0]
    moments = x.new_empty(batch, len(spec.orders))
    amplitudes = x.new_empty(batch, -(-(x.numel() // batch // 2) // spec.block_size))
    results: dict[str, Tensor | None] = {"moments": moments, "amplitudes": amplitudes}
    _run("statistics", x, permutation, results, **_options(spec))
    return moments, amplitudes


def _options(spec: StatisticsSpec) -> dict[str, Any]:
    """Return the options of statistics with C++'s names."""
    return {
        "orders": spec.orders,
        "block_size": spec.block_size,
        "power_statistic": spec.statistic == "power",
    }


def pullback(
    x: Tensor, draw: Draw, spec: StatisticsSpec, *, grad_moments: Tensor, grad_blocks: Tensor
) -> Tensor:
    """Return the gradient by x, in x's shape and dtype, for gradients by `statistics`'s results."""
    permutation = _Permutation.of(draw)
    rows = float_rows(x)
    blocks = -(-(x[0].numel() // 2) // spec.block_size) if spec.block_size > 0 else 0
    upstream = (("grad_m", grad_moments, len(spec.orders)), ("grad_a", grad_blocks, blocks))
    for name, v, width in upstream:
        if tuple(v.shape) != (x.shape[0], width):
            raise ValueError(
                f"{name} must be of shape {(x.shape[0], width)}, got shape {tuple(v.shape)}"
            )
    grad = torch.empty_like(rows)
    tensors = {
        "grad": grad,
        "grad_moments": grad_moments.to(torch.float32).contiguous(),
        "grad_amplitudes": grad_blocks.to(torch.float32).contiguous(),
    }
    _run("pullback", rows, permutation, tensors, **_options(spec))
    return grad.to(x.dtype)


def project(x: Tensor, *, block_size: int) -> Tensor:
    """Return the white-noise projection of x (B, *latent), in its shape and dtype."""
    rows = float_rows(x)
    out = torch.empty_like(rows)
    _run("project", rows, _Permutation(), {"grad": out}, orders=(), block_size=block_size)
    return out.to(x.dtype)


def _run(
    task: str,
    x: Tensor,
    permutation: _Permutation,
    tensors: Mapping[str, Tensor | None],
    **options: Any,
) -> None:
    """Run a task: by the fused kernels if they take the size, else with torch.fft.

    `tensors` are the results to write, and upstream gradients, with a row per sample each.
    """
    native = module()
    batch = x.shape[0]
    size = x.numel() // batch
    address = x.data_ptr()
    if not address:
        raise RuntimeError(
            "x must have memory, got one that has no memory: a fake tensor, or a tensor whose "
            "storage was freed"
        )
    _guard(task, batch, size, permutation.table, options)
    options["threads"] = torch.get_num_threads()
    seed, index, per_sample = permutation.seed, permutation.table, permutation.per_sample
    if index is not None:
        index, per_sample = index.contiguous(), index.dim() == 2
        options["index"] = index.data_ptr()
    elif seed is not None:
        options["seed"], options["seeded"] = seed, True
    options["per_sample"] = per_sample
    only_moments = task == "loss" and not options["power_weight"]
    if only_moments or native.has_plan(size):
        options |= {name: v.data_ptr() for name, v in tensors.items() if v is not None}
        request = native.Request(task, batch, size, address, **options)
        return request.moments_alone() if only_moments else request.fused()

    _run_general(
        task, x, permutation._replace(table=index, per_sample=per_sample), tensors, options
    )


def _run_general(
    task: str,
    x: Tensor,
    permutation: _Permutation,
    tensors: Mapping[str, Tensor | None],
    options: dict[str, Any],
) -> None:
    """Run a task in the general route, a piece of the batch at a time."""
    native = module()
    batch = x.shape[0]
    size = x.numel() // batch
    seed, index, per_sample = permutation
    step = max(options["threads"], _CHUNK // size)
    table = None if per_sample else _table(seed, index, 0, 1, size)
    for start in range(0, batch, step):
        stop = min(batch, start + step)
        if per_sample:
            table = _table(seed, index, start, stop, size)
        rows = {name: v[start:] if start else v for name, v in tensors.items() if v is not None}
        options |= {name: v.data_ptr() for name, v in rows.items()}
        request = native.Request(task, stop - start, size, x[start:].data_ptr(), **options)
        _transform(request, table, stop - start, size, tensors.get("grad") is not None)


def _guard(task: str, batch: int, size: int, index: Tensor | None, options: Any) -> None:
    """Check sizes once more: an operator can be called directly, and C++ trusts its addresses."""
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
    """Return the permutations of samples start..stop-1, int32; for a shared one pass 0 and 1."""
    if index is not None:
        return (index[start:stop] if index.dim() == 2 else index).to(torch.int32)
    if seed is None:
        return None
    return _draw(seed, start, stop - start, size, False, torch.int32)


def _transform(request: Any, table: Tensor | None, batch: int, size: int, gradient: bool) -> None:
    """Run a request of the general route: passes of kernels around the transforms of torch.fft."""
    permuted = torch.empty((batch, size), dtype=torch.float32, device="cpu")
    means = torch.empty((batch, 8), dtype=torch.float64, device="cpu")
    address = 0 if table is None else table.data_ptr()
    request.gather(address, permuted.data_ptr(), means.data_ptr())
    spectra = torch.fft.rfft(permuted, norm="ortho")
    request.spectrum(spectra.data_ptr(), means.data_ptr())
    if gradient:
        permuted = torch.fft.irfft(spectra, n=size, norm="ortho")
        request.scatter(address, permuted.data_ptr(), means.data_ptr())
