"""The last stage: the drift of 1e9 parameters, a kernel under Nsight Compute, the digits loop."""

from __future__ import annotations

import csv
import importlib.util
import io
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch

import gaussreg_fast as gf
from bench.gpu import programs
from bench.gpu.stage import LeftOut, Part, Row
from bench.harness import timing
from bench.harness.samples import Calls, summary
from bench.simulator import records

# (numbers, tensors) of a list.
FULL_LIST, SMALL_LIST = (10**9, 40), (4000, 3)
# Nsight Compute's metric of a launch -> the simulator's count of the same, if it has one.
METRICS = {
    "smsp__inst_executed.sum": "machine",
    "l1tex__data_pipe_lsu_wavefronts_mem_shared.sum": "wavefronts",
    "lts__t_sectors_op_read.sum": "sectors_read",
    "lts__t_sectors_op_write.sum": "sectors_written",
    "launch__registers_per_thread": "registers",
    "gpu__time_duration.sum": "",
    "sm__warps_active.avg.pct_of_peak_sustained_active": "",
    "smsp__issue_active.avg.pct_of_peak_sustained_active": "",
    "dram__bytes.sum": "",
}
UNITS = {"usecond": 1e3, "us": 1e3, "msecond": 1e6, "ms": 1e6, "Kbyte": 1e3, "Mbyte": 1e6}
DIGITS = ("diffusers", "transformers", "pydantic", "scipy")


def parts(small: bool) -> list[Part]:
    drift = {"drift": partial(_lists_called, *SMALL_LIST)}
    return [
        Part("drift", partial(_drift, *(SMALL_LIST if small else FULL_LIST)), 10, drift),
        Part("profile, one sample", partial(_profile, "sd-1"), 20),
        Part("profile, two waves", partial(_profile, "sd-256"), 20),
        Part("digits", partial(_digits, "cpu" if small else "cuda"), 30),
    ]


# ---------------------------------------------------------------- drift


def _lists(numbers: int, tensors: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Make parameters and their base, in bfloat16."""
    size = numbers // tensors

    def filled(at: float) -> list[torch.Tensor]:
        options: dict[str, Any] = {"dtype": torch.bfloat16, "device": "cuda"}
        return [torch.full((size,), at, **options) for _ in range(tensors)]

    return filled(0.5), filled(0.25)


def _calls(params: list[torch.Tensor], base: list[torch.Tensor]) -> Calls:
    def foreach(_: int) -> Any:
        """Compute value and gradients as users do, with torch's functions for lists."""
        gaps = torch._foreach_sub(params, base)
        value = torch.stack(torch._foreach_norm(gaps)).float().square().sum()
        torch._foreach_mul_(gaps, 2.0)
        return value, gaps

    return {
        "value": lambda _: gf.parameter_drift(params, base),
        "value_and_grad": lambda _: gf.parameter_drift_value_and_grad(params, base),
        "foreach": foreach,
    }


def _lists_called(numbers: int, tensors: int) -> None:
    for name, call in _calls(*_lists(numbers, tensors)).items():
        if name != "foreach":
            call(0)


def _drift(numbers: int, tensors: int, allowed: float) -> Row:
    params, base = _lists(numbers, tensors)
    calls = _calls(params, base)
    value, grads = calls["value_and_grad"](0)
    want = 0.0625 * (numbers // tensors * tensors)  # the sum of (0.5 - 0.25)^2
    if not abs(float(value) / want - 1) < 1e-4:
        return {"status": "FAILED", "reason": f"value {float(value):.6g}, expected {want:.6g}"}
    memory = {name: timing.GpuClock.extra_memory(call) for name, call in calls.items()}
    del grads
    samples = timing.GpuClock.timed(calls, 1, min(4.0, allowed / 3)).samples
    return {
        "numbers": numbers,
        "us": samples,
        "summary_us": {name: summary(each) for name, each in samples.items()},
        "extra_memory_bytes": memory,
    }


# ---------------------------------------------------------------- Nsight Compute


def _profile(case: str, allowed: float) -> Row:
    """Profile the fused kernel; put its counters beside the simulator's."""
    words = ["ncu", "--csv", "--page", "raw", "--print-units", "base"]
    words += ["--kernel-name", "regex:^fused", "--metrics", ",".join(METRICS)]
    words += ["--target-processes", "all", "--launch-count", "1"]
    words += ["--profile-from-start", "off", "--clock-control", "none"]
    words += [sys.executable, "-m", "bench", "profile", "--case", case, "--bare", "--repeats", "1"]
    measured = metrics(programs.output(words, allowed - 1))
    batch = int(case.partition("-")[2])
    counts = simulated("gradient D=16384 batch=1", "fused")
    beside = {
        name: {"measured": value, "simulated": counts[ours] * (1 if ours == "registers" else batch)}
        if (ours := METRICS[name]) in counts
        else {"measured": value}
        for name, value in measured.items()
    }
    return {"kernel": "fused", "metrics": beside, "absent": sorted(METRICS.keys() - beside.keys())}


def simulated(case: str, launch: str) -> dict[str, int]:
    """Return the committed counts of a launch, for this release of Triton, else for the newest."""
    import triton

    releases = records.read(records.RECORD)
    release = triton.__version__ if triton.__version__ in releases else list(releases)[-1]
    counts: dict[str, int] = releases[release]["sm_90"][case][launch]["counts"]
    return counts


def metrics(printed: str) -> dict[str, float]:
    """Parse `METRICS` from `ncu --csv --page raw`, which prints names, units and rows."""
    start = next((k for k, x in enumerate(printed.splitlines()) if x.startswith('"ID"')), None)
    if start is None:
        raise RuntimeError(f"ncu printed no table: {printed.strip()[-400:]}")
    head, units, *rows = csv.reader(io.StringIO("\n".join(printed.splitlines()[start:])))
    if not rows:
        raise RuntimeError("ncu profiled no kernel of this name")
    found = {}
    for name, unit, value in zip(head, units, rows[0], strict=False):
        if name in METRICS and value:
            found[name] = float(value.replace(",", "")) * UNITS.get(unit, 1.0)
    return found


# ---------------------------------------------------------------- digits


def _digits(device: str, allowed: float) -> Row:
    """Run the latent-optimisation loop with the embedded model."""
    if missing := [name for name in DIGITS if importlib.util.find_spec(name) is None]:
        raise LeftOut(f"the digits model needs {', '.join(missing)}")
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "-m", "gaussreg_fast", "optimize", "--model", "digits"]
        words += ["--out", str(Path(folder) / "run"), "--device", device, "--seeds", "2"]
        words += ["--prompt", "a handwritten three", "--reward", "digits-ink", "--guard", "mpgr"]
        words += ["--held-out", "digits-class-a", "--iterations", "5"]
        # In a rehearsal one thread, because compilers use the other cores.
        threads = {"OMP_NUM_THREADS": "1"} if device == "cpu" else {}
        printed = programs.output(words, allowed - 1, **threads)
    return {"printed": printed.splitlines()[-12:]}
