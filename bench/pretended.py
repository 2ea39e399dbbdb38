"""A device that is not there: the package launches for it, and nothing runs."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

# Architecture -> what Triton calls it, and the bytes of shared memory that a program may have.
ARCHS = {
    "sm_80": (("cuda", 80, 32), 163 * 1024),
    "sm_90": (("cuda", 90, 32), 227 * 1024),
    "sm_100": (("cuda", 100, 32), 227 * 1024),
    "gfx942": (("hip", "gfx942", 64), 64 * 1024),
}


class Driver:
    """A GPU's driver, as far as a launch asks it before it compiles."""

    def __init__(self, arch: str):
        from triton.backends.compiler import GPUTarget

        self.arch, self.target = arch, GPUTarget(*ARCHS[arch][0])

    def get_current_device(self) -> str:
        return self.arch

    def get_current_stream(self, device: str) -> int:
        return 0

    def get_current_target(self) -> Any:
        return self.target


@contextlib.contextmanager
def pretended(arch: str, hook: Callable[..., bool] | None = None) -> Iterator[None]:
    """Launches within are for `arch`, and `hook` is called instead of compiling."""
    from triton import knobs
    from triton.runtime import driver

    import gaussreg_fast.launch

    room = gaussreg_fast.launch.__name__
    answers = {"arch": lambda device: arch, "shared_memory": lambda device: ARCHS[arch][1]}
    with contextlib.ExitStack() as stack:
        for name, module in list(sys.modules.items()):
            if name == room or name.startswith(room + "."):
                for question in answers.keys() & vars(module).keys():
                    stack.enter_context(mock.patch.object(module, question, answers[question]))
        stack.enter_context(mock.patch.object(knobs.runtime, "jit_cache_hook", hook))
        driver.set_active(Driver(arch))
        yield
