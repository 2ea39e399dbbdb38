"""Latent optimisation: models, rewards, guards, the loop, run folders; `gaussreg_fast[latent]`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gaussreg_fast.latent.config import RunConfig, resolve
    from gaussreg_fast.latent.errors import InputError
    from gaussreg_fast.latent.guards import Guard
    from gaussreg_fast.latent.loop import Batch, Problem, Record, Sample
    from gaussreg_fast.latent.models import load_model
    from gaussreg_fast.latent.rewards import load_reward
    from gaussreg_fast.latent.run import RunResult, optimize

# Loaded when asked for: diffusers and transformers take seconds, and are not always there.
_HOME = {
    "Batch": "loop",
    "Guard": "guards",
    "InputError": "errors",
    "Problem": "loop",
    "Record": "loop",
    "RunConfig": "config",
    "RunResult": "run",
    "Sample": "loop",
    "load_model": "models",
    "load_reward": "rewards",
    "optimize": "run",
    "resolve": "config",
}
__all__ = [
    "Batch",
    "Guard",
    "InputError",
    "Problem",
    "Record",
    "RunConfig",
    "RunResult",
    "Sample",
    "load_model",
    "load_reward",
    "optimize",
    "resolve",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
