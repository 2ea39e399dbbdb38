"""Make the pages' tables from the committed runs, one device to a table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.gpu import plan, predictions, queue, record
from bench.gpu.predictions import BATCHES, ONES, Batch, One
from bench.gpu.record import best, errors, rows
from bench.gpu.run import RESULTS
from bench.gpu.stage import Row
from bench.harness import store
from bench.harness.text import digits, table, time_text
from bench.report.measure import typical
from bench.subjects.cases import parse

NOTHING = "**Not measured**: no run on a GPU is committed.\n"
Run = dict[str, Any]


def runs(folder: Path = RESULTS) -> list[Run]:
    """Read the committed runs, one for each device."""
    found = [record.read(path.parent) for path in sorted(folder.glob(f"*/{record.NAME}"))]
    return [run for run in found if run["machine"]["device"] != record.REHEARSAL]


def _where(run: Run) -> str:
    about = run["machine"]
    return (
        f"{about['device']}, driver {about['driver']}, torch {about['torch']}, triton "
        f"{about['triton']}, {run['date']}"
    )


def _each(text: Any, folder: Path) -> str:
    """Return a text for each run under its device's name, or say that there is none."""
    found = [f"\n{_where(run)}:\n\n{text(run)}" for run in runs(folder)]
    return "".join(found) + "\n" if found else NOTHING


# ---------------------------------------------------------------- README


def readme(folder: Path = RESULTS) -> str:
    """Return the short table of value and gradient."""
    return _each(_short, folder)


def _short(run: Run) -> str:
    head = ["batch, D", "ours", "FFT pair alone", "naive PyTorch", "torch.compile", "memory added"]
    lines = []
    for name, row in rows(run, "headline").items():
        if row["topic"] != "loss":
            continue
        us = typical(row)
        ours = us["value_and_grad"]
        cells = [f"{us[c] / ours:.2g}x" if c in us else "" for c in ("fft", "naive", "compile")]
        lines.append([_shape(name), time_text(ours), *cells, _memory(row)])
    return table(head, lines)


def _shape(name: str) -> str:
    case = parse(name)
    more = [str(case.dtype).removeprefix("torch."), case.permutation]
    usual = ["float32", "shared"]
    rest = [m for m, u in zip(more, usual, strict=True) if m != u]
    return ", ".join([f"{case.batch}", f"{case.dimension}", *rest])


def _memory(row: Row) -> str:
    """Format a call's peak of extra memory, its gradient included, as a multiple of the input."""
    extra = row["extra_memory_bytes"].get("value_and_grad")
    return "" if extra is None else f"{extra / parse(row['case']).nbytes:.2f}x the input"


# ---------------------------------------------------------------- docs: the GPU pages


def stages() -> str:
    """Return the table of a run's stages: expected and largest times, rows, compiled calls."""
    lines = []
    for stage in plan.FULL:
        parts = stage.parts()
        labels = sum(len(part.kernels) for part in parts)
        seconds = f"{stage.seconds:.0f}, at most {stage.at_most:.0f}"
        lines.append([f"`{stage.name}`", stage.title, seconds, str(len(parts)), str(labels)])
    return table(["stage", "", "seconds", "rows", "calls compiled ahead"], lines)


def compilation() -> str:
    """Return the seconds that the kernels of a run take to compile, and the longest."""
    content = store.read(queue.ESTIMATES, queue.WHAT)
    text = ""
    for release, archs in content["releases"].items():
        for arch, seconds in archs.items():
            longest = sorted(seconds.items(), key=lambda pair: -pair[1])[:3]
            named = ", ".join(f"`{name}` {s:.0f} s" for name, s in longest)
            text += (
                f"Triton {release}, {arch}: {len(seconds)} kernels, {sum(seconds.values()):.0f} s "
                f"on one core, {content['date']}; the longest are {named}.\n"
            )
    return text


def details(folder: Path = RESULTS) -> str:
    """Return all tables of a run."""
    return _each(lambda run: "\n".join(part for part in _sections(run) if part), folder)


def _sections(run: Run) -> list[str]:
    return [
        table(["stage", "state", "rows", "seconds"], _stages(run)),
        table(["ceiling", "measured"], _ceilings(run)),
        _headline(run),
        _latency(run),
        table(["call", "O(n²) covariance", "PRNO", "naive"], _others(run)),
        _worst_error(run),
        table(["D", "best launch parameters", "ns a sample", "of the time of those in use"],
              _tuned(run)),
        table(["Nsight Compute", "measured", "simulated"], _profiled(run)),
        table(["1e9 parameters in bfloat16", "time", "memory added"], _drift(run)),
        "".join(f"- {line}\n" for line in _missing(run)),
    ]  # fmt: skip


def _stages(run: Run) -> list[list[str]]:
    return [
        [name, s["state"], str(len(s["rows"])), f"{s['seconds']:.0f}"]
        for name, s in run["stages"].items()
    ]


def _ceilings(run: Run) -> list[list[str]]:
    found: dict[str, float] = {}
    for row in rows(run, "look").values():
        found |= row.get("ceilings", {})
    return [[name, f"{value:.4g}"] for name, value in found.items()]


