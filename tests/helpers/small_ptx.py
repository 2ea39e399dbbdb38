"""Kernels written by hand, for the tests of the simulator."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest

from bench.simulator import core
from bench.simulator.core import Execution, Kind, Region, Schedule
from bench.simulator.program import Program
from bench.simulator.reader import read

needs_compiler = pytest.mark.skipif(
    not any(shutil.which(name) for name in ("g++", "c++", "clang++")),
    reason="the simulator is built with a C++ compiler, and there is none",
)

KERNEL = """.version 8.7
.target sm_90a
.address_size 64
.extern .shared .align 16 .b8 global_smem[];
.visible .entry small(
	.param .u64 .ptr .global .align 1 small_param_0,
	.param .u64 .ptr .global .align 1 small_param_1
)
.reqntid {threads}
{{
	.reg .pred %p<20>;
	.reg .b16 %rs<40>;
	.reg .b32 %r<40>;
	.reg .b64 %rd<40>;
	.loc 1 7 3
	ld.param.b64 %rd1, [small_param_0];
	ld.param.b64 %rd2, [small_param_1];
	mov.u32 %r1, %tid.x;
{body}
	ret;
}}
	.file 1 "/where/small.py"
"""


@dataclass
class Ran:
    program: Program
    execution: Execution
    out: np.ndarray
    kinds: set[Kind] = field(init=False)

    def __post_init__(self) -> None:
        self.kinds = {finding.kind for finding in self.execution.findings}

    def total(self, counter: str) -> int:
        return int(getattr(self.execution, counter).sum())


@functools.cache
def program(body: str, threads: int = 32) -> Program:
    return read(KERNEL.format(body=body, threads=threads))


def aligned(size: int) -> np.ndarray:
    """Bytes at an address that is a multiple of 256, as those of tensors are."""
    memory = np.zeros(size + 256, np.uint8)
    start = -memory.ctypes.data % 256
    return memory[start : start + size]


def run(
    body: str,
    *,
    threads: int = 32,
    programs: int = 1,
    shared: int = 65536,
    given: np.ndarray | None = None,
    words: int = 2048,
    unwritten: bool = True,
    schedule: Schedule = Schedule(),  # noqa: B008 - frozen
) -> Ran:
    """Runs a kernel with %rd1 the address of `words` numbers to write, and %rd2 that of `given`."""
    out = aligned(4 * words)
    bits = np.ones(out.size, np.uint8) if unwritten else None
    regions = [Region(out.ctypes.data, out.size, bits)]
    source = aligned(4 if given is None else given.nbytes)
    if given is not None:
        source[:] = given.reshape(-1).view(np.uint8)
    regions.append(Region(source.ctypes.data, source.size))
    small = program(body, threads)
    addresses: Sequence[int] = (out.ctypes.data, source.ctypes.data)
    execution = core.execute(small, (programs, 1, 1), shared, addresses, regions, schedule)
    return Ran(small, execution, out.view(np.int32))


# Stores %r9 of each thread, one after the other.
STORE = "mul.wide.u32 %rd20, %r1, 4; add.s64 %rd21, %rd1, %rd20; st.global.b32 [%rd21], %r9;"
