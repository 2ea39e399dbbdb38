"""Three backends with one interface: kernels for GPUs, kernels for CPUs, and plain torch.

    choose(backend, x).loss(x, draw, spec, gradient=dtype)

`torch.py`, `native/` and `triton/launch.py` have the same functions with the same keywords: loss,
statistics, pullback, project, path_kl, path_kl_pullback, permutation, drift. Each call of an
operator chooses one of them. They do not repeat the checks of the public functions, and they never
get an empty batch.

The kernels compute in float32. For float64, "auto" takes torch, and "native" or "triton" raise an
error. Lists of tensors for drift may mix types and layouts: torch computes the float64 tensors of
"auto", and those whose layout a kernel does not take.

Modules:
    choice     which backends can run here; `choose`, the only place where a backend is chosen
    lists      drift of lists: the kernels for the tensors that they take, torch for the rest
    torch      the reference, for every device and type
    native/    the compiled CPU module, loaded at its first use
    triton/    `launch` imports Triton's kernels, and is imported at its first use; `parameters`,
               the launch parameters, can be imported without triton
"""

from gaussreg_fast.backends.choice import (
    backends,
    choose,
    require,
    require_for_lists,
    require_here,
)

__all__ = ["backends", "choose", "require", "require_for_lists", "require_here"]
