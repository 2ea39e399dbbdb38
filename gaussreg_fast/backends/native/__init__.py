"""The backend of the compiled CPU module. `load` loads the module, or says why it cannot."""

from gaussreg_fast.backends.native._drift import drift, uniform
from gaussreg_fast.backends.native._module import load, module
from gaussreg_fast.backends.native._path_kl import path_kl, path_kl_pullback
from gaussreg_fast.backends.native._samples import (
    call_cache,
    keep,
    loss,
    permutation,
    prepare,
    project,
    pullback,
    statistics,
)

__all__ = [
    "call_cache",
    "drift",
    "keep",
    "load",
    "loss",
    "module",
    "path_kl",
    "path_kl_pullback",
    "permutation",
    "prepare",
    "project",
    "pullback",
    "statistics",
    "uniform",
]
