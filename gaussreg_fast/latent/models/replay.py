"""Pipelines that remember their text embeddings.

A pipeline's `__call__` encodes its prompts and then denoises. Here the two are parted without
copying either: a call that stops at the denoiser records what `encode_prompt` gave, and later calls
get the recording. It is the pipeline's own code that runs, of whatever family and version.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


class _Stop(Exception):
    """Ends a pipeline's call when the denoiser's turn comes."""


class Replay:
    """Mixed into a pipeline's class, before it: see `replaying`."""

    run_device: torch.device
    _recording: list[Any] | None = None
    _replayed: Iterator[Any] | None = None

    @property
    def _execution_device(self) -> torch.device:
        # diffusers takes it from where the weights are, which offloading changes.
        return self.run_device

    def encode_prompt(self, *args: Any, **kwargs: Any) -> Any:
        """The pipeline's own, or what it gave when it was recorded."""
        if self._replayed is not None:
            return next(self._replayed)
        encoded = super().encode_prompt(*args, **kwargs)  # type: ignore[misc]
        if self._recording is not None:
            self._recording.append(encoded)
        return encoded

    def record(self, denoiser: torch.nn.Module, **kwargs: Any) -> list[Any]:
        """What `encode_prompt` gave in a call with `kwargs`, which stops at the denoiser."""

        def stop(*_: Any) -> None:
            raise _Stop

        handle = denoiser.register_forward_pre_hook(stop)
        self._recording = []
        try:
            with torch.inference_mode(False), torch.no_grad():
                self(**kwargs)  # type: ignore[operator]
        except _Stop:
            return self._recording
        finally:
            handle.remove()
            self._recording = None
        raise RuntimeError(f"{type(self).__name__} made an image without its denoiser")

    def replay(self, recording: list[Any], **kwargs: Any) -> Any:
        """A call with gradients, beneath the no_grad of `__call__`."""
        with self._replaying(recording):
            return inspect.unwrap(type(self).__call__)(self, **kwargs)

    @contextmanager
    def _replaying(self, recording: list[Any]) -> Iterator[None]:
        self._replayed = iter(recording)
        try:
            yield
        finally:
            self._replayed = None


def replaying(pipeline_class: type) -> Any:
    """A subclass of the same name, to be loaded in its place, which can record and replay."""
    return type(
        pipeline_class.__name__,
        (Replay, pipeline_class),
        {"__module__": pipeline_class.__module__, "__doc__": pipeline_class.__doc__},
    )
