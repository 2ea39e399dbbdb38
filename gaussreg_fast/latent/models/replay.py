"""Pipelines that remember their text embeddings.

A pipeline's `__call__` encodes its prompts and then denoises. Here the two are separated without
copying either: a call that stops at the denoiser records the results of `encode_prompt`, and later
calls get the recording. So the pipeline's own code runs, whatever its family and version.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


class _Stop(Exception):
    """Ends a pipeline's call at its first call of the denoiser."""


class Replay:
    """A mixin that comes before a pipeline's class: see `replaying`."""

    run_device: torch.device
    _recording: list[Any] | None = None
    _replayed: Iterator[Any] | None = None

    @property
    def _execution_device(self) -> torch.device:
        # diffusers derives it from the place of the weights, which offloading changes.
        return self.run_device

    def encode_prompt(self, *args: Any, **kwargs: Any) -> Any:
        """Return the pipeline's own encoding, or the recorded one during a replay."""
        if self._replayed is not None:
            return next(self._replayed)
        encoded = super().encode_prompt(*args, **kwargs)  # type: ignore[misc]
        if self._recording is not None:
            self._recording.append(encoded)
        return encoded

    def record(self, denoiser: torch.nn.Module, **kwargs: Any) -> list[Any]:
        """Call the pipeline with `kwargs` up to the denoiser; return `encode_prompt`'s results."""

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
        raise RuntimeError(f"{type(self).__name__} made an image without calling its denoiser")

    def replay(self, recording: list[Any], **kwargs: Any) -> Any:
        """Call the pipeline with gradients, below the no_grad decorator of `__call__`."""
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
    """Return a subclass of the same name, to be loaded in its place, that records and replays."""
    return type(
        pipeline_class.__name__,
        (Replay, pipeline_class),
        {"__module__": pipeline_class.__module__, "__doc__": pipeline_class.__doc__},
    )