def _headline(run: Run) -> str:
    calls = ("fft", "naive", "compile", "hand", "copy")
    head = ["batch, D", "ours", "ns a sample", "FFT pair", "naive", "compiled", "hand gradient",
            "copy", "targets missed"]  # fmt: skip
    lines = []
    for name, row in rows(run, "headline").items():
        us = typical(row)
        if row["topic"] != "loss":
            continue
        ours = us["value_and_grad"]
        against = [f"{digits(us[c] / ours)}x" if c in us else "not measured" for c in calls]
        targets = row.get("targets", {}).items()
        missed = [f"{name} {result}" for name, result in targets if "MISSED" in result]
        shown = [_shape(name), time_text(ours), f"{row['ns_per_sample']:.1f}"]
        lines.append([*shown, *against, "; ".join(missed) or "none"])
    return table(head, lines)


def _latency(run: Run) -> str:
    lines = []
    for name, row in rows(run, "headline").items():
        for clock in ("wall", "graph wall"):
            if clock in row.get("us", {}):
                shown = (f"{call} {time_text(us)}" for call, us in typical(row, clock).items())
                lines.append([_shape(name), clock, ", ".join(shown)])
    return table(["one latent", "clock", "one call and a synchronize"], lines)


def _others(run: Run) -> list[list[str]]:
    lines = []
    for name, row in rows(run, "headline").items():
        us = typical(row)
        ours = us.get("value_and_grad")
        if ours and row["topic"] == "growth":
            calls = ("covariance", "prno", "naive")
            lines.append(
                [_shape(name), *(f"{digits(us[c] / ours)}x" if c in us else "" for c in calls)]
            )
    return lines


def _worst_error(run: Run) -> str:
    compared = errors(run)
    if not compared:
        return ""
    return f"{len(compared)} results against float64: worst error {max(compared):.2e}.\n"


def _tuned(run: Run) -> list[list[str]]:
    lines = []
    for name, row in rows(run, "tuning").items():
        if found := best(row):
            fastest, share = found
            ns = f"{fastest['ns_per_sample']:.1f}"
            lines.append([name, fastest["name"], ns, f"{share:.3f}"])
    return lines


def _profiled(run: Run) -> list[list[str]]:
    return [
        [f"{part}: {name}", f"{m['measured']:.6g}", str(m.get("simulated", ""))]
        for part, row in rows(run, "extras").items()
        for name, m in row.get("metrics", {}).items()
    ]


def _drift(run: Run) -> list[list[str]]:
    row = rows(run, "extras").get("drift", {})
    memory = row.get("extra_memory_bytes", {})
    return [
        [name, time_text(s["median"]), f"{memory.get(name, 0) / 1e6:.1f} MB"]
        for name, s in row.get("summary_us", {}).items()
    ]


def _missing(run: Run) -> list[str]:
    return [
        f"{name}, {row['part']}: {row['status']}: {row.get('reason', '')}"
        for name, stage in run["stages"].items()
        for row in stage["rows"]
        if row["status"] != "ok"
    ]


# ---------------------------------------------------------------- bench/NOTES.md


def measured(case: str, run: Run) -> dict[str, float]:
    """Return a run's values of a prediction's figures."""
    row = rows(run, "headline").get(case)
    if row is None:
        return {}
    us, found = typical(row), dict(row["ratios"])
    if row["batch"] == 1:
        found["eager us"] = us["value_and_grad"]
        graph = typical(row, "graph wall")
        found |= {"graph us": graph["ours"]} if "ours" in graph else {}
        return found
    found["ours ns"] = row["ns_per_sample"]
    if "fft" in us:
        found["FFT pair ns"] = us["fft"] / row["batch"] * 1e3
    return found


def predicted(folder: Path = RESULTS) -> str:
    """Return the predictions, and for each device the measurements as multiples of them."""
    text = "".join(_predictions(rows_) for rows_ in (BATCHES, ONES))
    found = runs(folder)
    if not found:
        return text + "\nMeasured: nothing yet.\n"
    for run in found:
        text += f"\nMeasured on {_where(run)}; the multiple of the prediction in brackets:\n"
        text += "".join(_measured(rows_, run) for rows_ in (BATCHES, ONES))
    return text


def _head(figures: dict[str, float], kind: str) -> list[str]:
    return [kind, *figures]


def _kind(row: Batch | One) -> str:
    return "(B, D)" if isinstance(row, Batch) else "B = 1, D"


def _predictions(found: tuple[Batch, ...] | tuple[One, ...]) -> str:
    lines = []
    for row in found:
        cells = []
        for figure, value in row.figures.items():
            goal = predictions.target(row.case, figure)
            text = digits(value) + (f", {goal[1]:g}" if goal else "")
            cells.append(text + (" (!)" if predictions.misses(row.case, figure, value) else ""))
        lines.append([row.shape, *cells])
    return "\n" + table(_head(found[0].figures, _kind(found[0])), lines)


def _measured(found: tuple[Batch, ...] | tuple[One, ...], run: Run) -> str:
    lines = []
    for row in found:
        got = measured(row.case, run)
        cells = [
            f"{digits(got[figure])} ({got[figure] / value:.2f})"
            if figure in got
            else "not measured"
            for figure, value in row.figures.items()
        ]
        lines.append([row.shape, *cells])
    return "\n" + table(_head(found[0].figures, _kind(found[0])), lines)
