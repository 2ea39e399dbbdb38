"""Latent optimisation: models, rewards, guards, the loop, run folders; `gaussreg_fast[latent]`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gaussreg_fast.errors import InputError
    from gaussreg_fast.latent.config import resolve
    from gaussreg_fast.latent.guards import Guard
    from gaussreg_fast.latent.loop import Batch
    from gaussreg_fast.latent.models import load_model
    from gaussreg_fast.latent.problem import Problem, Record, Sample
    from gaussreg_fast.latent.rewards import load_reward
    from gaussreg_fast.latent.run import RunResult, optimize
    from gaussreg_fast.latent.settings import RunConfig

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
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Imported late, because `gaussreg-fast check` runs without the packages that these need.
    from gaussreg_fast import errors
    from gaussreg_fast.latent import config, guards, loop, models, problem, rewards, run, settings

    homes = (run, config, settings, errors, guards, loop, problem, models, rewards)
    return next(getattr(home, name) for home in homes if hasattr(home, name))
