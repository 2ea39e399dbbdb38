"""Three ways to compute, with one face: the kernels for GPUs, those for CPUs, and plain torch.

    choose(backend, x).loss(x, draw, spec, gradient=dtype)

`torch.py`, `native/` and `triton/launch.py` have the same functions with the same keywords: loss,
statistics, pullback, project, path_kl, path_kl_pullback, permutation, drift. An operator chooses
once. None of them validates what the public functions have checked, and none sees an empty batch.

The kernels compute in float32. "auto" leaves float64 to torch; a backend that is asked for by name
raises there instead, whichever it is. (Lists of tensors for drift may mix types: what a kernel does
not take is torch's.)

Modules, by import:
    choice     what can run here, `choose`: the only place where a backend is chosen
    torch      the reference, for every device and type
    native/    the compiled CPU module, loaded at its first use
    triton/    `launch` imports Triton's kernels and is itself imported where they are used;
               `parameters`, the launch parameters, can be read anywhere
"""

from gaussreg_fast.backends.choice import backends, choose, choose_for_lists, require

__all__ = ["backends", "choose", "choose_for_lists", "require"]
