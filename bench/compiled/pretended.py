"""A driver that stands in for a GPU's, at the end of Triton's launch path.

A launch ends at a hook before its compilation (if only its parameters are needed), or it is
compiled and goes to a function that executes it elsewhere (bench/simulator), or to none.
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

# Architecture -> Triton's name of it, and the bytes of shared memory that a program may have.
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
        name: the kernel's name.
        files: Triton's compiled files by their endings.
        shared: bytes of shared memory.
    """

    name: str
    files: dict[str, Path]
    shared: int

    def text(self, ending: str) -> str:
        """Read a file in text form, such as "ptx"."""
        return self.files[ending].read_text(encoding="utf-8")


@dataclass(frozen=True)
class Call:
    """A launch as the driver gets it.

    Attributes:
        kernel: the compiled kernel.
        source: file of the kernel's function. The compiled code may name another, because Triton's
            cache survives a checkout that moves.
        grid: number of programs along each axis.
        arguments: the binary's arguments by name.
        constants: the kernel's constant arguments by name.
    """

    kernel: Loaded
    source: str
    grid: tuple[int, int, int]
    arguments: dict[str, Any]
    constants: dict[str, Any]


class Driver:
    """The part of a GPU's driver that a launch uses."""

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
        """Raise, because `triton.autotune` needs a device to time on."""
        raise RuntimeError("triton.autotune times its configurations: it needs a device")

    def announced(self, module: Any, function: Any, name: str, files: Any, key: str) -> None:
        """Note a kernel's files; Triton's hook gets them, but the driver does not."""
        self._files = dict(files)

    def _load(self, name: str, binary: bytes, shared: int, device: str) -> tuple[Any, ...]:
        """Load a kernel: return module, function, registers, spills, and the most threads."""
        files = {Path(path).suffix.removeprefix("."): Path(path) for path in self._files.values()}
        return object(), Loaded(name, files, shared), 0, 0, 1024


class Launcher:
    """The launcher that Triton makes once per compiled kernel and calls for every launch."""

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
            return  # an empty grid launches nothing, like with Triton's own launcher
        if max(y, z) > 65535:
            raise ValueError(
                f"{function.name}: a grid must be at most 65535 along y and z, got {(x, y, z)}"
            )
        # Asks the present driver, because kernels outlive the one that loaded them.
        execute = driver.active.execute
        if execute is not None:
            execute(Call(function, self.source, (x, y, z), *split))


@contextlib.contextmanager
def pretended(
    arch: str,
    hook: Callable[..., bool] | None = None,
    execute: Callable[[Call], None] | None = None,
) -> Iterator[None]:
    """Make launches in the body target `arch`.

    With `hook` they end there, before compilation; otherwise they are compiled and go to `execute`.
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
        # Patched, because `set_active` could not restore that there was none.
        stack.enter_context(mock.patch.object(driver, "_active", here))
        yield
