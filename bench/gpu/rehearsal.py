"""A pretended GPU: a replacement of `torch.cuda` on CPU tensors, as far as a run uses it.

Tensors on "cuda" are made on the CPU. Kernels are compiled and then executed by the simulator
(bench/simulator). Streams have nothing to order, events give the host's time, and a CUDA graph
replays the calls that it captured. So a run can be rehearsed from its first line to its last; its
times say nothing about a GPU.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from bench.compiled.pretended import Call, pretended
from bench.gpu.record import REHEARSAL

if TYPE_CHECKING:
    from bench.simulator import Simulation

ARCH = "sm_90"
MEMORY = 2**33  # bytes that the device claims to have
EMPTY, EMPTY_LIKE, NEW_EMPTY = torch.empty, torch.empty_like, torch.Tensor.new_empty
FACTS = {"name": REHEARSAL, "major": 9, "minor": 0, "multi_processor_count": 132}


class OnCpu(TorchFunctionMode):
    """Replaces "cuda" by the CPU wherever a function of torch gets a device.

    Tensors that are made there or moved there pass through `place`.
    """

    def __init__(self, place: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.place = place

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.Tensor.cuda:
            return self.place(args[0])
        if _is_gpu(kwargs.get("device")):
            kwargs["device"] = torch.device("cpu")
            result = func(*args, **kwargs)
            return self.place(result) if isinstance(result, Tensor) else result
        if func is torch.Tensor.to and any(map(_is_gpu, args)):
            rest = [torch.device("cpu") if _is_gpu(a) else a for a in args[1:]]
            return self.place(func(args[0], *rest, **kwargs))
        return func(*args, **kwargs)


def _is_gpu(device: Any) -> bool:
    return isinstance(device, str | torch.device) and str(device).startswith("cuda")


# ---------------------------------------------------------------- CUDA graphs


class Tape(TorchDispatchMode):
    """Records the calls of a capture in order; `replay` repeats them, into the same memory."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Callable[[], Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.removeprefix("aten::")
        if name in ("_local_scalar_dense", "nonzero", "is_nonzero"):
            raise RuntimeError(f"{name} reads a number from the device while a graph captures")
        result = func(*args, **kwargs)
        if not func.is_view and not name.startswith(("empty", "full", "detach")):
            self.calls.append(lambda: _overwrite(result, func(*args, **kwargs)))
        return result

    def replay(self) -> None:
        """Repeat all calls."""
        with torch.no_grad():
            for call in self.calls:
                call()


def _overwrite(before: Any, now: Any) -> None:
    """Copy results into the memory of the captured ones."""
    if isinstance(before, Tensor):
        if now is not before and before.numel():
            before.copy_(now)
    elif isinstance(before, tuple | list):
        for old, new in zip(before, now, strict=True):
            _overwrite(old, new)


class Graph:
    """Replacement of torch.cuda.CUDAGraph."""

    def __init__(self) -> None:
        self.tape = Tape()

    def replay(self) -> None:
        self.tape.replay()


# ---------------------------------------------------------------- torch.cuda


class Event:
    """Replacement of torch.cuda.Event, with the host's time."""

    def __init__(self, enable_timing: bool = False) -> None:
        self.at = 0.0

    def record(self, stream: Any = None) -> None:
        self.at = time.perf_counter()

    def query(self) -> bool:
        return False

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, end: Event) -> float:
        """Return the milliseconds from this event to `end`."""
        return max(1e-6, (end.at - self.at) * 1e3)


class Stream:
    """Replacement of torch.cuda.Stream."""

    def wait_stream(self, other: Any) -> None:
        pass

    def synchronize(self) -> None:
        pass


