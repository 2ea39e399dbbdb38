"""A user's own reward, given as `module:function`."""

from __future__ import annotations

import importlib
import inspect
import os
import pkgutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import reduce
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from gaussreg_fast.errors import InputError, first_line
from gaussreg_fast.latent.rewards.batch import check_batch, result


class UserReward:
    """A user's differentiable function of images and prompts, its result checked at each call.

    Args:
        name: the reward's name, for errors.
        function: images (B, 3, H, W) in [0, 1] and B prompts -> (B,), floating.
    """

    def __init__(self, name: str, function: Callable[[Tensor, Sequence[str]], Tensor]) -> None:
        self.name, self._function = name, function

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Score images (B, 3, H, W) in [0, 1] under B prompts: (B,).

        Raises:
            InputError: the result is no floating tensor of shape (B,), or does not depend on the
                images although they require a gradient.
        """
        check_batch(images, prompts)
        scores = self._function(images, prompts)
        wanted = f"must return a floating tensor of shape ({images.shape[0]},)"
        if not isinstance(scores, Tensor):
            raise InputError(f"reward {self.name!r} {wanted}, got {type(scores).__name__}")
        if not scores.is_floating_point() or scores.shape != images.shape[:1]:
            got = f"{scores.dtype} of shape {tuple(scores.shape)}"
            raise InputError(f"reward {self.name!r} {wanted}, got {got}")
        if images.requires_grad and torch.is_grad_enabled() and not scores.requires_grad:
            raise InputError(
                f"reward {self.name!r}: the result has no gradient with respect to the images; "
                f"compute it from them with torch, without detach(), no_grad() or NumPy"
            )
        return result(scores, images)


def load_user(name: str) -> UserReward:
    """Import `module:function`, with the current directory on the path.

    Raises:
        InputError: the module cannot be imported or has no such attribute, or the attribute
            cannot be called with two positional arguments.
    """
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        raise InputError(f"reward must be module:function, got {name!r}")
    module = _import(name, module_name)
    try:
        function: Any = reduce(getattr, attribute.split("."), module)
    except AttributeError:
        raise InputError(
            f"reward {name!r}: module {module_name!r} has no {attribute!r}{_candidates(module)}"
        ) from None
    _check_callable(name, function)
    return UserReward(name, function)


def _import(name: str, module: str) -> ModuleType:
    try:
        with _current_directory_on_path():
            imported: ModuleType = pkgutil.resolve_name(f"{module}:")
            return imported
    except Exception as error:  # an invalid name, or any error of the user's module
        if isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}."):
            raise InputError(
                f"reward {name!r}: no module named {module!r}, looked for in {os.getcwd()} and "
                f"on the Python path"
            ) from error
        raise InputError(
            f"reward {name!r}: importing {module!r} failed with {type(error).__name__}: "
            f"{first_line(error)}"
        ) from error


@contextmanager
def _current_directory_on_path() -> Iterator[None]:
    """Put the current directory on the path: `python -m` does, an installed command does not."""
    before = list(sys.path)
    sys.path.insert(0, os.getcwd())
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path[:] = before


def _candidates(module: ModuleType) -> str:
    names = [n for n, v in vars(module).items() if inspect.isfunction(v) and not n.startswith("_")]
    return f", it has {', '.join(sorted(names))}" if names else ""


def _check_callable(name: str, function: Any) -> None:
    if not callable(function) or inspect.isclass(function):
        got = "a class" if inspect.isclass(function) else f"type {type(function).__name__}"
        raise InputError(f"reward {name!r} must be a function or a callable object, got {got}")
    if inspect.iscoroutinefunction(function):
        raise InputError(f"reward {name!r} must be an ordinary function, got an async one")
    try:
        signature = inspect.signature(function)
    except ValueError:  # some built-in functions have none
        return
    try:
        signature.bind("images", "prompts")
    except TypeError as error:
        raise InputError(
            f"reward {name!r} must be callable as function(images, prompts), got the signature "
            f"{signature}"
        ) from error
