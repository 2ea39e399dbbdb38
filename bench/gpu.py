"""The Gaussianity loss on a GPU, against the FFT pair, naive PyTorch and torch.compile.

    python bench/gpu.py --out bench/results/gpu.json               about six minutes
    python bench/gpu.py --tune --out bench/results/gpu_tune.json   the fused kernel's parameters

Each case is compared with the float64 reference first; a wrong one is not timed. Exit code 1: some
case FAILED; 2: no GPU. Predictions and how to read the result: bench/NOTES.md.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
import gpu_timing as timing
import torch
from gpu_cases import CASES, Case, by_hand, check, compiled, inputs, others, ours, turns
from gpu_timing import Calls
from torch import Tensor

COMPILE_SECONDS = 60.0
PREPARE_SECONDS = 150.0


# ---------------------------------------------------------------- rows


def ratios(us: dict[str, float], graph: dict[str, float]) -> dict[str, float]:
    """From medians: what the targets are about."""
    pairs = {
        "ours/fft": ("value_and_grad", "fft"),
        "naive/ours": ("naive", "value_and_grad"),
        "compile/ours": ("compile", "value_and_grad"),
        "naive/backward": ("naive", "loss_backward"),
        "compile/backward": ("compile", "loss_backward"),
        "ours/copy": ("value_and_grad", "copy"),
    }
    found = {name: us[a] / us[b] for name, (a, b) in pairs.items() if a in us and b in us}
    pairs = {"naive/ours graph": ("naive", "ours"), "compile/ours graph": ("compile", "ours")}
    return found | {n: graph[a] / graph[b] for n, (a, b) in pairs.items() if {a, b} <= set(graph)}


def verdicts(case: Case, values: dict[str, float]) -> dict[str, str]:
    """Each target with what became of it."""
    said = {}
    for name, (relation, bound) in case.targets.items():
        value = values.get(name)
        if value is None:
            said[name] = f"not measured (target {relation} {bound:g})"
        else:
            met = value <= bound if relation == "<=" else value >= bound
            said[name] = f"{value:.3g} ({'met' if met else 'MISSED'}: {relation} {bound:g})"
    return said


class Clock:
    """What `run_case` measures with; tests put their own in its place."""

    device = "cuda"
    events = staticmethod(timing.events)
    wall = staticmethod(timing.wall)
    captured = staticmethod(timing.captured)
    extra_memory = staticmethod(timing.extra_memory)
    cache_bytes = staticmethod(timing.cache_bytes)


def run_case(
    case: Case, clock: Any = Clock, backend: str = "triton", compile_seconds: float = 60.0
) -> dict[str, Any]:
    """One row: checked, then timed. Whatever goes wrong with ours makes it FAILED."""
    row: dict[str, Any] = {
        "case": case.name,
        "batch": case.batch,
        "dimension": case.dimension,
        "status": "FAILED",
        "not_measured": {},
    }
    try:
        row["errors"] = check(case, clock.device, backend)
        _measure(case, clock, backend, compile_seconds, row)
        row["status"] = "ok"
    except Exception as error:
        row["reason"] = f"{type(error).__name__}: {error}"[:500]
    return row


def _measure(case: Case, clock: Any, backend: str, seconds: float, row: dict[str, Any]) -> None:
    nbytes = case.batch * case.dimension * case.dtype.itemsize
    # One latent stays in the cache, as it does in the loop that optimises it.
    count = 1 if case.batch == 1 else timing.buffers(nbytes, clock.cache_bytes())
    xs = inputs(case, clock.device, count)
    mine, calls = ours(case, xs, backend), others(case, xs)
    row["extra_memory_bytes"] = {}
    for name, call in (*mine.items(), ("naive", calls["naive"])):
        xs[0].grad = None
        row["extra_memory_bytes"][name] = clock.extra_memory(call)
    calls = mine | calls
    try:
        calls["compile"] = compiled(case, xs, seconds)
    except Exception as error:
        row["not_measured"]["compile"] = f"{type(error).__name__}: {error}"[:300]
    row["device_us"], row["queue_us"], row["late_samples"] = clock.events(calls, count)
    row["summary_us"] = {name: timing.summary(s) for name, s in row["device_us"].items()}
    us = {name: s["median"] for name, s in row["summary_us"].items()}
    graph: dict[str, float] = {}
    if case.batch == 1:
        timed = {name: call for name, call in calls.items() if name != "copy"}
        row["wall_us"] = clock.wall(timed)
        row["summary_wall_us"] = {name: timing.summary(s) for name, s in row["wall_us"].items()}
        us = {name: s["median"] for name, s in row["summary_wall_us"].items()}
        graph = _graphs(case, clock, backend, row, "compile" in calls)
    row["ns_per_sample"] = row["summary_us"]["value_and_grad"]["median"] / case.batch * 1e3
    row["ratios"] = ratios(us, graph)
    values = row["ratios"] | {"eager us": us["value_and_grad"]}
    row["targets"] = verdicts(case, values | ({"graph us": graph["ours"]} if graph else {}))


def _graphs(
    case: Case, clock: Any, backend: str, row: dict[str, Any], with_compile: bool
) -> dict[str, float]:
    """Medians by the host's clock of one replay and a synchronize; ours is captured first."""
    plain = by_hand(case)
    makers: dict[str, Callable[[list[Tensor]], Callable[[int], Any]]] = {
        "ours": lambda xs: ours(case, xs, backend)["value_and_grad"],
        "ours backward": lambda xs: ours(case, xs, backend)["loss_backward"],
        "naive": lambda xs: turns(plain, xs),
    }
    if with_compile:
        makers["compile"] = lambda xs: turns(torch.compile(plain, dynamic=False), xs)
    replays: Calls = {}
    for name, make in makers.items():
        try:  # a leaf of its own: its gradient is then accumulated on the stream of the capture
            with timing.limit(COMPILE_SECONDS):
                replays[name] = clock.captured(make(inputs(case, clock.device, 1)))
        except (Exception, timing.OutOfTime) as error:
            if name == "ours":
                raise
            row["not_measured"][f"{name} graph"] = f"{type(error).__name__}: {error}"[:300]
    row["graph_wall_us"] = clock.wall(replays)
    row["graph_device_us"], *_ = clock.events(replays, 1)
    for key in ("graph_wall_us", "graph_device_us"):
        row[f"summary_{key}"] = {name: timing.summary(s) for name, s in row[key].items()}
    return {name: s["median"] for name, s in row["summary_graph_wall_us"].items()}


