"""The date, versions of packages and properties of this machine, recorded beside a result."""

from __future__ import annotations

import platform
from datetime import datetime, timezone
from importlib import metadata
from typing import Any

import torch

from gaussreg_fast import __version__


def versions(*packages: str) -> dict[str, str]:
    """Return the versions of this package, of Python and of the installed ones of `packages`."""
    found = {"gaussreg_fast": __version__, "python": platform.python_version()}
    for package in packages:
        if distribution := _distribution(package):
            found[package] = metadata.version(distribution)
    return found


def _distribution(package: str) -> str | None:
    """Return the name of the distribution that a package is in; None if it is not installed."""
    try:
        return metadata.distribution(package).name
    except metadata.PackageNotFoundError:  # another name, as of Triton for ROCm
        owners = metadata.packages_distributions().get(package, [])
        return owners[0] if owners else None


def today() -> str:
    """Return the date, in UTC, as year-month-day."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%d")


def machine() -> dict[str, Any]:
    """Return the processor's architecture, torch's threads, and the GPU's name or None."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"cpu": platform.machine(), "threads": torch.get_num_threads(), "gpu": gpu}