class Device:
    """The state of the pretended device: the graph that captures, and the launches so far."""

    def __init__(self, simulation: Simulation | None) -> None:
        self.launches = 0
        self._simulation, self._lock = simulation, threading.Lock()
        self._capturing: Tape | None = None

    def execute(self, call: Call) -> None:
        """Run a launch; launches from several threads run one after the other."""
        with self._lock:
            self.launches += 1
            if self._capturing is not None:
                self._capturing.calls.append(lambda: self._run(call))
            self._run(call)

    def _run(self, call: Call) -> None:
        if self._simulation is not None:
            memory = self._simulation.memory
            memory.indirect = "drift" in call.kernel.name  # drift reads a table of addresses
            with torch.utils._python_dispatch._disable_current_modes():
                self._simulation.execute(call)

    def place(self, x: Tensor) -> Tensor:
        """Copy a tensor into watched memory, unless it is there already or has a history."""
        if self._simulation is None or x.requires_grad or self._simulation.memory.holds(x):
            return x
        return self._simulation.memory.place(x)

    def errors(self) -> list[str]:
        """Return the races, accesses out of bounds and reads of unwritten memory so far."""
        launches = self._simulation.launches if self._simulation else []
        found: dict[str, str] = {}
        for launch in launches:
            found |= launch.errors()
        return list(found.values())

    @contextlib.contextmanager
    def graph(self, graph: Graph, *_: Any, **__: Any) -> Iterator[None]:
        """Replace torch.cuda.graph."""
        self._capturing = graph.tape
        try:
            with graph.tape:
                yield
        finally:
            self._capturing = None

    def answers(self) -> dict[str, Any]:
        """Return the replacements in `torch.cuda`, each a function of its own.

        torch.compile needs them to differ.
        """

        def number(value: Any) -> Callable[..., Any]:
            return lambda *_, **__: value

        return {
            "is_available": number(True),
            "device_count": number(1),
            "current_device": number(0),
            "get_device_name": number(REHEARSAL),
            "get_device_capability": number((9, 0)),
            "get_device_properties": number(
                SimpleNamespace(**FACTS, L2_cache_size=2**16, total_memory=MEMORY)
            ),
            "mem_get_info": number((MEMORY, MEMORY)),
            "memory_allocated": number(0),
            "max_memory_allocated": number(0),
            "reset_peak_memory_stats": number(None),
            "empty_cache": number(None),
            "synchronize": number(None),
            "_sleep": number(None),
            "current_stream": number(Stream()),
            "default_stream": number(Stream()),
            "set_stream": number(None),
            "stream": number(contextlib.nullcontext()),
            "get_rng_state": number(torch.zeros(16, dtype=torch.uint8)),
            "set_rng_state": number(None),
            "is_current_stream_capturing": lambda: self._capturing is not None,
            "Stream": Stream,
            "Event": Event,
            "CUDAGraph": Graph,
            "graph": self.graph,
        }


def _compile(real: dict[str, Any]) -> Callable[..., Any]:
    """Wrap torch.compile to see the real `torch.cuda`, because it uses more than is replaced."""
    compiler = torch.compile

    def compile(call: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        compiled = compiler(call, **options)

        def run(*args: Any, **kwargs: Any) -> Any:
            with (
                mock.patch.multiple(torch.cuda, **real),
                mock.patch.multiple(torch, empty=EMPTY, empty_like=EMPTY_LIKE),
                mock.patch.object(torch.Tensor, "new_empty", NEW_EMPTY),
                torch.overrides._pop_mode_temporarily(),
            ):
                return compiled(*args, **kwargs)

        return run

    return compile


@contextlib.contextmanager
def torch_cuda(device: Device) -> Iterator[None]:
    """Replace `torch.cuda` by this device, and the package's "auto" by its triton backend."""
    from gaussreg_fast.backends import choice

    def automatic(_: torch.device, dtype: torch.dtype | None) -> str:
        return "torch" if dtype == torch.float64 else "triton"

    with contextlib.ExitStack() as stack:
        answers = device.answers()
        real = {name: getattr(torch.cuda, name) for name in answers}
        stack.enter_context(mock.patch.multiple(torch.cuda, **answers))
        stack.enter_context(mock.patch.object(torch, "compile", _compile(real)))
        stack.enter_context(mock.patch.object(choice, "_automatic", automatic))
        stack.enter_context(mock.patch.object(choice, "interpreted", return_value=True))
        stack.enter_context(mock.patch.object(choice, "triton_state", return_value="available"))
        stack.enter_context(OnCpu(device.place))
        yield


@contextlib.contextmanager
def rehearsed() -> Iterator[Device]:
    """Execute all launches in the body in the simulator.

    Raises:
        Unsupported: the simulator does not know an instruction.
        CompilerMissing: there is no C++ compiler to build the simulator.
    """
    from bench.simulator import Schedule, simulated

    with simulated(Schedule(), ARCH) as simulation:
        device = Device(simulation)
        with pretended(ARCH, execute=device.execute), torch_cuda(device):
            yield device


@contextlib.contextmanager
def noting(hook: Callable[..., bool], arch: str) -> Iterator[None]:
    """End launches at Triton's hook before compilation: see `bench.compiled.pretended`."""
    with pretended(arch, hook), torch_cuda(Device(None)):
        yield
