"""Count the instructions of a call by executing them one by one, for processors without counters.

Virtual machines often hide the hardware's counters. A child process executes the call under
`ptrace`, and the parent looks at each instruction, some 50 microseconds each. Counts depend on the
compiler and the instruction set, and neither on the machine's load nor on its clock.

The call marks parts by reading the clock: `std::chrono::steady_clock` runs in the vDSO, a piece of
the kernel's code that is mapped into every process, and its address range is known.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.harness.errors import BadInput

_TRACE_ME, _SINGLE_STEP, _GET_REGISTERS = 0, 9, 12
_RIP = 16  # its place among the 27 words of `user_regs_struct`
# VEX and EVEX prefixes: vector instructions of AVX and later, and a few scalar ones of BMI.
_VECTOR = (0x62, 0xC4, 0xC5)

Counts = dict[str, int]  # "vector" and "scalar" -> instructions


def between_clocks(call: Callable[[], Any]) -> list[Counts]:
    """Execute the call in a child process; count each part between two looks at the clock.

    The first part begins with the call, the last ends with the last look.

    Raises:
        BadInput: the machine is no Linux on x86-64, or does not allow a process to trace its child.
    """
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise BadInput(f"counting instructions needs Linux on x86-64, got {platform.platform()}")
    child = os.fork()
    if child == 0:
        try:
            _ptrace(_TRACE_ME, 0)
            os.kill(os.getpid(), signal.SIGSTOP)
            call()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    if not os.WIFSTOPPED(status):
        raise BadInput("counting instructions needs ptrace, which this machine does not allow")
    return _parts(child)


def _parts(child: int) -> list[Counts]:
    low, high = _vdso(child)
    registers = (ctypes.c_ulonglong * 27)()
    kinds: dict[int, str] = {}
    parts: list[Counts] = []
    now: Counts = {"vector": 0, "scalar": 0}
    reading = False
    with open(f"/proc/{child}/mem", "rb", buffering=0) as memory:
        while True:
            _ptrace(_SINGLE_STEP, child)
            _, status = os.waitpid(child, 0)
            if not os.WIFSTOPPED(status):
                return parts
            _ptrace(_GET_REGISTERS, child, ctypes.byref(registers))
            address = registers[_RIP]
            was_reading, reading = reading, low <= address < high
            if reading:
                if not was_reading:
                    parts.append(now)
                    now = {"vector": 0, "scalar": 0}
                continue
            if address not in kinds:
                memory.seek(address)
                kinds[address] = "vector" if memory.read(1)[0] in _VECTOR else "scalar"
            now[kinds[address]] += 1


def _vdso(process: int) -> tuple[int, int]:
    """Return the addresses of the vDSO, first and behind the last."""
    for line in Path(f"/proc/{process}/maps").read_text(encoding="utf-8").splitlines():
        if line.endswith("[vdso]"):
            low, _, high = line.split()[0].partition("-")
            return int(low, 16), int(high, 16)
    raise BadInput("counting instructions needs a vDSO, which this machine's kernel does not have")


def _ptrace(request: int, process: int, data: Any = None) -> None:
    function = ctypes.CDLL(None).ptrace
    function.restype = ctypes.c_long
    if function(ctypes.c_long(request), ctypes.c_long(process), None, data) != 0:
        raise BadInput("counting instructions needs ptrace, which this machine does not allow")
