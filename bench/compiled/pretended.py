"""A device that is not there: Triton's launch path runs to the driver, and this is the driver.

Launches end at a hook instead of a compilation (their parameters are all that is wanted), at a
function that executes them elsewhere (bench/simulator), or nowhere.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

# Architecture -> what Triton calls it, and the bytes of shared memory that a program may have.
ARCHS = {
    "sm_80": (("cuda", 80, 32), 163 * 1024),
    "sm_90": (("cuda", 90, 32), 227 * 1024),
    "sm_100": (("cuda", 100, 32), 227 * 1024),
    "gfx942": (("hip", "gfx942", 64), 64 * 1024),
}


@dataclass(frozen=True)
class Loaded:
    """A compiled kernel that a launch loads.

    Attributes:
        name: the kernel's.
        files: where Triton keeps what it compiled, by their endings.
        shared: bytes of shared memory.
    """

    name: str
    files: dict[str, Path]
    shared: int

    def text(self, ending: str) -> str:
        """A file in text form, "ptx" for example."""
        return self.files[ending].read_text(encoding="utf-8")


@dataclass(frozen=True)
class Call:
    """What a launch hands to the driver; `arguments` are those that the binary takes, by name.

    `source` is the file of the kernel's function: the compiled one may name another, since Triton
    keeps what it compiled for a checkout that has moved.
    """

    kernel: Loaded
    source: str
    grid: tuple[int, int, int]
    arguments: dict[str, Any]
    constants: dict[str, Any]


class Driver:
    """A GPU's driver, as far as a launch asks it."""

    def __init__(self, arch: str, execute: Callable[[Call], None] | None = None):
        from triton.backends.compiler import GPUTarget

        self.arch, self.target, self.execute = arch, GPUTarget(*ARCHS[arch][0]), execute
        self.launcher_cls = Launcher
        self.utils = SimpleNamespace(
            load_binary=self._load,
            get_device_properties=lambda device: {
                "max_shared_mem": ARCHS[arch][1],
                "multiprocessor_count": 1,
            },
        )
        self._files: dict[str, str] = {}

    def get_current_device(self) -> str:
        return self.arch

    def get_current_stream(self, device: str) -> int:
        return 0

    def get_current_target(self) -> Any:
        return self.target

    def get_benchmarker(self) -> Any:
        """What triton.autotune asks for."""
        raise RuntimeError("triton.autotune times its configurations: it needs a device")

    def announced(self, module: Any, function: Any, name: str, files: Any, key: str) -> None:
        """Triton's hook before a kernel is loaded: the driver itself is not told of its files."""
        self._files = dict(files)

    def _load(self, name: str, binary: bytes, shared: int, device: str) -> tuple[Any, ...]:
        """-> module, function, registers, spills, threads at most."""
        files = {Path(path).suffix.removeprefix("."): Path(path) for path in self._files.values()}
        return object(), Loaded(name, files, shared), 0, 0, 1024


class Launcher:
    """What Triton makes of a compiled kernel once; called for every launch of it."""

    def __init__(self, source: Any, metadata: Any):
        self.signature: dict[str, str] = dict(source.signature)
        self.source: str = source.fn.fn.__code__.co_filename

    def __call__(
        self, x: int, y: int, z: int, stream: int, function: Loaded, *rest: Any
    ) -> None:  # rest: packed metadata, launch metadata, two hooks, the arguments
        from triton.runtime import driver

        values = dict(zip(self.signature, rest[4:], strict=True))
        split: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
        for name, kind in self.signature.items():
            split[kind == "constexpr"][name] = values[name]
        if x * y * z == 0:
            return  # as Triton's own launcher does
        if max(y, z) > 65535:
            raise ValueError(
                f"{function.name}: a grid of {(x, y, z)}: CUDA has 65535 along y and z"
            )
        # Kernels outlive the driver that was there when they were loaded: ask the one of now.
        execute = driver.active.execute
        if execute is not None:
            execute(Call(function, self.source, (x, y, z), *split))


@contextlib.contextmanager
def pretended(
    arch: str,
    hook: Callable[..., bool] | None = None,
    execute: Callable[[Call], None] | None = None,
) -> Iterator[None]:
    """Launches within are for `arch`.

    With `hook` they end there, before compilation; else they are compiled and go to `execute`.
    """
    from triton import knobs
    from triton.runtime import driver

    from gaussreg_fast.backends.triton import launch

    room = launch.__package__
    answers = {"arch": lambda device: arch, "shared_memory": lambda device: ARCHS[arch][1]}
    here = Driver(arch, execute)
    with contextlib.ExitStack() as stack:
        for name, module in list(sys.modules.items()):
            if name == room or name.startswith(room + "."):
                for question in answers.keys() & vars(module).keys():
                    stack.enter_context(mock.patch.object(module, question, answers[question]))
        stack.enter_context(mock.patch.object(knobs.runtime, "jit_cache_hook", hook))
        stack.enter_context(
            mock.patch.object(knobs.runtime, "kernel_load_start_hook", here.announced)
        )
        # Not `set_active`, which could not take back that there was none.
        stack.enter_context(mock.patch.object(driver, "_active", here))
        yield