def lines(row: dict[str, Any]) -> list[str]:
    """A row for people."""
    if row["status"] != "ok":
        return [f"{row['case']}: {row['status']}: {row.get('reason', '')}"]
    worst = ", ".join(f"{name} {row['errors'][name]:.1e}" for name in ("value", "gradient"))
    text = [f"{row['case']}: {row['ns_per_sample']:.1f} ns/sample; errors: {worst}"]
    for key, what in (
        ("summary_us", "device us"),
        ("summary_wall_us", "wall us"),
        ("summary_graph_wall_us", "graph wall us"),
        ("summary_graph_device_us", "graph device us"),
    ):
        if key in row:
            shown = (
                f"{name} {s['median']:.1f} [{s['p10']:.1f}, {s['p90']:.1f}]"
                for name, s in row[key].items()
            )
            text.append(f"  {what}: " + ", ".join(shown))
    text.append("  ratios: " + ", ".join(f"{n} {r:.2f}" for n, r in row["ratios"].items()))
    memory = ((n, b / 2**20) for n, b in row["extra_memory_bytes"].items())
    text.append("  extra MiB: " + ", ".join(f"{name} {size:.1f}" for name, size in memory))
    queue = (f"{name} {row['queue_us'][name]:.0f}" for name in ("value_and_grad", "naive"))
    text.append("  us of Python a call: " + ", ".join(queue))
    for name, count in row["late_samples"].items():
        text.append(f"  {name}: the device may have waited for Python in {count} samples")
    text += [f"  target {name}: {said}" for name, said in row["targets"].items()]
    return text + [f"  {name}: not measured: {why}" for name, why in row["not_measured"].items()]


# ---------------------------------------------------------------- the run


def prepare_case(case: Case) -> None:
    xs = inputs(case, "cuda", 1)
    for call in ours(case, xs).values():
        call(0)
    compiled(case, xs, PREPARE_SECONDS)(0)
    torch.cuda.synchronize()


def run(options: Any) -> int:
    begin = time.monotonic()
    picked = [case for case in CASES if options.only in case.name]
    about = timing.facts()
    print(f"{about['device']}, torch {torch.__version__}, triton {about['triton']}", flush=True)
    timing.prepare(Path(__file__), [["--prepare", case.name] for case in picked], PREPARE_SECONDS)
    print(f"compiled ahead in {time.monotonic() - begin:.0f} s", flush=True)
    about["ceilings"] = timing.ceilings()
    shown = (f"{name} {value:.1f}" for name, value in about["ceilings"].items())
    print("ceilings: " + ", ".join(shown), flush=True)
    torch.cuda.empty_cache()
    rows: list[dict[str, Any]] = []
    for case in picked:
        left = options.minutes * 60 - (time.monotonic() - begin)
        if left < 10:
            rows.append({"case": case.name, "status": "not measured", "reason": "out of time"})
        else:
            rows.append(run_case(case, compile_seconds=min(COMPILE_SECONDS, left / 2)))
        torch.cuda.empty_cache()
        rows[-1]["clock_sm_after"] = timing.smi("clocks.sm")["clocks.sm"]
        rows[-1]["elapsed_s"] = round(time.monotonic() - begin, 1)
        print("\n".join(lines(rows[-1])), flush=True)
        common.save(
            options.out,
            benchmark="value and gradient on a GPU; medians of interleaved samples",
            **about,
            cases=rows,
        )
    failed = [row["case"] for row in rows if row["status"] == "FAILED"]
    print(f"{len(rows)} cases, FAILED: {', '.join(failed) or 'none'}", flush=True)
    return 1 if failed else 0


def main() -> int:
    parser = common.parser(__doc__)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--minutes", type=float, default=7.5, help="start no case after these")
    parser.add_argument("--tune", action="store_true", help="sweep launch parameters instead")
    parser.add_argument("--prepare", metavar="JOB", help="fill the compilers' caches, and end")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("bench/gpu.py measures on a GPU: torch.cuda.is_available() is False", file=sys.stderr)
        return 2
    if options.tune:
        import gpu_tune

        return gpu_tune.run(options)
    if options.prepare:
        prepare_case(next(case for case in CASES if case.name == options.prepare))
        return 0
    return run(options)


if __name__ == "__main__":
    sys.exit(main())
