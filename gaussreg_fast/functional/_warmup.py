"""Calls made ahead, so that the first real one is as fast as the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from gaussreg_fast import _ambient, checks
from gaussreg_fast.functional._losses import gaussianity_loss


def warmup(
    shape: Sequence[int],
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | int | None = None,
    *,
    function: Callable[..., Any] = gaussianity_loss,
    backward: bool = True,
    **options: Any,
) -> None:
    """Make what the first call of a loss makes: compiled kernels and tables.

    On a GPU the first call with a dtype, a D and options compiles its kernels, which takes seconds
    each unless an earlier process left them in Triton's cache. Call this before a loop that is
    timed, and before the capture of a CUDA graph:

        warmup((8, 4, 64, 64), torch.bfloat16, "cuda")

    The function is called once, on zeros, so that memory must suffice for x, its gradient and what
    the function needs. The state of torch's own generators is left as it was. A function under
    `torch.compile` is compiled, too.

    Args:
        shape: the shape of x, `(B, *latent)`. Samples of 65536 numbers and more have other kernels
            in batches of 1 to 3 than in larger ones, and samples whose D is no power of two have
            an FFT plan for each batch size. So prepare the last, smaller batch of a loader as well.
        dtype: the dtype of x.
        device: the device of x; None is torch's default device, the CPU unless it was changed.
        function: what is called with x and the options: a function of x, or a module.
        backward: call it with an x that requires gradients, and make these as well. With False the
            call for the value alone is prepared, which has kernels of its own (a validation loop),
            or a function without a gradient, such as `project_white_noise`.
        **options: the function's keyword arguments, as in the calls to come.

    Raises:
        RuntimeError: a CUDA graph is being captured, or device cannot be used here.
        TypeError, ValueError: an argument is of another type or out of range, or as the function
            does.
    """
    sizes = _check(shape, dtype, function, backward)
    if device is not None:
        device = checks.device("device", device)
    with _ambient.recordable(), torch.set_grad_enabled(backward):
        x = torch.empty(sizes, dtype=dtype, device=device)
        on_gpu = x.device.type == "cuda"
        if on_gpu and torch.cuda.is_current_stream_capturing():
            raise RuntimeError("warmup must be called before the capture of a CUDA graph begins")
        x.zero_().requires_grad_(backward)
        with torch.random.fork_rng([x.device] if on_gpu else []):
            sums = [t.sum() for t in _tensors(function(x, **options)) if t.requires_grad]
            if sums:
                torch.autograd.backward(sums)
        if on_gpu:
            torch.cuda.synchronize(x.device)


def _check(shape: Any, dtype: Any, function: Any, backward: Any) -> list[int]:
    """Check the arguments of `warmup` that are not the function's, and return the shape."""
    if isinstance(shape, (str, bytes)) or not checks.iterable(shape):
        raise TypeError(f"shape must be a sequence of integers, got {shape!r}")
    most = checks.MAX_DIMENSION
    sizes = [checks.integer(f"shape[{i}]", n, 0, most) for i, n in enumerate(shape)]
    checks.dtype("dtype", dtype)
    if not callable(function):
        raise TypeError(f"function must be a function or a module, got {function!r}")
    if not isinstance(backward, bool):
        raise TypeError(f"backward must be True or False, got {backward!r}")
    return sizes


def _tensors(result: Any) -> list[Tensor]:
    """Return the tensors of a result: of one, or of a tuple."""
    found = result if isinstance(result, tuple) else (result,)
    return [t for t in found if isinstance(t, Tensor)]
